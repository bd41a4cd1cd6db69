"""Everything of an upload is checked before anything is stored, and what is wrong is refused with its field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from gridnode.averaging.hosted_plan import SandboxLimits
from gridnode.errors import InvalidRequest
from gridnode.processes.hosting import Upload, check_upload
from gridnode.protocol.syft_proto import encode_state
from tests.support.averaging_plans import one_operation_plan, running_mean_plan
from tests.support.plan_builder import without_shapes
from tests.support.recordings import DATA

TRACED = (DATA / "models" / "tiny" / "training_plan.uploaded.bin").read_bytes()
PLAN = without_shapes(TRACED)
VECTOR = encode_state([np.zeros(3, np.float32)])
NAN = encode_state([np.full(3, np.nan, np.float32)])
CLIENT = {"name": "mnist", "version": "1.0", "batch_size": 64, "lr": 0.01, "max_updates": 100}
FIELDS: Mapping[str, Any] = {
    "model": encode_state([np.zeros((2, 3), np.float32), np.zeros(2, np.float32)]),
    "plans": {"training_plan": PLAN},
    "protocols": {},
    "averaging_plan": b"",
    "client_config": CLIENT,
    "server_config": {},
}


def check(**fields: Any) -> None:
    check_upload(Upload(**{**FIELDS, **fields}), SandboxLimits())


def test_upload_that_is_right_passes() -> None:
    check()
    # Only the training plan takes what phones pass it.
    check(plans={"training_plan": PLAN, "evaluation": TRACED})
    check(averaging_plan=running_mean_plan(2), server_config={"iterative_plan": True})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": b""}, "model is missing"),
        ({"model": b"\xff\xff"}, "model: "),
        ({"model": NAN}, "model: parameter 0 has NaN or infinite values"),
        ({"plans": {}}, "plans is empty"),
        ({"plans": {"train": b""}}, "plans.train: "),
        ({"plans": {"train": b"no plan"}}, "plans.train: "),
        ({"plans": {"": PLAN}}, "plans has a name"),
        ({"plans": {"a\x00": PLAN}}, "plans has a name"),
        ({"plans": {"n" * 256: PLAN}}, "plans has a name"),
        ({"plans": {f"plan{number}": PLAN for number in range(101)}}, "plans has 101 entries"),
        (
            {"plans": {"train": TRACED}},
            "plans.train takes parameter 0 with shape [2, 4], but in model it has shape [2, 3]",
        ),
        ({"plans": {"training_plan": TRACED, "other": PLAN}}, "plans.training_plan takes parameter 0 "),
        ({"protocols": {"secure": b""}}, "protocols.secure is empty"),
        ({"protocols": {"a\nb": b"x"}}, "protocols has a name"),
        ({"averaging_plan": b"no plan"}, "averaging_plan: "),
        ({"averaging_plan": running_mean_plan(2)}, "averaging_plan: it takes 5 inputs"),
        ({"averaging_plan": one_operation_plan("no_such_operation"), "model": VECTOR}, "averaging_plan: "),
        ({"client_config": None}, "client_config is missing"),
        ({"client_config": {**CLIENT, "lr": "high"}}, "client_config.lr: "),
        ({"server_config": {"max_wrkers": 1}}, "server_config.max_wrkers is not a key"),
        ({"server_config": {"num_cycles": -1}}, "server_config.num_cycles: "),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_upload_that_is_wrong_is_refused_with_the_field(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check(**fields)
    assert caught.value.message.startswith(message)
