"""What a reconcile wants of the database server: a GridNode's schema and login, its password, its end, its share.

Asking costs a connection or two, so an answer holds for a while; whatever changes the question asks anew.
"""

from __future__ import annotations

import base64
import hashlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from gridnode_operator.api import (
    ADOPT_ANNOTATION,
    DATABASE_ADMIN_LABEL,
    ROTATION_ANNOTATION,
    GridNode,
    SecretKey,
)
from gridnode_operator.database import (
    AdminDatabase,
    Budget,
    DatabaseError,
    DatabaseRefused,
    Login,
    Tenant,
    connection_demand,
)
from gridnode_operator.desired.environment import DATABASE_URL_KEY
from gridnode_operator.desired.names import DatabaseNames, database_names
from gridnode_operator.status import BUDGET_REASON, DatabaseObservation, Problem, is_ready

Object = Mapping[str, Any]
ReadSecret = Callable[[str], Object | None]

#: Seconds that an answer holds.
_ANSWER_HOLDS: Final = 30.0
_ANSWER_OF_THE_READY_HOLDS: Final = 600.0
#: Seconds after which sessions of a replaced login are looked for again.
RETIRE_INTERVAL: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What the server said.

    Attributes:
        observation: For the status.
        url: Of the node's login, to be put into its Secret; None if there is none.
        rotation: The wish for a new password that the URL follows, as a hash; empty if none was ever made.
        has_other_login: Whether there is another login: one that was replaced, or that an interrupted rotation left.
        done: What was done, for people: pairs of an Event's reason and message.
    """

    observation: DatabaseObservation
    url: str | None
    rotation: str = ""
    has_other_login: bool = False
    done: tuple[tuple[str, str], ...] = ()


class Tenants:
    """All GridNodes' shares of all database servers.

    Args:
        default_url: Of the administrator's login for GridNodes that name none; None if there is none.
        installation: Part of the names on the server, see :func:`.database_names`.
        read_secret: Reads a Secret of the operator's namespace.
        connect: Makes an :class:`AdminDatabase` of a URL.
        clock: Seconds.
    """

    def __init__(
        self,
        *,
        default_url: str | None,
        installation: str,
        read_secret: ReadSecret,
        connect: Callable[[str], AdminDatabase] = AdminDatabase,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._default_url = default_url
        self._installation = installation
        self._read_secret = read_secret
        self._connect = connect
        self._clock = clock
        self._lock = threading.Lock()
        self._answers: dict[str, tuple[object, float, Prepared]] = {}
        self._demands: dict[str, tuple[tuple[str, str], int]] = {}
        self._budgets: dict[tuple[str, str], tuple[float, Budget]] = {}

    def prepare(self, gridnode: GridNode, secret: Object | None, *, migrated: bool) -> Prepared:
        """Have schema and login, and give the node another login if a new password is wished.

        Args:
            gridnode: Whose.
            secret: The node's live Secret with the URL; None if there is none.
            migrated: Whether the migration has succeeded.
        """
        version = secret["metadata"]["resourceVersion"] if secret is not None else None
        spec = gridnode.spec.database
        question = (gridnode.uid, spec, _demand(gridnode), gridnode.annotations, version, migrated)
        with self._lock:
            asked, since, answer = self._answers.get(gridnode.key, (None, 0.0, None))
        if answer is not None and asked == question:
            age = self._clock() - since
            # Pods that are in service have sessions: what is wrong with the login or the schema shows there first.
            if age < _ANSWER_HOLDS or (
                age < _ANSWER_OF_THE_READY_HOLDS and is_ready(gridnode) and self.answers(gridnode)
            ):
                return answer
        answer = self._ask(gridnode, secret)
        with self._lock:
            self._answers.pop(gridnode.key, None)
            if answer.observation.problem is None:
                self._answers[gridnode.key] = (question, self._clock(), replace(answer, done=()))
        return answer

    def retire(self, gridnode: GridNode, url: str) -> bool:
        """Drop the login that was replaced; to be called when all pods use ``url``. A wished rotation may wait for it.

        Returns:
            Whether it is gone. Sessions may still use it.
        """
        login = Login.in_url(url)
        if login is None:
            return True
        try:
            is_gone = self._admin(gridnode).retire(self._tenant(gridnode), login.name)
        except (DatabaseError, ValueError):
            return False
        if is_gone:
            with self._lock:
                self._answers.pop(gridnode.key, None)
        return is_gone

    def look(self, gridnode: GridNode, secret: Object | None) -> DatabaseObservation:
        """The same without changing anything, for a GridNode that is paused."""
        tenant = self._tenant(gridnode)
        known = _login(secret)
        if known is None:
            problem = Problem("NotPrepared", "There is no Secret with the node's login, and spec.paused is set.")
            return DatabaseObservation(schema=tenant.schema, problem=problem)
        try:
            return DatabaseObservation(schema=tenant.schema, revision=self._admin(gridnode).look(tenant, known))
        except DatabaseError as error:
            return DatabaseObservation(schema=tenant.schema, problem=Problem(error.reason, error.message))

    def leave(self, gridnode: GridNode) -> tuple[str, ...]:
        """Drop the schema, or leave it for a later GridNode of the same name, as the reclaim policy says.

        Raises:
            DatabaseError: the server does not answer, or refuses.
        """
        admin, tenant = self._admin(gridnode), self._tenant(gridnode)
        done = admin.drop(tenant) if gridnode.spec.database.reclaim_policy == "Delete" else admin.release(tenant)
        self.forget(gridnode.key)
        return done

    def forget(self, key: str) -> None:
        """The GridNode ``namespace/name`` is gone."""
        with self._lock:
            self._answers.pop(key, None)
            self._demands.pop(key, None)

    def count(self, gridnode: GridNode) -> None:
        """Take note of the connections that a GridNode needs."""
        try:
            server = self._admin(gridnode).server
        except DatabaseError:
            return
        with self._lock:
            self._demands[gridnode.key] = (server, _demand(gridnode))

    def answers(self, gridnode: GridNode) -> bool:
        """Whether the GridNode's database server lets the administrator in, asked once for all GridNodes on it."""
        try:
            self._budget(self._admin(gridnode))
        except DatabaseError:
            return False
        return True

    def budget_warning(self, gridnode: GridNode) -> Problem | None:
        """Whether the GridNodes on this one's server may need more connections than it has."""
        try:
            admin = self._admin(gridnode)
            budget = self._budget(admin)
        except DatabaseError:
            return None
        with self._lock:
            demand = sum(needed for server, needed in self._demands.values() if server == admin.server)
        if demand <= budget.usable:
            return None
        return Problem(
            BUDGET_REASON,
            f"All GridNodes on this database server may need {demand} connections, and it has {budget.usable}. "
            "Lower replicas, processesPerPod or database.poolSize, or raise max_connections.",
        )

    def _ask(self, gridnode: GridNode, secret: Object | None) -> Prepared:
        url = secret_value(secret, DATABASE_URL_KEY)
        rotation = _annotation(secret, ROTATION_ANNOTATION)
        schema = self._names(gridnode).schema
        try:
            admin, tenant = self._admin(gridnode), self._tenant(gridnode)
            adopt = gridnode.annotations.get(ADOPT_ANNOTATION) == "true"
            ensured = admin.ensure(tenant, _login(secret), adopt=adopt)
            done = [("Adopted", f"Took over the schema {tenant.schema} with its models.")] if ensured.adopted else []
            credentials, wish = ensured.credentials, wished_rotation(gridnode)
            has_other_login = ensured.has_other_login
            if url is None:
                rotation = wish
            # There may be pods with the password of before the rotation before, in sessions or about to begin one.
            elif wish != rotation and not tenant.iam and not has_other_login:
                credentials, rotation, has_other_login = admin.rotate(tenant, credentials.login), wish, True
                done.append(("Rotated", f"The node has a new password; its login is {credentials.login} now."))
        except DatabaseError as error:
            problem = Problem(error.reason, error.message)
            observation = DatabaseObservation(schema=schema, problem=problem)
            return Prepared(observation=observation, url=url, rotation=rotation)
        observation = DatabaseObservation(schema=tenant.schema, revision=ensured.revision)
        return Prepared(
            observation=observation, url=credentials.url, rotation=rotation, has_other_login=has_other_login,
            done=tuple(done),
        )  # fmt: skip

    def _budget(self, admin: AdminDatabase) -> Budget:
        with self._lock:
            expires, budget = self._budgets.get(admin.server, (0.0, None))
        if budget is None or self._clock() >= expires:
            budget = admin.budget()
            with self._lock:
                self._budgets[admin.server] = (self._clock() + _ANSWER_HOLDS, budget)
        return budget

    def _admin(self, gridnode: GridNode) -> AdminDatabase:
        reference = gridnode.spec.database.admin_secret_ref
        if reference is not None:
            return self._connect(self._named_url(reference))
        if self._default_url is None:
            message = (
                "The operator has no database of its own: name an administrator's in spec.database.adminSecretRef."
            )
            raise DatabaseRefused("NoDatabase", message)
        return self._connect(self._default_url)

    def _named_url(self, reference: SecretKey) -> str:
        secret = self._read_secret(reference.name)
        # Who may write GridNodes must not be able to have any Secret of the operator's namespace used.
        if secret is None or (secret["metadata"].get("labels") or {}).get(DATABASE_ADMIN_LABEL) != "true":
            message = (
                f"There is no Secret {reference.name} in the operator's namespace with the label "
                f"{DATABASE_ADMIN_LABEL}=true."
            )
            raise DatabaseRefused("NoAdminSecret", message)
        url = secret_value(secret, reference.key)
        if url is None:
            raise DatabaseRefused("NoAdminSecret", f"The Secret {reference.name} has no key {reference.key}.")
        return url

    def _tenant(self, gridnode: GridNode) -> Tenant:
        names = self._names(gridnode)
        return Tenant(
            gridnode=names.gridnode,
            uid=gridnode.uid,
            schema=names.schema,
            owner=names.owner,
            logins=names.logins,
            iam=gridnode.spec.database.iam_authentication,
            connection_limit=_demand(gridnode),
        )

    def _names(self, gridnode: GridNode) -> DatabaseNames:
        return database_names(
            gridnode.namespace, gridnode.name, schema=gridnode.spec.database.schema, installation=self._installation
        )


def wished_rotation(gridnode: GridNode) -> str:
    """A hash of what asks for a new password; empty if nothing ever did."""
    return hashlib.sha256(gridnode.rotation.encode()).hexdigest()[:32] if gridnode.rotation else ""


def secret_value(secret: Object | None, key: str) -> str | None:
    """A value of a live Secret; None if it is not there or no text."""
    encoded = ((secret or {}).get("data") or {}).get(key)
    if encoded is None:
        return None
    try:
        return base64.b64decode(encoded).decode()
    except ValueError:
        return None


def _login(secret: Object | None) -> Login | None:
    url = secret_value(secret, DATABASE_URL_KEY)
    return None if url is None else Login.in_url(url)


def _annotation(live: Object | None, name: str) -> str:
    return str(((live or {}).get("metadata", {}).get("annotations") or {}).get(name, ""))


def _demand(gridnode: GridNode) -> int:
    autoscaling = gridnode.spec.autoscaling
    pods = gridnode.spec.replicas if autoscaling is None else autoscaling.max_replicas
    return connection_demand(pods, gridnode.spec.processes_per_pod, gridnode.spec.database.pool_size)
