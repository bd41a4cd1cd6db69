"""One simulated phone against a node that answers from a script."""

from __future__ import annotations

import base64
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from gridnode.errors import InvalidRequest
from gridnode.protocol.syft_proto import State, decode_state
from gridnode.simulation.contract import Accepted, Refused, Speed, Unreachable
from gridnode.simulation.datasets import Examples
from gridnode.simulation.device_client import DeviceClient
from gridnode.simulation.evaluation import Scoreboard
from gridnode.simulation.phone import Behaviour, Phone, Target
from gridnode.simulation.plan_cache import PlanCache
from gridnode.simulation.training import ClientConfig, UnusablePlan, train
from tests.support.mlp import (
    asset,
    recorded_parameters,
    recorded_plan,
    score_by_hand,
    some_digits,
    step_by_hand,
)

Answer = Mapping[str, Any] | Exception


def accepted(**client_config: Any) -> dict[str, Any]:
    return {
        "status": "accepted",
        "request_key": "ab" * 32,
        "version": "1.0",
        "model": "digits",
        "plans": {"training_plan": 7},
        "protocols": {},
        "client_config": {"batch_size": 5, "lr": 0.1, "max_updates": 2, **client_config},
        "model_id": 3,
    }


class ScriptedNode(DeviceClient):
    """Answers each kind of request with the next answer of its list; the last one stays."""

    transport = "http"

    def __init__(self, **answers: list[Answer]) -> None:
        super().__init__("http://node.test")
        self.answers: dict[str, list[Answer]] = {
            "authenticate": [{"status": "success", "worker_id": "worker-1", "requires_speed_test": False}],
            "cycle-request": [accepted()],
            "report": [{"status": "success"}],
            **{name.replace("_", "-"): list(given) for name, given in answers.items()},
        }
        self.requests: list[tuple[str, dict[str, Any]]] = []

    def asked(self, action: str) -> list[dict[str, Any]]:
        return [data for name, data in self.requests if name == action]

    def measure_speed(self, worker_id: str) -> Speed:
        self.requests.append(("speed-test", {"worker_id": worker_id}))
        return Speed(12.0, 50.0, 5.0)

    def _ask(self, action: str, data: Mapping[str, Any]) -> dict[str, Any]:
        self.requests.append((action, dict(data)))
        answers = self.answers[action]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return dict(answer)

    def _download(self, action: str, place: Accepted, **parameters: str | int) -> bytes:
        self.requests.append((action, dict(parameters)))
        return asset("mlp.state.bin" if action == "get-model" else "mlp.training_plan.bin")


class Patience(threading.Event):
    """A stop event whose waits take no time; remembers them."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout or 0.0)
        return self.is_set()


def phone(node: ScriptedNode, behaviour: Behaviour | None = None, shard_size: int = 12) -> Phone:
    return Phone(
        number=0,
        shard=some_digits(shard_size),
        target=Target("digits", "1.0", "token"),
        connect=lambda: node,
        plans=PlanCache(),
        rng=np.random.default_rng(1),
        behaviour=behaviour or Behaviour(),
    )


def reported_diff(report: Mapping[str, Any]) -> State:
    return decode_state(base64.b64decode(report["diff"], validate=True))


@pytest.fixture
def patience() -> Patience:
    return Patience()


def test_session_follows_the_contract_in_order(patience: Patience) -> None:
    node = ScriptedNode()

    session = phone(node).take_part(patience)

    assert [name for name, _ in node.requests] == ["authenticate", "cycle-request", "get-model", "get-plan", "report"]
    assert node.asked("authenticate") == [{"model_name": "digits", "model_version": "1.0", "auth_token": "token"}]
    assert node.asked("cycle-request")[0].items() >= {"worker_id": "worker-1", "model": "digits"}.items()
    assert node.asked("get-model") == [{"model_id": 3}]
    assert node.asked("get-plan") == [{"plan_id": 7, "receive_operations_as": "list"}]
    assert session.outcome == "reported"
    assert session.accepted


def test_first_phone_of_a_checkpoint_scores_it(patience: Patience) -> None:
    node = ScriptedNode()
    held_out = some_digits(14)
    scoreboard = Scoreboard(held_out)
    sessions = []
    for _ in range(2):
        device = phone(node)
        device.scoreboard = scoreboard
        sessions.append(device.take_part(patience))

    first, second = sessions
    # In batches of five as the phones take them, so that four of fourteen are left over.
    loss, accuracy = score_by_hand(recorded_parameters(), held_out.take(np.arange(10)))
    assert first.evaluation is not None
    assert (first.evaluation.loss, first.evaluation.accuracy) == pytest.approx((loss, accuracy), rel=1e-5)
    assert second.evaluation is None


def test_examples_that_do_not_fit_the_plan_are_not_scored(patience: Patience) -> None:
    node = ScriptedNode()
    device = phone(node)
    device.scoreboard = Scoreboard(Examples(np.ones((10, 3), np.float32), np.ones((10, 10), np.float32)))

    session = device.take_part(patience)

    assert (session.outcome, session.evaluation) == ("reported", None)


def test_report_is_old_minus_new_with_its_figures(patience: Patience) -> None:
    node = ScriptedNode(cycle_request=[accepted(batch_size=12, max_updates=1)])
    device = phone(node)

    device.take_part(patience)

    (report,) = node.asked("report")
    old = recorded_parameters()
    for found, before, after in zip(
        reported_diff(report).tensors, old, step_by_hand(old, device.shard, lr=0.1), strict=True
    ):
        assert found.dtype == np.float32
        assert np.allclose(found, before - after, rtol=1e-4, atol=1e-7)
    loss, accuracy = score_by_hand(old, device.shard)
    assert report["worker_id"] == "worker-1"
    assert report["request_key"] == "ab" * 32
    assert report["num_samples"] == 12
    assert report["loss"] == pytest.approx(loss, rel=1e-5)
    assert report["accuracy"] == pytest.approx(accuracy)


def test_training_takes_max_updates_steps_one_after_the_other() -> None:
    """With the whole shard as batch the order inside does not matter, so three steps can be followed by hand."""
    shard, parameters = some_digits(8), recorded_parameters()

    update = train(recorded_plan(), parameters, shard, ClientConfig(8, 0.2, 3), np.random.default_rng(0))

    expected = parameters
    for _ in range(3):
        expected = step_by_hand(expected, shard, lr=0.2)
    for found, before, after in zip(update.diff, parameters, expected, strict=True):
        assert np.allclose(found, before - after, rtol=1e-3, atol=1e-6)


def test_batches_have_the_configured_size_and_use_the_whole_shard() -> None:
    seen: list[np.ndarray[Any, Any]] = []

    class Watched:
        def step(self, batch: Any, lr: float, parameters: Any) -> Any:
            seen.append(batch.inputs)
            return recorded_plan().step(batch, lr, parameters)

    shard = some_digits(10)
    update = train(Watched(), recorded_parameters(), shard, ClientConfig(4, 0.1, 5), np.random.default_rng(0))

    assert [len(batch) for batch in seen] == [4] * 5
    rows = [row.tobytes() for row in np.concatenate(seen)]
    # 20 places for 10 examples: each twice.
    assert sorted(rows) == sorted(2 * [row.tobytes() for row in shard.inputs])
    assert update.num_samples == 10


def test_shard_smaller_than_a_batch_fills_it_by_repetition() -> None:
    update = train(
        recorded_plan(), recorded_parameters(), some_digits(3), ClientConfig(8, 0.1, 1), np.random.default_rng(0)
    )

    assert update.num_samples == 3


def test_phone_that_drops_out_vanishes_after_being_accepted(patience: Patience) -> None:
    node = ScriptedNode()

    session = phone(node, Behaviour(dropout=1.0)).take_part(patience)

    assert (session.outcome, session.accepted) == ("dropped", True)
    assert [name for name, _ in node.requests] == ["authenticate", "cycle-request"]


def test_dropout_is_a_probability(patience: Patience) -> None:
    node = ScriptedNode(cycle_request=[accepted(batch_size=1, max_updates=1)])
    device = phone(node, Behaviour(dropout=0.3))

    outcomes = [device.take_part(patience).outcome for _ in range(100)]

    assert 20 <= outcomes.count("dropped") <= 40
    assert outcomes.count("dropped") + outcomes.count("reported") == 100


def test_duplicate_report_is_the_same_report(patience: Patience) -> None:
    node = ScriptedNode()

    session = phone(node, Behaviour(duplicate_report=1.0)).take_part(patience)

    first, second = node.asked("report")
    assert first == second
    assert (session.outcome, session.duplicates) == ("reported", 1)


def test_refused_duplicate_does_not_undo_the_report(patience: Patience) -> None:
    node = ScriptedNode(report=[{"status": "success"}, Refused("cycle over", 400)])

    session = phone(node, Behaviour(duplicate_report=1.0)).take_part(patience)

    assert (session.outcome, session.error) == ("reported", "repeated report: cycle over")


def test_slow_phone_takes_its_factor_longer(patience: Patience) -> None:
    fast, slow = Patience(), patience
    phone(ScriptedNode(), Behaviour(slowness=1.0)).take_part(fast)
    phone(ScriptedNode(), Behaviour(slowness=1001.0)).take_part(slow)

    assert fast.waits == [0.0]
    # A thousand times the time of a training, which takes some milliseconds.
    assert slow.waits[0] > 0.5


@pytest.mark.parametrize(
    ("answer", "outcome", "retry_after"),
    [({"status": "rejected", "timeout": 30}, "rejected", 30), ({"status": "rejected"}, "finished", None)],
)
def test_rejection_ends_the_session(
    patience: Patience, answer: dict[str, Any], outcome: str, retry_after: int | None
) -> None:
    node = ScriptedNode(cycle_request=[answer])

    session = phone(node).take_part(patience)

    assert (session.outcome, session.retry_after, session.accepted) == (outcome, retry_after, False)
    assert node.requests[-1][0] == "cycle-request"


def test_worker_id_is_kept_for_the_next_session(patience: Patience) -> None:
    node = ScriptedNode()
    device = phone(node)

    device.take_part(patience)
    device.take_part(patience)

    assert len(node.asked("authenticate")) == 1
    assert [request["worker_id"] for request in node.asked("cycle-request")] == ["worker-1", "worker-1"]


def test_phone_authenticates_again_when_its_worker_is_unknown(patience: Patience) -> None:
    node = ScriptedNode(cycle_request=[accepted(), Refused("unknown worker", 400), accepted()])
    device = phone(node)

    device.take_part(patience)
    node.answers["authenticate"] = [{"status": "success", "worker_id": "worker-2", "requires_speed_test": False}]

    assert device.take_part(patience).outcome == "reported"
    assert node.asked("report")[-1]["worker_id"] == "worker-2"


def test_speed_is_measured_only_if_required(patience: Patience) -> None:
    required: list[Answer] = [{"status": "success", "worker_id": "worker-1", "requires_speed_test": True}]
    node, other = ScriptedNode(authenticate=required), ScriptedNode()

    phone(node).take_part(patience)
    phone(other).take_part(patience)

    assert node.asked("cycle-request")[0].items() >= {"ping": 12.0, "download": 50.0, "upload": 5.0}.items()
    assert other.asked("cycle-request")[0].items() >= {"ping": 0, "download": 0, "upload": 0}.items()
    assert not other.asked("speed-test")


def test_unanswered_report_is_sent_again_unchanged(patience: Patience) -> None:
    node = ScriptedNode(report=[Unreachable("gone"), Unreachable("busy", 4.0), {"status": "success"}])

    session = phone(node).take_part(patience)

    first, second, third = node.asked("report")
    assert first == second == third
    assert session.outcome == "reported"
    assert patience.waits[-2:] == [0.5, 4.0]


def test_phone_waits_longer_each_time(patience: Patience) -> None:
    phone(ScriptedNode(report=[Unreachable("gone")])).take_part(patience)

    assert patience.waits[-4:] == [0.5, 1.0, 2.0, 4.0]


def test_phone_gives_up_a_report_that_nobody_answers(patience: Patience) -> None:
    node = ScriptedNode(report=[Unreachable("gone", 9.0)])

    session = phone(node).take_part(patience)

    assert len(node.asked("report")) == 5
    assert (session.outcome, session.error, session.retry_after) == ("unreachable", "gone", 9.0)


def test_stopped_phone_does_not_repeat_its_report(patience: Patience) -> None:
    node = ScriptedNode(report=[Unreachable("gone")])
    patience.set()

    phone(node).take_part(patience)

    assert len(node.asked("report")) == 1


def test_refused_report_is_told(patience: Patience) -> None:
    node = ScriptedNode(report=[Refused("the cycle is over", 400)])

    session = phone(node).take_part(patience)

    assert (session.outcome, session.error) == ("refused", "the cycle is over")


def test_process_that_does_not_exist_is_an_error(patience: Patience) -> None:
    node = ScriptedNode(authenticate=[Refused("no such process", 401)])

    with pytest.raises(Refused, match="no such process"):
        phone(node).take_part(patience)


def test_only_plan_is_the_training_plan_whatever_its_name(patience: Patience) -> None:
    node = ScriptedNode(cycle_request=[{**accepted(), "plans": {"step": 9}}])

    phone(node).take_part(patience)

    assert node.asked("get-plan")[0]["plan_id"] == 9


@pytest.mark.parametrize("plans", [{}, {"one": 1, "other": 2}])
def test_unclear_training_plan_is_an_error(patience: Patience, plans: dict[str, int]) -> None:
    node = ScriptedNode(cycle_request=[{**accepted(), "plans": plans}])

    with pytest.raises(UnusablePlan, match="which plan"):
        phone(node).take_part(patience)


@pytest.mark.parametrize("config", [{"lr": None}, {"batch_size": 0}, {"max_updates": True}, {"lr": "0.1"}])
def test_unusable_client_config_is_an_error(config: dict[str, Any]) -> None:
    with pytest.raises(UnusablePlan, match=next(iter(config))):
        ClientConfig.from_answer({"batch_size": 5, "lr": 0.1, "max_updates": 2, **config})


@pytest.mark.parametrize("wrong", [{"dropout": 1.1}, {"duplicate_report": -0.1}, {"slowness": 0.5}])
def test_impossible_behaviour_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidRequest, match=next(iter(wrong))):
        Behaviour(**wrong)


def test_plan_is_compiled_once_for_all_phones() -> None:
    plans = PlanCache()

    assert plans.get(asset("mlp.training_plan.bin")) is plans.get(asset("mlp.training_plan.bin"))
