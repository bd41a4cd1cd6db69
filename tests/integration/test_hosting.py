"""Hosting checks everything first and then stores all or nothing, whatever happens to the database meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import psycopg2
import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import Session

from gridnode.averaging.hosted_plan import SandboxLimits
from gridnode.db.models import Base, Checkpoint, Plan, Process, Protocol
from gridnode.db.session import Database
from gridnode.errors import Conflict, InvalidRequest
from gridnode.processes import states
from gridnode.processes.catalog import HostedProcess, find_process_id, load_process
from gridnode.processes.hosting import Upload, check_upload, store_process
from gridnode.protocol.syft_proto import encode_state
from tests.support.averaging_plans import list_mean_plan, running_mean_plan
from tests.support.domain import START
from tests.support.plan_builder import without_shapes
from tests.support.recordings import DATA
from tests.support.threads import at_once

pytestmark = pytest.mark.integration

PLAN = without_shapes((DATA / "models" / "tiny" / "training_plan.uploaded.bin").read_bytes())
MODEL = encode_state([np.arange(6, dtype=np.float32).reshape(2, 3), np.zeros((), np.int64)])
VECTOR = encode_state([np.zeros(3, np.float32)])
CLIENT = {"name": "mnist", "version": "1.0", "batch_size": 64, "lr": 0.01, "max_updates": 100}
FIELDS: Mapping[str, Any] = {
    "model": MODEL,
    "plans": {"training_plan": PLAN, "evaluation": PLAN},
    "protocols": {"secure": b"\x00any bytes"},
    "averaging_plan": b"",
    "client_config": CLIENT,
    "server_config": {"max_workers": 10},
}


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url, pool_size=4, deadline=2)
    yield database
    database.close()


@pytest.fixture
def own_database(own_database_url: str) -> Iterator[Database]:
    database = Database(own_database_url, deadline=2)
    yield database
    database.close()


def upload(**fields: Any) -> Upload:
    return Upload(**{**FIELDS, **fields})


def host(database: Database, sent: Upload) -> int:
    checked = check_upload(sent, SandboxLimits())
    return database.transaction(lambda s: store_process(s, checked, START))


def load(database: Database, process_id: int) -> HostedProcess:
    process = database.transaction(lambda s: load_process(s, process_id))
    assert process is not None
    return process


def rows(database: Database) -> dict[str, int]:
    """Rows of each table that has any."""
    tables = Base.metadata.sorted_tables
    counts = database.transaction(
        lambda s: {table.name: s.scalars(select(func.count()).select_from(table)).one() for table in tables}
    )
    return {name: count for name, count in counts.items() if count}


def test_hosting_stores_all_of_it(database: Database) -> None:
    process_id = host(database, upload())
    assert rows(database) == {"processes": 1, "plans": 2, "protocols": 1, "checkpoints": 1, "cycles": 1}
    with database.sessions() as session:
        process = session.scalars(select(Process)).one()
        assert (process.name, process.version, process.state, process.id) == ("mnist", "1.0", "active", process_id)
        assert (process.client_config, process.server_config) == (CLIENT, {"max_workers": 10})
        assert len(process.secret) == 32
        assert session.scalars(select(Checkpoint.value)).one() == MODEL
        assert session.scalars(select(Protocol.value)).one() == b"\x00any bytes"
        assert sorted(session.scalars(select(Plan.name))) == ["evaluation", "training_plan"]


def test_hosted_process_is_read_back_as_it_was_checked(database: Database) -> None:
    checked = check_upload(upload(), SandboxLimits())
    process = load(database, host(database, upload()))
    assert process.layout == checked.layout
    assert process.server_config == checked.server_config
    assert process.client_config == CLIENT
    assert process.plans.keys() == {"training_plan", "evaluation"}
    assert process.protocols.keys() == {"secure"}
    assert len({*process.plans.values()}) == 2
    assert not process.has_averaging_plan


def test_two_processes_have_secrets_of_their_own(database: Database) -> None:
    first = load(database, host(database, upload()))
    second = load(database, host(database, upload(client_config={**CLIENT, "version": "2.0"})))
    assert first.secret != second.secret
    assert not {*first.plans.values()} & {*second.plans.values()}


def test_first_cycle_is_open_from_the_moment_of_hosting(database: Database) -> None:
    host(database, upload(server_config={"cycle_length": 60, "min_diffs": 2, "min_workers": 3}))
    cycle = database.transaction(lambda s: s.execute(text("SELECT * FROM cycles")).one())
    assert (cycle.number, cycle.state, cycle.checkpoint_number, cycle.started_at) == (1, "open", 1, START)
    assert (cycle.deadline - START).total_seconds() == 60
    assert (cycle.min_diffs, cycle.max_diffs, cycle.min_workers) == (2, None, 3)


def test_averaging_plan_is_kept_and_no_training_plan(database: Database) -> None:
    plan = running_mean_plan(2)
    sent = upload(averaging_plan=plan, server_config={"iterative_plan": True})
    process = load(database, host(database, sent))
    assert process.has_averaging_plan
    assert database.transaction(lambda s: s.scalars(select(Process.averaging_plan)).one()) == plan
    assert process.plans.keys() == {"training_plan", "evaluation"}


def test_list_plan_fixes_the_number_of_diffs_as_if_the_author_had_written_it(database: Database) -> None:
    process = load(database, host(database, upload(model=VECTOR, averaging_plan=list_mean_plan(1, 4))))
    assert (process.server_config.min_diffs, process.server_config.max_diffs) == (4, 4)
    assert database.transaction(lambda s: s.scalar(text("SELECT max_diffs FROM cycles"))) == 4


def test_name_and_version_are_unique(database: Database) -> None:
    host(database, upload())
    before = rows(database)
    with pytest.raises(
        Conflict, match=r"mnist 1\.0 is hosted already, with other contents: choose another client_config\.version"
    ):
        host(database, upload(model=VECTOR))
    assert rows(database) == before
    newer = host(database, upload(client_config={**CLIENT, "version": "2.0"}))
    assert database.transaction(lambda s: find_process_id(s, "mnist", None)) == newer


def test_of_several_that_host_different_models_at_once_one_succeeds(database: Database) -> None:
    uploads = [upload(model=encode_state([np.full(3, number, np.float32)])) for number in range(3)]
    outcomes = at_once([partial(host, database, each) for each in uploads])
    assert len([outcome for outcome in outcomes if isinstance(outcome, int)]) == 1
    assert [type(outcome) for outcome in outcomes if not isinstance(outcome, int)] == [Conflict] * 2
    assert rows(database)["processes"] == 1


def test_hosting_the_same_again_gives_the_same_process(database: Database) -> None:
    sent = upload(server_config={"max_workers": 10, "num_cycles": 2})
    process_id = host(database, sent)
    before = rows(database)
    reordered = {key: CLIENT[key] for key in reversed(CLIENT)}
    again = upload(server_config={"num_cycles": 2, "max_workers": 10}, client_config=reordered)
    assert at_once([partial(host, database, each) for each in (sent, again, again)]) == [process_id] * 3
    database.transaction(lambda s: states.move(s, process_id, "finished"))
    assert host(database, sent) == process_id
    assert rows(database) == before


def test_hosting_the_same_list_plan_again_gives_the_same_process(database: Database) -> None:
    sent = upload(model=VECTOR, averaging_plan=list_mean_plan(1, 4))
    assert host(database, sent) == host(database, sent)


@pytest.mark.parametrize(
    "changed",
    [
        {"model": VECTOR},
        {"plans": {"training_plan": PLAN}},
        {"plans": {"training_plan": PLAN, "evaluation2": PLAN}},
        {"protocols": {"secure": b"other bytes"}},
        {"protocols": {}},
        {"averaging_plan": running_mean_plan(2), "server_config": {"max_workers": 10, "iterative_plan": True}},
        {"server_config": {"max_workers": 11}},
        {"client_config": {**CLIENT, "lr": 0.02}},
        {"client_config": {**CLIENT, "more": [1, 2]}},
    ],
    ids=lambda changed: "-".join(changed),
)
def test_hosting_anything_else_under_the_same_name_is_a_conflict(database: Database, changed: dict[str, Any]) -> None:
    host(database, upload())
    with pytest.raises(Conflict, match="hosted already, with other contents"):
        host(database, upload(**changed))


def test_hosting_whose_commit_was_in_doubt_succeeds(database: Database) -> None:
    """The connection breaks when everything is committed and nobody has heard of it."""
    checked = check_upload(upload(), SandboxLimits())
    tries: list[int] = []

    def store(session: Session) -> int:
        tries.append(store_process(session, checked, START))
        if len(tries) == 1:
            session.commit()
            raise OperationalError("COMMIT", None, psycopg2.OperationalError("connection lost"))
        return tries[-1]

    assert database.transaction(store) == tries[0]
    assert tries[0] == tries[1]
    assert rows(database) == {"processes": 1, "plans": 2, "protocols": 1, "checkpoints": 1, "cycles": 1}


@pytest.mark.parametrize("table", ["processes", "plans", "protocols", "checkpoints", "cycles"])
def test_fault_of_the_database_leaves_nothing_behind(own_database: Database, table: str) -> None:
    def break_inserts(session: Session) -> None:
        session.execute(
            text("CREATE FUNCTION fail() RETURNS trigger AS 'BEGIN RAISE ''no space''; END' LANGUAGE plpgsql")
        )
        # At the last row of the table, so that the earlier ones are there already.
        session.execute(text(f"CREATE TRIGGER fail AFTER INSERT ON {table} FOR EACH STATEMENT EXECUTE FUNCTION fail()"))

    own_database.transaction(break_inserts)
    with pytest.raises(DBAPIError, match="no space"):
        host(own_database, upload())
    assert rows(own_database) == {}
    own_database.transaction(lambda s: s.execute(text("DROP FUNCTION fail CASCADE")))
    host(own_database, upload())


@pytest.mark.parametrize("table", ["processes", "checkpoints", "cycles"])
def test_connection_that_breaks_meanwhile_leaves_all_or_nothing(own_database: Database, table: str) -> None:
    """Nothing has been committed when it breaks, so hosting begins anew."""

    def break_the_first(session: Session) -> None:
        session.execute(text("CREATE SEQUENCE breaks"))
        session.execute(
            text(
                "CREATE FUNCTION break() RETURNS trigger AS 'BEGIN IF nextval(''breaks'') = 1 "
                "THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF; RETURN NEW; END' LANGUAGE plpgsql"
            )
        )
        session.execute(text(f"CREATE TRIGGER break BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION break()"))

    own_database.transaction(break_the_first)
    host(own_database, upload())
    assert own_database.transaction(lambda s: s.scalar(text("SELECT last_value FROM breaks"))) == 2
    assert rows(own_database) == {"processes": 1, "plans": 2, "protocols": 1, "checkpoints": 1, "cycles": 1}


def test_averaging_plan_of_another_form_or_number_is_refused(database: Database) -> None:
    listed = {"model": VECTOR, "averaging_plan": list_mean_plan(1, 4)}
    for server_config, message in (
        ({"max_diffs": 5}, "server_config.max_diffs is 5 but the averaging plan was traced for exactly 4 diffs"),
        ({"min_diffs": 3}, "server_config.min_diffs is 3 but the averaging plan was traced for exactly 4 diffs"),
        ({"max_workers": 3}, "server_config.max_workers is 3 but min_diffs is 4"),
        ({"iterative_plan": True}, "averaging_plan: it takes 4 inputs, but an iterative plan takes 3"),
        ({"aggregation": {"strategy": "weighted_mean"}}, "server_config.aggregation and averaging_plan are both set"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            host(database, upload(**listed, server_config=server_config))
        assert caught.value.message.startswith(message)
    assert rows(database) == {}


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"])
def test_layout_of_every_type_comes_back(database: Database, dtype: str) -> None:
    tensors = [np.zeros((2, 3), dtype), np.zeros((), dtype), np.zeros((0, 4), dtype)]
    process = load(database, host(database, upload(model=encode_state(tensors))))
    assert [(p.shape, p.dtype.name) for p in process.layout.parameters] == [(t.shape, dtype) for t in tensors]
    process.layout.check_diff(tensors)
