"""Who may do what: one table of scopes by endpoint. What is not in it nobody may."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

Scope = Literal["app", "notebook", "node", "admin"]
SCOPES: Final = get_args(Scope)

_ANYONE: Final[frozenset[Scope]] = frozenset(SCOPES)
_ADMIN: Final[frozenset[Scope]] = frozenset({"admin"})
_OWNERS: Final[frozenset[Scope]] = frozenset({"notebook", "admin"})
_APPS: Final[frozenset[Scope]] = frozenset({"app", "notebook", "admin"})
_NODES: Final[frozenset[Scope]] = frozenset({"node", "admin"})


@dataclass(frozen=True, slots=True)
class Rule:
    """Who may call an endpoint.

    Attributes:
        scopes: Of keys that may.
        public: Whether it needs no key at all.
        legacy: Whether the switch for clients of 2020 opens it to callers without a key.
    """

    scopes: frozenset[Scope]
    public: bool = False
    legacy: bool = False


_PUBLIC: Final = Rule(_ANYONE, public=True)

#: Rules by Flask endpoint.
RULES: Final[dict[str, Rule]] = {
    # The API of 2020
    "running": _PUBLIC,
    "info": Rule(_APPS),
    "model_progress": Rule(_NODES, legacy=True),
    "model_loss": Rule(_APPS, legacy=True),
    "create": Rule(_OWNERS, legacy=True),
    "delete": Rule(_OWNERS, legacy=True),
    "generate_key": Rule(_OWNERS, legacy=True),
    "get_datasets": Rule(_OWNERS, legacy=True),
    # Health
    "readyz": _PUBLIC,
    # The API of today
    "v1_openapi": _PUBLIC,
    "v1_whoami": Rule(_ANYONE),
    "v1_overview": Rule(_OWNERS),
    "v1_nodes": Rule(_OWNERS),
    "v1_node": Rule(_OWNERS),
    "v1_models": Rule(_OWNERS),
    "v1_model": Rule(_OWNERS),
    "v1_model_cycles": Rule(_OWNERS),
    "v1_model_losses": Rule(_OWNERS),
    "v1_checkpoint": Rule(_OWNERS),
    "v1_progress": Rule(_OWNERS),
    "v1_events": Rule(_OWNERS),
    "v1_stream": Rule(_OWNERS),
    "v1_datasets": Rule(_OWNERS),
    "v1_create_dataset": Rule(_OWNERS),
    "v1_dataset": Rule(_OWNERS),
    "v1_delete_dataset": Rule(_OWNERS),
    "v1_register_model": Rule(_OWNERS),
    "v1_keys": Rule(_OWNERS),
    "v1_create_key": Rule(_OWNERS),
    "v1_revoke_key": Rule(_OWNERS),
    # Devices get each checkpoint from their node anyway: an app may have the last one, too.
    "v1_finished_models": Rule(_APPS),
    "v1_finished_model": Rule(_APPS),
    "v1_finished_content": Rule(_APPS),
    "v1_retry_finished": Rule(_ADMIN),
}


@dataclass(frozen=True, slots=True)
class Principal:
    """Whoever calls.

    Attributes:
        scope: Of the key.
        owner: For whom the key acts; None for admin and node, and for callers of 2020 without a key.
        node_id: The only node that a node's key speaks for; None is any.
        key_id: Row of the key; None where there is none.
        legacy: Whether it has no key and is let in by the switch.
    """

    scope: Scope
    owner: str | None = None
    node_id: str | None = None
    key_id: int | None = None
    legacy: bool = False

    @property
    def sees_all(self) -> bool:
        """Whether it sees what belongs to anybody."""
        return self.scope == "admin"
