"""Five nodes train as if nothing had happened while their master node is down, slow, broken, and killed at random.

First they train with a master node that works, to compare with. Then one fault follows another, while they go on. In
the end it works again, and:

- no cycle has taken longer than those before the faults, but for what a busy machine does to single ones;
- each event of each node has arrived, once, in the order in which the node wrote them;
- the master node shows of each model, and of each cycle, what the node knows, and has its final checkpoint.
"""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import yaml

from tests.support.device import HttpDevice, join_when_open, report
from tests.support.faulty_master import Fault, FaultyWay
from tests.support.master_process import MasterProcess
from tests.support.node import TOKEN, NodeProcess
from tests.support.postgres import PostgresForTests
from tests.support.recordings import Hosting, load_model
from tests.support.syft_messages import zero_diff

pytestmark = [pytest.mark.integration, pytest.mark.chaos, pytest.mark.timeout(180)]

NODES = 5
REPORTS = 2
WARM_UP_SECONDS = 3.0
CONTROL_SECONDS = 5.0
FAULTS: Mapping[Fault, float] = {"down": 4.0, "slow": 9.0, "error": 4.0}
KILLING_SECONDS = 8.0
MASTER_TIMEOUT = 4.0
PAUSE = 0.2
# A cycle that waited for the master node once would take as long as a post may.
LONGEST_DELAY = MASTER_TIMEOUT
MEDIAN_FACTOR = 1.5
MEDIAN_SLACK = 0.5


@dataclass
class Training:
    """One node, what it trains, and how long each cycle took its phones, by what was wrong meanwhile."""

    node: NodeProcess
    database_url: str
    model: Hosting
    diff: bytes
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    error: BaseException | None = None

    @property
    def node_id(self) -> str:
        return f"node-{self.node.device_port}"

    def train(self, trouble: Callable[[], str], stop: threading.Event) -> None:
        """Cycle after cycle of two phones, until told to stop."""
        try:
            with closing(HttpDevice(self.node.device_port)) as device:
                while not stop.wait(PAUSE):
                    before, started = trouble(), time.monotonic()
                    for number in range(REPORTS):
                        session = join_when_open(device, self.model.name)
                        assert report(device, session, self.diff, loss=1.0 + number) == {"status": "success"}
                    self.seconds[before].append(time.monotonic() - started)
        except BaseException as error:
            self.error = error


def test_faults_of_the_master_node_delay_no_cycle_and_lose_no_event(
    postgres: PostgresForTests, empty_database_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ExitStack() as stack:
        nodes_file = tmp_path / "nodes.yaml"
        master = MasterProcess(
            empty_database_url, tmp_path, provider="static", nodes_file=nodes_file, legacy_access="true"
        )
        way = stack.enter_context(FaultyWay(master.port))
        trainings = start_nodes(stack, postgres, way, tmp_path)
        nodes_file.write_text(yaml.safe_dump({"nodes": [entry(each, tmp_path) for each in trainings]}))
        stack.enter_context(master)

        kills = train_through_faults(trainings, way, master)

        with capsys.disabled():
            print(figures(trainings, way, kills))
        assert_no_cycle_was_delayed(trainings)
        for each in trainings:
            each.node.management.act(each.model.name, "finish")
        wait_until("all events have arrived", lambda: not any(waiting(each) for each in trainings))
        wait_until("all finished models are stored", lambda: len(stored(master)) == NODES)
        for each in trainings:
            assert_all_events_arrived_in_order(each, master)
            assert_both_sides_know_the_same(each, master)
            assert each.node.unforeseen_errors() == []
        assert kills >= 3
        assert all(way.posts[fault] >= NODES for fault in FAULTS)
        assert "Traceback" not in master.log()


def start_nodes(stack: ExitStack, postgres: PostgresForTests, way: FaultyWay, directory: Path) -> list[Training]:
    """Nodes with a model each, which trains until it is finished by hand."""
    trainings = []
    for number in range(NODES):
        url = stack.enter_context(postgres.database())
        node = NodeProcess(url, directory, master_url=way.url, master_timeout=MASTER_TIMEOUT)
        model = load_model("tiny").named(f"model-{number}", num_cycles=10_000, min_diffs=REPORTS, max_diffs=REPORTS)
        trainings.append(Training(node, url, model, zero_diff(model.model)))
        stack.callback(node.kill)
        node.start()
    for each in trainings:
        each.node.wait_until_ready()
        each.node.management.host(each.model)
    return trainings


def entry(training: Training, directory: Path) -> dict[str, str]:
    """A node in the file of the static provider."""
    (directory / "token").write_text(TOKEN)
    return {
        "node_id": training.node_id,
        "url": f"http://127.0.0.1:{training.node.device_port}",
        "management_url": f"http://127.0.0.1:{training.node.management_port}",
        "management_token_file": str(directory / "token"),
    }


def train_through_faults(trainings: list[Training], way: FaultyWay, master: MasterProcess) -> int:
    """Train without and with faults, and end with a master node that works; gives how often it was killed."""
    trouble: list[str] = ["none"]
    with phones_at_work(trainings, lambda: trouble[0]):
        # The first cycles of a process are slower than any fault would make them.
        time.sleep(WARM_UP_SECONDS)
        for each in trainings:
            each.seconds.clear()
        time.sleep(CONTROL_SECONDS)
        for fault, seconds in FAULTS.items():
            trouble[0] = way.fault = fault
            nudge_for(trainings, seconds)
        trouble[0], way.fault = "killed", "none"
        kills = kill_at_random(trainings, master, random.Random(3), KILLING_SECONDS)
    master.wait_until_ready()
    # How long a node waits before it tries again is another test's matter.
    nudge(trainings)
    return kills


@contextmanager
def phones_at_work(trainings: list[Training], trouble: Callable[[], str]) -> Iterator[None]:
    """Each node has its phones while the block runs."""
    stop = threading.Event()
    threads = [threading.Thread(target=each.train, args=(trouble, stop)) for each in trainings]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    assert [each.error for each in trainings] == [None] * len(trainings)


def kill_at_random(trainings: list[Training], master: MasterProcess, generator: random.Random, seconds: float) -> int:
    """Kill it while it starts and while it works, and start it again at once."""
    kills, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        nudge_for(trainings, generator.uniform(0.5, 3.0))
        master.kill()
        kills += 1
        time.sleep(generator.uniform(0.0, 0.5))
        master.start()
    return kills


def nudge_for(trainings: list[Training], seconds: float) -> None:
    """Have the nodes try again every second, for so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        nudge(trainings)
        time.sleep(1)


def nudge(trainings: list[Training]) -> None:
    """Let every backoff be over."""
    for each in trainings:
        with closing(connect(each)) as connection, connection, connection.cursor() as cursor:
            cursor.execute(
                "UPDATE outbox SET next_attempt_at = now() WHERE delivered_at IS NULL AND leased_until IS NULL"
            )


def waiting(training: Training) -> int:
    """Events that the node has not been told of that they arrived; its backoff ends now."""
    nudge([training])
    return query(training, "SELECT count(*) FROM outbox WHERE delivered_at IS NULL")[0][0]  # type: ignore[no-any-return]


def stored(master: MasterProcess) -> list[dict[str, Any]]:
    """Finished models that the master node keeps."""
    items: list[dict[str, Any]] = master.admin.get("/api/v1/finished-models", state="stored")["items"]
    return items


def assert_no_cycle_was_delayed(trainings: list[Training]) -> None:
    control = [seconds for each in trainings for seconds in each.seconds["none"]]
    for trouble in [*FAULTS, "killed"]:
        meanwhile = [seconds for each in trainings for seconds in each.seconds[trouble]]
        assert statistics.median(meanwhile) <= MEDIAN_FACTOR * statistics.median(control) + MEDIAN_SLACK, trouble
        assert max(meanwhile) <= max(control) + LONGEST_DELAY, trouble


def assert_all_events_arrived_in_order(training: Training, master: MasterProcess) -> None:
    written = [str(event_id) for (event_id,) in query(training, "SELECT event_id FROM outbox ORDER BY id")]
    assert len(written) > len(FAULTS)
    (node,) = (each["id"] for each in master.admin.get("/api/v1/nodes")["items"] if each["node_id"] == training.node_id)
    newest_first = [each["event_id"] for each in items(master, "/api/v1/events", node=node)]
    assert newest_first[::-1] == written


def assert_both_sides_know_the_same(training: Training, master: MasterProcess) -> None:
    model = training.model.name
    (shown,) = master.admin.get("/api/v1/models", name=model)["items"]
    said = training.node.management.process(model)
    assert (shown["state"], shown["percent"], said["state"]) == ("finished", 100, "finished")
    assert shown["completed_cycles"] == said["completed_cycles"]
    known = query(
        training,
        "SELECT number, state, reports, accepted, EXTRACT(epoch FROM closed_at - started_at)::float8 FROM cycles "
        "ORDER BY number",
    )
    cycles = items(master, f"/api/v1/models/{shown['id']}/cycles")
    assert known == [
        (each["number"], each["state"], each["reported"], each["accepted"], pytest.approx(each["seconds"]))
        for each in cycles
    ]
    losses = {(each["loss"], each["loss_min"], each["loss_max"]) for each in cycles if each["state"] == "completed"}
    assert losses == {(1.5, 1.0, 2.0)}
    (finished,) = (each for each in stored(master) if each["model"] == shown["id"])
    content = master.admin.request("GET", f"/api/v1/finished-models/{finished['model']}/content")
    assert content.body == training.node.management.checkpoint(model)


def items(master: MasterProcess, path: str, **query: Any) -> list[dict[str, Any]]:
    """All entries of a list, page after page."""
    found: list[dict[str, Any]] = []
    more: dict[str, Any] = {}
    while True:
        page = master.admin.get(path, limit=100, **query, **more)
        found += page["items"]
        if page["next"] is None:
            return found
        more = {"after": page["next"]}


def query(training: Training, sql: str) -> list[tuple[Any, ...]]:
    """Rows of a node's database."""
    with closing(connect(training)) as connection, connection.cursor() as cursor:
        cursor.execute(sql)
        return list(cursor.fetchall())


def connect(training: Training) -> Any:
    return psycopg2.connect(training.database_url.replace("+psycopg2", ""))


def wait_until(what: str, done: Callable[[], bool], seconds: float = 40.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.3)


def figures(trainings: list[Training], way: FaultyWay, kills: int) -> str:
    """What happened, for people."""
    lines = [f"\n  master node killed {kills} times; posts by fault: {dict(way.posts)}"]
    for trouble in ["none", *FAULTS, "killed"]:
        seconds = [each for training in trainings for each in training.seconds[trouble]]
        lines.append(
            f"  {trouble:>6}: {len(seconds)} cycles, median {1000 * statistics.median(seconds):.0f} ms, "
            f"longest {1000 * max(seconds):.0f} ms"
        )
    return "\n".join(lines)
