"""A new password while the node serves: no pod ever has a login that does not work, and the old one goes in the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psycopg2
import pytest
from sqlalchemy import make_url

from gridnode.db.revision import REVISION
from gridnode_operator.desired.names import database_names
from tests.support.cluster import ControlPlane
from tests.support.kubelet import Kubelet
from tests.support.operator_faults import catalog, log_in, quick_migration, url_in_secret
from tests.support.operator_process import GROUP_PATH, GridNodes, OperatorProcess, wait_for
from tests.support.shared_database import SharedDatabase

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

_REPLICAS = 2


@dataclass(eq=False)
class Pods(threading.Thread):
    """All pods of a GridNode, each logging in again and again with the URL that was in the Secret when it started.

    And a client that does so with the URL that is in the Secret now.
    """

    gridnodes: GridNodes
    urls: dict[str, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    logins: int = 0

    def __post_init__(self) -> None:
        threading.Thread.__init__(self)
        self._end = threading.Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self.join()

    def run(self) -> None:
        while not self._end.wait(0.05):
            current = url_in_secret(self.gridnodes)
            if (problem := self._log_in(current)) and url_in_secret(self.gridnodes) == current:
                self.failures.append(f"with the URL in the Secret: {problem}")
            for name in self._serving():
                if name not in self.urls:
                    self.urls[name] = url_in_secret(self.gridnodes)
                problem = self._log_in(self.urls[name])
                if problem and name in self._serving():
                    self.failures.append(f"in {name}: {problem}")

    def _log_in(self, url: str) -> str | None:
        try:
            log_in(url, "SELECT 1")
        except psycopg2.Error as error:
            return str(error)
        self.logins += 1
        return None

    def _serving(self) -> list[str]:
        found = [each for each in self.gridnodes.all("/api/v1/pods") if "node" in _component(each)]
        ready = [each for each in found if (each.get("status") or {}).get("phase") == "Running"]
        return [each["metadata"]["name"] for each in ready if not each["metadata"].get("deletionTimestamp")]


def _component(pod: dict[str, Any]) -> str:
    return str(pod["metadata"]["labels"].get("app.kubernetes.io/component"))


@dataclass
class Rotation:
    """A GridNode that is ready."""

    gridnodes: GridNodes
    shared: SharedDatabase
    kubelet: Kubelet
    pods: Pods

    @property
    def url(self) -> str:
        return url_in_secret(self.gridnodes)

    def logins(self) -> set[str]:
        """Those that may log in."""
        owner = database_names(self.gridnodes.namespace, "demo").owner
        roles = catalog(self.shared, owner)["roles"]
        return {name for name, can_login, *_ in roles if can_login == "True"}

    def annotate(self, value: str) -> None:
        self.gridnodes.patch("demo", {"metadata": {"annotations": {"gridnode.io/rotate": value}}})

    def settle(self) -> None:
        """Wait until the newest URL is everywhere, and its login is the only one."""
        url = self.url
        wait_for(lambda: self.logins() == {make_url(url).username}, lambda: (self.logins(), self.gridnodes.status()))
        wait_for(lambda: self.gridnodes.condition("Ready")[0] == "True", lambda: self.gridnodes.status())
        assert log_in(url) == [(REVISION,)]


@pytest.fixture
def rotation(
    control_plane: ControlPlane, namespace: str, shared: SharedDatabase, tmp_path: Path
) -> Iterator[Rotation]:  # fmt: skip
    settings = {"WATCH_NAMESPACES": namespace, "RESYNC_INTERVAL": "2"}
    gridnodes = GridNodes(control_plane, namespace)
    with (
        Kubelet(control_plane, quick_migration) as kubelet,
        OperatorProcess(control_plane.kubeconfig_path(), shared.admin_url, tmp_path, settings) as operator,
    ):
        gridnodes.create("demo", {"replicas": _REPLICAS})
        wait_for(lambda: gridnodes.condition("Ready")[0] == "True", lambda: gridnodes.status())
        with Pods(gridnodes) as pods:
            wait_for(lambda: len(pods.urls) == _REPLICAS)
            yield Rotation(gridnodes, shared, kubelet, pods)
        assert pods.failures == []
        assert pods.logins > 20
        assert "Traceback" not in operator.log_path.read_text()


def test_annotation_and_spec(rotation: Rotation) -> None:
    first = rotation.url
    rotation.annotate("monday")
    wait_for(lambda: rotation.url != first, lambda: rotation.gridnodes.status())
    rotation.settle()
    with pytest.raises(psycopg2.OperationalError, match="authentication failed"):
        log_in(first)
    second = rotation.url
    rotation.gridnodes.patch("demo", {"spec": {"database": {"rotate": "tuesday"}}})
    wait_for(lambda: rotation.url != second, lambda: rotation.gridnodes.status())
    rotation.settle()
    third = rotation.url
    # The same wish, and another change, ask for nothing.
    rotation.annotate("monday")
    rotation.gridnodes.patch("demo", {"spec": {"limits": {"connections": 77}}})
    wait_for(lambda: is_ready(rotation.gridnodes), lambda: rotation.gridnodes.status())
    assert rotation.url == third
    messages = [message for reason, message in rotation.gridnodes.events() if reason == "Rotated"]
    assert len(messages) == 2
    assert not any(str(make_url(url).password) in str(rotation.gridnodes.events()) for url in (first, second, third))


def test_old_login_works_until_no_pod_has_it(rotation: Rotation) -> None:
    first = rotation.url
    rotation.kubelet.hold()
    rotation.annotate("monday")
    wait_for(lambda: rotation.url != first, lambda: rotation.gridnodes.status())
    second = rotation.url
    for _ in range(8):
        assert log_in(first) == log_in(second) == [(REVISION,)]
        assert rotation.gridnodes.condition("Available")[0] == "True"
        time.sleep(0.5)
    assert rotation.gridnodes.condition("Ready")[0] == "False"
    rotation.kubelet.release()
    rotation.settle()
    with pytest.raises(psycopg2.OperationalError, match="authentication failed"):
        log_in(first)


def test_session_of_the_old_login_keeps_it(rotation: Rotation) -> None:
    first = rotation.url
    with psycopg2.connect(first.replace("+psycopg2", "")) as session:
        rotation.annotate("monday")
        wait_for(lambda: rotation.url != first and is_ready(rotation.gridnodes), lambda: rotation.gridnodes.status())
        time.sleep(4)
        with session.cursor() as cursor:
            cursor.execute("SELECT version_num FROM alembic_version")
            assert cursor.fetchall() == [(REVISION,)]
        assert make_url(first).username in rotation.logins()
    session.close()
    rotation.settle()


def test_second_rotation_waits_for_the_first(rotation: Rotation) -> None:
    first = rotation.url
    rotation.kubelet.hold()
    rotation.annotate("monday")
    wait_for(lambda: rotation.url != first, lambda: rotation.gridnodes.status())
    second = rotation.url
    rotation.annotate("tuesday")
    time.sleep(5)
    # Pods of before the first rotation are still there: neither of the two logins is free.
    assert rotation.url == second
    assert log_in(first) == log_in(second) == [(REVISION,)]
    rotation.kubelet.release()
    wait_for(lambda: rotation.url != second, lambda: rotation.gridnodes.status(), 60)
    rotation.settle()
    for url in (first, second):
        with pytest.raises(psycopg2.OperationalError, match="authentication failed"):
            log_in(url)


def test_wish_that_is_withdrawn_leaves_no_login_behind(rotation: Rotation) -> None:
    first = rotation.url
    rotation.kubelet.hold()
    rotation.gridnodes.patch("demo", {"spec": {"database": {"rotate": "monday"}}})
    wait_for(lambda: rotation.url != first, lambda: rotation.gridnodes.status())
    rotation.gridnodes.patch("demo", {"spec": {"database": {"rotate": None}}})
    time.sleep(2)
    rotation.kubelet.release()
    wait_for(lambda: len(rotation.logins()) == 1 and is_ready(rotation.gridnodes), rotation.logins, 60)
    rotation.settle()
    with pytest.raises(psycopg2.OperationalError, match="authentication failed"):
        log_in(first)


def is_ready(gridnodes: GridNodes) -> bool:
    resource = gridnodes.get(f"{GROUP_PATH}/gridnodes", "demo") or {}
    is_new = (resource.get("status") or {}).get("observedGeneration") == resource["metadata"]["generation"]
    return is_new and gridnodes.condition("Ready")[0] == "True"
