"""Built plans in the LibTorch that phones have: ten steps, compared with today's PyTorch."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from gridnode.sdk import BuiltPlan, build_plan
from tests.support.sdk.models import CASES, make, train_with_autograd
from tests.support.sdk.runtimes import Runtime

pytestmark = [
    pytest.mark.runtimes,
    pytest.mark.torch,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore"),
]

STEPS = 10
LR = 0.1


@functools.cache
def built(name: str) -> BuiltPlan:
    """The plan of a case, built once for all runtimes."""
    module, batch = make(CASES[name])
    return build_plan(module, batch, **CASES[name].options)


@pytest.mark.parametrize("name", CASES)
def test_ten_steps_are_those_of_todays_pytorch(name: str, phone: Runtime) -> None:
    _, batch = make(CASES[name])
    plan = built(name)
    rows = np.asarray(len(batch[0]), np.float32)
    inputs = [tensor.numpy() for tensor in batch]
    arguments = [*inputs, rows, np.asarray(LR, np.float32), list(plan.parameters.values())]

    loss, accuracy, *trained = phone.train(plan.message.torchscript, arguments, STEPS)

    expected = train_with_autograd(CASES[name], make(CASES[name])[0], batch, LR, STEPS)
    for got, wanted in zip(trained, expected, strict=True):
        np.testing.assert_allclose(got, wanted.numpy(), rtol=1e-5, atol=2e-6)
    assert np.isfinite(loss)
    assert 0 <= accuracy <= 1


@pytest.mark.parametrize("name", ["softmax", "classes", "momentum"])
def test_apps_may_pass_the_batch_size_as_an_integer_and_targets_too(name: str, phone: Runtime) -> None:
    _, (X, y) = make(CASES[name])  # noqa: N806 - as plans name it
    plan = built(name)
    parameters = list(plan.parameters.values())
    usual = [X.numpy(), y.numpy(), np.asarray(6, np.float32), np.asarray(LR, np.float32), parameters]
    others = [X.numpy(), y.numpy().astype(np.int64), np.array([6]), np.array([LR], np.float32), parameters]

    wanted = phone.train(plan.message.torchscript, usual, STEPS)
    given = phone.train(plan.message.torchscript, others, STEPS)

    for got, want in zip(given, wanted, strict=True):
        np.testing.assert_allclose(got.reshape(want.shape), want, rtol=1e-6, atol=1e-7)
    assert [got.shape for got in given[2:]] == [parameter.shape for parameter in parameters]
