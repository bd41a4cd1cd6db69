"""What is counted, under which labels, and that a scrape of one worker process shows all of them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from textwrap import dedent

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import NullPool, QueuePool

from gridnode.reporting import metrics, scrape
from gridnode.reporting import metrics_directory as directories
from gridnode.reporting.database_metrics import DatabaseCollector
from gridnode.reporting.instruments import REGISTRY
from gridnode.reporting.metrics import RejectionReason
from gridnode.reporting.progress import CycleFigures

NODE = Path(__file__).parent.parent.parent / "node"
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def value(name: str, **labels: str) -> float:
    """A sample of this process; 0 if there is none yet."""
    return REGISTRY.get_sample_value(name, labels) or 0.0


def parse(page: bytes | str) -> Samples:
    content = page.decode() if isinstance(page, bytes) else page
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(content)
        for sample in family.samples
    }


def find(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


def test_request_is_counted_timed_and_weighed() -> None:
    where = {"endpoint": "report-of-this-test", "transport": "http"}
    metrics.observe_request("report-of-this-test", "http", 200, 0.03, 1000, 20)
    metrics.observe_request("report-of-this-test", "http", 200, 0.04, 500, 0)
    metrics.observe_request("report-of-this-test", "http", 503, 5.0, 0, 30)
    assert value("gridnode_requests_total", **where, status="200") == 2
    assert value("gridnode_requests_total", **where, status="503") == 1
    assert value("gridnode_request_duration_seconds_count", **where) == 3
    assert value("gridnode_request_duration_seconds_sum", **where) == pytest.approx(5.07)
    assert value("gridnode_request_duration_seconds_bucket", **where, le="0.05") == 2
    assert value("gridnode_received_bytes_total", **where) == 1500
    assert value("gridnode_sent_bytes_total", **where) == 50


def test_status_that_is_none_gets_no_label_of_its_own() -> None:
    metrics.observe_request("ping-of-this-test", "websocket", 12345, 0.01, 1, 1)
    metrics.observe_request("ping-of-this-test", "websocket", 0, 0.01, 1, 1)
    where = {"endpoint": "ping-of-this-test", "transport": "websocket"}
    assert value("gridnode_requests_total", **where, status="other") == 2


def test_worker_is_counted_by_what_became_of_it() -> None:
    model = {"model": "counted", "version": "1.0"}
    metrics.count_assigned("counted", "1.0")
    metrics.count_assigned("counted", "1.0")
    metrics.count_assigned("counted", "2.0")
    metrics.count_rejected("counted", "1.0", RejectionReason.TOO_SLOW)
    assert value("gridnode_workers_assigned_total", **model) == 2
    assert value("gridnode_rejections_total", **model, reason="too_slow") == 1


def test_batch_counts_its_reports_and_the_norm_of_each() -> None:
    model = {"model": "batched", "version": "1.0"}
    batches = value("gridnode_reports_per_commit_count")
    reports = value("gridnode_reports_per_commit_sum")
    commits = value("gridnode_report_commit_seconds_count")
    metrics.observe_report_batch("batched", "1.0", [0.5, 2.0, 2.5], 0.02)
    assert value("gridnode_workers_reported_total", **model) == 3
    assert value("gridnode_update_norm_count", **model) == 3
    assert value("gridnode_update_norm_sum", **model) == 5.0
    assert value("gridnode_reports_per_commit_count") == batches + 1
    assert value("gridnode_reports_per_commit_sum") == reports + 3
    assert value("gridnode_report_commit_seconds_count") == commits + 1


def test_batch_of_nothing_is_no_batch() -> None:
    before = value("gridnode_reports_per_commit_count")
    metrics.observe_report_batch("batched", "1.0", [], 0.02)
    assert value("gridnode_reports_per_commit_count") == before


@pytest.mark.parametrize("norm", [float("inf"), float("nan")])
def test_norm_that_overflowed_leaves_the_sum_finite(norm: float) -> None:
    model = {"model": f"overflow-{norm}", "version": "1"}
    metrics.observe_report_batch(model["model"], "1", [norm, 1.0], 0.01)
    assert value("gridnode_update_norm_sum", **model) < 1e6
    assert value("gridnode_update_norm_bucket", **model, le="1000.0") == 1
    assert value("gridnode_update_norm_bucket", **model, le="+Inf") == 2


def figures(*, dropped: int = 0, seconds: float | None = 30.0) -> CycleFigures:
    return CycleFigures(
        number=1,
        state="completed",
        started_at=datetime(2026, 1, 1, tzinfo=UTC),
        reports=5,
        accepted=5 + dropped,
        dropped=dropped,
        cycle_seconds=seconds,
    )


def test_averaged_cycle_is_timed_and_its_lost_workers_counted() -> None:
    model = {"model": "averaged", "version": "1.0"}
    metrics.observe_cycle_end("averaged", "1.0", figures(dropped=2), averaged=True, min_diffs_seconds=12.0)
    assert value("gridnode_workers_dropped_total", **model) == 2
    assert value("gridnode_cycle_duration_seconds_sum", **model) == 30
    assert value("gridnode_cycle_min_diffs_seconds_sum", **model) == 12


def test_abandoned_cycle_only_loses_its_workers() -> None:
    model = {"model": "abandoned", "version": "1.0"}
    metrics.observe_cycle_end("abandoned", "1.0", figures(dropped=3), averaged=False, min_diffs_seconds=None)
    assert value("gridnode_workers_dropped_total", **model) == 3
    assert value("gridnode_cycle_duration_seconds_count", **model) == 0


def test_cache_and_posts_are_counted_by_outcome() -> None:
    hits = value("gridnode_checkpoint_cache_lookups_total", result="hit")
    misses = value("gridnode_checkpoint_cache_lookups_total", result="miss")
    posts = value("gridnode_progress_posts_total", outcome="refused")
    metrics.count_checkpoint_lookup(hit=True)
    metrics.count_checkpoint_lookup(hit=False)
    metrics.count_progress_post("refused")
    assert value("gridnode_checkpoint_cache_lookups_total", result="hit") == hits + 1
    assert value("gridnode_checkpoint_cache_lookups_total", result="miss") == misses + 1
    assert value("gridnode_progress_posts_total", outcome="refused") == posts + 1


def test_websocket_counts_while_it_is_open() -> None:
    before = value("gridnode_websocket_connections")
    metrics.websocket_opened()
    metrics.websocket_opened()
    metrics.websocket_closed()
    assert value("gridnode_websocket_connections") == before + 1
    metrics.websocket_closed()


def test_pool_in_use_follows_every_way_a_connection_comes_back() -> None:
    size, in_use = value("gridnode_database_pool_size"), value("gridnode_database_pool_in_use")
    engine = create_engine("sqlite://", poolclass=QueuePool, pool_size=3, max_overflow=0)
    metrics.track_pool(engine)
    assert value("gridnode_database_pool_size") == size + 3
    with engine.connect() as first, engine.connect() as second:
        assert value("gridnode_database_pool_in_use") == in_use + 2
        first.execute(text("SELECT 1"))
        second.invalidate()
    assert value("gridnode_database_pool_in_use") == in_use

    with engine.connect():
        # As after a failover: connections in use come back to a pool that has been replaced.
        engine.dispose()
    with engine.connect():
        assert value("gridnode_database_pool_in_use") == in_use + 1
    assert value("gridnode_database_pool_in_use") == in_use


def test_engine_without_a_bounded_pool_can_not_be_tracked() -> None:
    with pytest.raises(TypeError, match="NullPool is not a pool of limited size"):
        metrics.track_pool(create_engine("sqlite://", poolclass=NullPool))


def test_scrape_of_a_single_process_has_no_series_but_its_own() -> None:
    metrics.count_assigned("scraped", "1.0")
    samples = parse(scrape.render_metrics())
    assert find(samples, "gridnode_workers_assigned_total", model="scraped", version="1.0") == 1
    assert all(name.startswith("gridnode_") for name, _ in samples)
    assert not any(name.endswith("_created") for name, _ in samples)


@pytest.fixture
def metrics_directory(tmp_path: Path) -> Path:
    directory = tmp_path / "metrics"
    directory.mkdir()
    return directory


@pytest.fixture
def workers(metrics_directory: Path) -> Iterator[Workers]:
    with ExitStack() as stack:
        yield Workers(metrics_directory, stack)


class Workers:
    """Python processes that share a metrics directory, as a pod's worker processes do."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._environment = {**os.environ, "PYTHONPATH": str(NODE), "PROMETHEUS_MULTIPROC_DIR": str(directory)}
        self._stack = stack

    def start(self, code: str) -> subprocess.Popen[str]:
        """Run code up to its end and leave the process alive."""
        program = f"from gridnode.reporting import metrics, scrape\n{dedent(code)}\nprint('ready', flush=True)\ninput()"
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._stack.callback(self._end, process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def run(self, code: str) -> str:
        """Run code to its end and give its output."""
        program = f"from gridnode.reporting import metrics, scrape\n{dedent(code)}"
        return subprocess.run(
            [sys.executable, "-c", program], env=self._environment, capture_output=True, text=True, check=True
        ).stdout

    def scrape(self) -> Samples:
        """What yet another process of the pod answers to Prometheus."""
        return parse(self.run("print(scrape.render_metrics().decode())"))

    @staticmethod
    def _end(process: subprocess.Popen[str]) -> None:
        process.kill()
        process.communicate()


WORK = """
    metrics.observe_request("report", "http", 200, 0.03, 1000, 20)
    metrics.count_assigned("mnist", "1.0")
    metrics.observe_report_batch("mnist", "1.0", [0.5, 2.0], 0.01)
    metrics.websocket_opened()
"""


@pytest.mark.process
def test_scrape_of_any_process_shows_the_sum_over_all(workers: Workers) -> None:
    workers.start(WORK)
    workers.start(WORK)
    samples = workers.scrape()
    model = {"model": "mnist", "version": "1.0"}
    assert find(samples, "gridnode_requests_total", endpoint="report", transport="http", status="200") == 2
    assert find(samples, "gridnode_workers_assigned_total", **model) == 2
    assert find(samples, "gridnode_workers_reported_total", **model) == 4
    assert find(samples, "gridnode_update_norm_bucket", **model, le="1.0") == 2
    assert find(samples, "gridnode_update_norm_count", **model) == 4
    assert find(samples, "gridnode_reports_per_commit_sum") == 4
    assert find(samples, "gridnode_websocket_connections") == 2
    assert all("pid" not in dict(labels) for _, labels in samples)


@pytest.mark.process
def test_dead_process_keeps_its_counts_and_loses_its_gauges(workers: Workers) -> None:
    workers.start(WORK)
    killed = workers.start(WORK)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert find(workers.scrape(), "gridnode_websocket_connections") == 2

    workers.run(f"scrape.forget_process({killed.pid})")
    samples = workers.scrape()
    assert find(samples, "gridnode_websocket_connections") == 1
    assert find(samples, "gridnode_workers_assigned_total", model="mnist", version="1.0") == 2


@pytest.mark.process
def test_scrape_outlives_a_process_killed_while_it_made_its_file(workers: Workers, metrics_directory: Path) -> None:
    workers.run(WORK)
    (metrics_directory / "counter_4194304.db").touch()
    assert find(workers.scrape(), "gridnode_workers_assigned_total", model="mnist", version="1.0") == 1


@pytest.mark.process
def test_forked_worker_counts_on_its_own(workers: Workers) -> None:
    workers.run(
        """
        import os
        metrics.count_assigned("forked", "1")
        for _ in range(2):
            if os.fork() == 0:
                metrics.count_assigned("forked", "1")
                os._exit(0)
            os.wait()
        """
    )
    assert find(workers.scrape(), "gridnode_workers_assigned_total", model="forked", version="1") == 3


@pytest.mark.process
def test_labels_stay_bounded_whatever_is_hosted_and_asked_for(workers: Workers) -> None:
    page = workers.run(
        """
        for number in range(metrics.MAXIMUM_MODELS + 50):
            metrics.count_assigned(f"model-{number}", "1")
            metrics.count_rejected(f"model-{number}", "1", metrics.RejectionReason.PAUSED)
        metrics.count_assigned("model-0", "1")
        for number in range(metrics.MAXIMUM_ENDPOINTS + 50):
            metrics.observe_request(f"/{number}", "http", 404, 0.01, 0, 0)
        print(scrape.render_metrics().decode())
        """
    )
    samples = parse(page)
    assigned = [dict(labels)["model"] for name, labels in samples if name == "gridnode_workers_assigned_total"]
    assert len(assigned) == metrics.MAXIMUM_MODELS + 1
    assert find(samples, "gridnode_workers_assigned_total", model="other", version="other") == 50
    assert find(samples, "gridnode_workers_assigned_total", model="model-0", version="1") == 2
    assert find(samples, "gridnode_rejections_total", model="other", version="other", reason="paused") == 50
    endpoints = [dict(labels)["endpoint"] for name, labels in samples if name == "gridnode_requests_total"]
    assert len(endpoints) == metrics.MAXIMUM_ENDPOINTS + 1
    assert find(samples, "gridnode_requests_total", endpoint="other", transport="http", status="404") == 50


def test_directory_is_new_and_deleted_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with directories.metrics_directory() as directory:
        assert os.environ["PROMETHEUS_MULTIPROC_DIR"] == str(directory)
        (directory / "counter_7.db").touch()
    assert list(tmp_path.iterdir()) == []


def test_directory_of_a_killed_process_is_deleted_and_that_of_a_living_one_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / f"gridnode-metrics-{ended.pid}-x").mkdir()
    living = tmp_path / f"gridnode-metrics-{os.getppid()}-x"
    living.mkdir()
    with directories.metrics_directory():
        pass
    assert list(tmp_path.iterdir()) == [living]


def sessions_on(port: int) -> sessionmaker[Session]:
    return sessionmaker(create_engine(f"postgresql+psycopg2://nobody@127.0.0.1:{port}/none"))


def test_scrape_works_while_the_database_refuses_connections() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    samples = parse(scrape.render_metrics(DatabaseCollector(sessions_on(port))))
    assert find(samples, "gridnode_database_up") == 0
    assert ("gridnode_websocket_connections", frozenset()) in samples
    assert ("gridnode_outbox_depth", frozenset()) not in samples


def test_scrape_gives_a_silent_database_up_and_asks_it_only_once_at_a_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.5)
        collector = DatabaseCollector(sessions_on(listener.getsockname()[1]), deadline=0.2)
        began = time.monotonic()
        for _ in range(3):
            assert find(parse(scrape.render_metrics(collector)), "gridnode_database_up") == 0
        assert time.monotonic() - began < 2
        connection, _ = listener.accept()
        with connection, pytest.raises(TimeoutError):
            listener.accept()


def test_database_going_and_coming_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    collector = DatabaseCollector(sessions_on(port))
    for _ in range(3):
        list(collector.collect())
    (record,) = caplog.records
    assert "can't be read" in record.message
    assert "Connection refused" in record.__dict__["reason"]
