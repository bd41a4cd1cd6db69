"""Pods, machines and settings fail while phones train: no report is lost or counted twice, and all is well again."""

from __future__ import annotations

import base64
import random
import time
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import TAG
from tests.support.chart import NAMESPACE, RELEASE
from tests.support.real_cluster.images import Images
from tests.support.real_cluster.release import GridNodeUnderTest
from tests.support.real_cluster.target import wait_for
from tests.support.real_cluster.training import EndlessTraining

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

WELL = {"Ready": "True", "DatabaseReady": "True", "Migrated": "True", "Available": "True", "Exposed": "True"}


@pytest.fixture
def training(keyboard: GridNodeUnderTest, request: pytest.FixtureRequest) -> Iterator[EndlessTraining]:
    """A model of its own for each test."""
    with EndlessTraining(keyboard, request.node.name.removeprefix("test_").replace("_", "-")[:40]) as begun:
        begun.wait_for_reports()
        yield begun


def assert_all_is_well(keyboard: GridNodeUnderTest, training: EndlessTraining) -> None:
    """Phones go on, every condition is as before, and the books are right."""
    keyboard.wait(180)
    training.wait_for_reports()
    wait_for(
        f"every condition is as it was: {keyboard.conditions()}",
        lambda: keyboard.conditions() == {**WELL, "Progressing": "False", "Degraded": "False"},
        90,
    )
    training.check()


def wait_for_pods(keyboard: GridNodeUnderTest, number: int) -> None:
    """Wait until there are so many, and all serve."""
    wait_for(f"{number} pods serve", lambda: len(keyboard.pods()) == number and keyboard.is_ready(), 150)


def test_pods_deleted_at_random(keyboard: GridNodeUnderTest, training: EndlessTraining) -> None:
    choice = random.Random(1)
    for grace in (None, 0, None, 0, None):
        flags = [] if grace is None else [f"--grace-period={grace}", "--force"]
        pod = choice.choice(keyboard.pods())
        keyboard.target.kubectl("delete", "pod", pod, "-n", keyboard.namespace, "--wait=false", *flags)
        training.wait_for_reports(8)
        time.sleep(choice.uniform(0, 4))
    assert_all_is_well(keyboard, training)


def test_rolling_update_of_the_image(
    keyboard: GridNodeUnderTest, training: EndlessTraining, images: Images, request: pytest.FixtureRequest
) -> None:
    tag = request.config.getoption("--tag", default=None) or TAG
    image = images.tag(f"docker.io/gridnode/node:{tag}", f"docker.io/gridnode/node:{tag}-again")
    keyboard.target.load_image(image)
    before = set(keyboard.pods())
    keyboard.apply(image=image)
    keyboard.wait(180)
    assert not before & set(keyboard.pods())
    assert_all_is_well(keyboard, training)
    assert training.longest_stall() < 5, "phones had to wait"


def test_operator_killed(keyboard: GridNodeUnderTest, training: EndlessTraining) -> None:
    before = set(keyboard.pods())
    keyboard.target.kubectl(
        "delete", "pod", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=operator", "--grace-period=0", "--force"
    )
    keyboard.apply(replicas=3)
    wait_for("there are three pods", lambda: len(keyboard.pods()) == 3, 90)
    keyboard.apply(replicas=2)
    assert_all_is_well(keyboard, training)
    assert before & set(keyboard.pods()), "pods were replaced though nothing had changed"


def test_master_away_for_ten_cycles(keyboard: GridNodeUnderTest, training: EndlessTraining) -> None:
    scale = ["scale", f"deployment/{RELEASE}-master", "-n", NAMESPACE]
    keyboard.target.kubectl(*scale, "--replicas=0")
    try:
        training.wait_for_reports(10 * 8)
    finally:
        keyboard.target.kubectl(*scale, "--replicas=1")
    keyboard.release.wait()
    assert_all_is_well(keyboard, training)


def test_database_killed(keyboard: GridNodeUnderTest, training: EndlessTraining) -> None:
    for flags in ([], ["--grace-period=0", "--force"]):
        keyboard.target.kubectl("delete", "pod", f"{RELEASE}-database-0", "-n", NAMESPACE, "--wait=false", *flags)
        time.sleep(5)
        keyboard.release.wait()
        training.wait_for_reports(8)
    assert_all_is_well(keyboard, training)


def test_kubelet_restarted(keyboard: GridNodeUnderTest, training: EndlessTraining) -> None:
    own = keyboard.target.own
    if own is None or own.node is None:
        pytest.skip("only on a cluster of this machine's")
    before = keyboard.pods()
    own.node.kubelet.stop(kill=True)
    training.wait_for_reports(8)
    own.node.kubelet.start()
    time.sleep(10)
    assert sorted(before) == sorted(keyboard.pods())
    assert_all_is_well(keyboard, training)


def test_secret_edited(keyboard: GridNodeUnderTest, training: EndlessTraining) -> None:
    before = set(keyboard.pods())
    token = base64.b64encode(b"another-token-of-sixteen-or-more").decode()
    keyboard.target.kubectl(
        "patch", "secret", "keyboard-management", "-n", keyboard.namespace, "--type=merge",
        "-p", f'{{"data": {{"token": "{token}"}}}}',
    )  # fmt: skip
    wait_for("pods have the new token", lambda: not before & set(keyboard.pods()), 120)
    keyboard.target.kubectl(
        "patch", "secret", "keyboard-database", "-n", keyboard.namespace, "--type=merge", "-p", '{"data": null}'
    )
    assert_all_is_well(keyboard, training)


def test_only_machine_drained(keyboard: GridNodeUnderTest, training: EndlessTraining) -> None:
    kubectl = keyboard.target.kubectl
    node = kubectl("get", "nodes", "-o", "name").split()[0].removeprefix("node/")
    try:
        kubectl("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=90s")
    finally:
        kubectl("uncordon", node)
    keyboard.release.wait()
    assert_all_is_well(keyboard, training)


def test_autoscaled_to_four_and_back(keyboard: GridNodeUnderTest, training: EndlessTraining) -> None:
    # Without measured CPU, an autoscaler moves within its bounds.
    del keyboard.spec["replicas"]
    try:
        for pods in (4, 1):
            keyboard.apply(autoscaling={"minReplicas": pods, "maxReplicas": pods})
            wait_for_pods(keyboard, pods)
            training.wait_for_reports()
    finally:
        keyboard.spec.pop("autoscaling", None)
        keyboard.apply(replicas=2)
    wait_for_pods(keyboard, 2)
    assert_all_is_well(keyboard, training)
