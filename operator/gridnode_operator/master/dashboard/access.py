"""Who may open which page: one table of scopes by endpoint. What is not in it nobody may."""

from __future__ import annotations

from typing import Final

from gridnode_operator.master.keys.access import Scope

_ADMIN: Final[frozenset[Scope]] = frozenset({"admin"})
_OWNERS: Final[frozenset[Scope]] = frozenset({"notebook", "admin"})

#: Scopes of keys with which one may sign in; an app's is on many phones, and a node's is for no person.
SIGN_IN: Final = _OWNERS

#: Endpoints of the blueprint that need no session.
PUBLIC: Final = frozenset({"static", "login", "sign_in", "oidc", "oidc_callback", "missing"})

#: Scopes by endpoint of the blueprint, for all others.
PAGES: Final[dict[str, frozenset[Scope]]] = {
    "overview": _OWNERS,
    "nodes": _OWNERS,
    "node": _OWNERS,
    "models": _OWNERS,
    "model": _OWNERS,
    "checkpoint": _OWNERS,
    "datasets": _OWNERS,
    "finished": _OWNERS,
    "finished_content": _OWNERS,
    "retry_finished": _ADMIN,
    "events": _OWNERS,
    "keys": _OWNERS,
    "create_key": _OWNERS,
    "revoke_key": _OWNERS,
    "stream": _OWNERS,
    "sign_out": _OWNERS,
}
