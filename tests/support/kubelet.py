"""What a kubelet would do with the pods of a control plane that has no machines.

Pods of a Deployment become ready at once. Pods of a migration Job migrate for real, in a thread, with the environment
that the manifest gives them. An image whose name holds ``broken`` never becomes ready, and fails to migrate.
"""

from __future__ import annotations

import base64
import http.client
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, Self

from gridnode.db.migrate import upgrade
from gridnode.settings import load_settings
from tests.support.cluster import ControlPlane

_MERGE_PATCH = {"Content-Type": "application/strategic-merge-patch+json"}
_INTERVAL = 0.1

Pod = dict[str, Any]


def migrate(environment: dict[str, str]) -> None:
    """What the container of a migration runs."""
    settings = load_settings(environment)
    assert settings.database_url is not None
    upgrade(settings.database_url)


class Kubelet:
    """Looks after all pods, until it is stopped.

    Args:
        control_plane: Where they are.
        run: Runs a migration with a container's environment; raises if it fails.
    """

    def __init__(self, control_plane: ControlPlane, run: Callable[[dict[str, str]], None] = migrate) -> None:
        self._control_plane = control_plane
        self._run = run
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="kubelet")
        self._migrations = ThreadPoolExecutor(2, thread_name_prefix="migration")
        self._begun: set[str] = set()
        self.holding = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._migrations.shutdown()

    def hold(self) -> None:
        """Let no pod get any further, until :meth:`release`."""
        self.holding.set()

    def release(self) -> None:
        """Go on."""
        self.holding.clear()

    def _loop(self) -> None:
        """Watches end, with the API server or when nothing happens; the next one goes on where it ended."""
        version = ""
        while not self._stop.wait(_INTERVAL):
            path = f"/api/v1/pods?resourceVersion={version}" if version else "/api/v1/pods"
            for event in self._control_plane.watch(path, timeout=1.0):
                while self.holding.is_set() and not self._stop.wait(_INTERVAL):
                    pass
                if self._stop.is_set():
                    return
                if event.get("type") not in ("ADDED", "MODIFIED", "DELETED"):
                    version = ""  # that one is too old: all pods again
                    break
                pod = event["object"]
                version = pod["metadata"]["resourceVersion"]
                if event["type"] in ("ADDED", "MODIFIED") and not pod["metadata"].get("deletionTimestamp"):
                    self._look_after(pod)

    def _look_after(self, pod: Pod) -> None:
        uid = pod["metadata"]["uid"]
        # One that has begun may be of a test before, whose namespace is on its way out.
        if uid in self._begun or (pod.get("status") or {}).get("phase", "Pending") != "Pending":
            return
        self._begun.add(uid)
        container = pod["spec"]["containers"][0]
        is_broken = "broken" in container["image"]
        if any(owner["kind"] == "Job" for owner in pod["metadata"].get("ownerReferences") or []):
            self._migrations.submit(self._migrate, pod, is_broken)
        elif not is_broken:
            self._set_status(pod, _running(container))

    def _migrate(self, pod: Pod, is_broken: bool) -> None:
        container = pod["spec"]["containers"][0]
        code, message = 0, ""
        try:
            if is_broken:
                raise RuntimeError("this image can't migrate")
            self._run(self._environment(pod))
        except Exception as error:
            code, message = 1, f"migration failed: {error}"
        self._set_status(pod, _ended(container, code, message))

    def _environment(self, pod: Pod) -> dict[str, str]:
        namespace = pod["metadata"]["namespace"]
        environment = {}
        for variable in pod["spec"]["containers"][0]["env"]:
            source = (variable.get("valueFrom") or {}).get("secretKeyRef")
            if source is None:
                environment[variable["name"]] = variable.get("value", "")
                continue
            path = f"/api/v1/namespaces/{namespace}/secrets/{source['name']}"
            if source.get("optional") and self._control_plane.request("GET", path).status == 404:
                continue
            secret = self._control_plane.expect("GET", path)
            environment[variable["name"]] = base64.b64decode(secret["data"][source["key"]]).decode()
        return environment

    def _set_status(self, pod: Pod, status: dict[str, Any]) -> None:
        metadata = pod["metadata"]
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/status"
        # An API server that is restarted politely is away for more than half a minute.
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not self._stop.is_set():
            try:
                answer = self._control_plane.request("PATCH", path, {"status": status}, headers=_MERGE_PATCH)
            except (OSError, http.client.HTTPException):  # the API server is away
                time.sleep(_INTERVAL)
                continue
            if answer.status in (200, 404):
                return
            time.sleep(_INTERVAL)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _running(container: dict[str, Any]) -> dict[str, Any]:
    conditions = [
        {"type": kind, "status": "True", "lastTransitionTime": _now()}
        for kind in ("PodScheduled", "Initialized", "ContainersReady", "Ready")
    ]
    state = {"running": {"startedAt": _now()}}
    return {
        "phase": "Running",
        "startTime": _now(),
        "conditions": conditions,
        "containerStatuses": [{**_container_status(container), "ready": True, "started": True, "state": state}],
    }


def _ended(container: dict[str, Any], code: int, message: str) -> dict[str, Any]:
    ended = {"exitCode": code, "reason": "Error" if code else "Completed", "message": message, "finishedAt": _now()}
    return {
        "phase": "Failed" if code else "Succeeded",
        "startTime": _now(),
        "containerStatuses": [{**_container_status(container), "ready": False, "state": {"terminated": ended}}],
    }


def _container_status(container: dict[str, Any]) -> dict[str, Any]:
    return {"name": container["name"], "image": container["image"], "imageID": "", "restartCount": 0}
