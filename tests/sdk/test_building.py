"""Training plans built from today's PyTorch: right in every variant, for every size of a batch."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gridnode.plans.interpreter import OperationList
from gridnode.plans.plan import parse_plan
from gridnode.plans.variants import plan_variants
from gridnode.sdk import SGD, PlanNotBuilt, build_plan
from gridnode.sdk.plans import BuiltPlan
from gridnode.sdk.torchscript import run_torchscript
from tests.support.sdk.models import CASES, FOR_BROWSERS, TORCHSCRIPT_ONLY, make, one_hot, train_with_autograd

# PyTorch warns that it will drop TorchScript one day.
pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

STEPS = 10
LR = 0.1


def train_torchscript(
    plan: BuiltPlan, batch: tuple[torch.Tensor, torch.Tensor], steps: int
) -> list[np.ndarray[Any, Any]]:
    params = [torch.from_numpy(array) for array in plan.parameters.values()]
    rows = torch.tensor(float(len(batch[0])))
    for _ in range(steps):
        _, _, *params = run_torchscript(plan.message.torchscript, *batch, rows, torch.tensor(LR), params)
    return [tensor.numpy() for tensor in params]


def train_operations(
    plan: BuiltPlan, batch: tuple[torch.Tensor, torch.Tensor], steps: int
) -> list[np.ndarray[Any, Any]]:
    operations = OperationList.from_plan(parse_plan(plan_variants(plan.data).list))
    params = list(plan.parameters.values())
    rows = np.asarray(len(batch[0]), np.float32)
    for _ in range(steps):
        inputs = [tensor.numpy() for tensor in batch]
        _, _, *params = operations.run([*inputs, rows, np.asarray(LR, np.float32), *params])
    return params


@pytest.mark.parametrize("name", CASES)
def test_ten_steps_are_those_of_autograd(name: str) -> None:
    module, batch = make(CASES[name])
    plan = build_plan(module, batch, **CASES[name].options)
    # Another size than the plan was built with.
    bigger = tuple(torch.cat([tensor, tensor]) for tensor in batch)

    for used in (batch, bigger):
        torchscript = train_torchscript(plan, used, STEPS)
        operations = None if name in TORCHSCRIPT_ONLY else train_operations(plan, used, STEPS)
        expected = [
            tensor.numpy() for tensor in train_with_autograd(CASES[name], make(CASES[name])[0], used, LR, STEPS)
        ]
        for wanted, *given in zip(expected, torchscript, operations or torchscript, strict=True):
            assert not np.array_equal(wanted, np.zeros_like(wanted))
            for got in given:
                np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("name", CASES)
def test_variants_that_are_missing_say_why(name: str) -> None:
    module, batch = make(CASES[name])
    plan = build_plan(module, batch, **CASES[name].options)

    assert ("list" in plan.left_out) == (name in TORCHSCRIPT_ONLY)
    assert ("tfjs" in plan.left_out) == (name not in FOR_BROWSERS)
    assert all(len(reason) > 20 for reason in plan.left_out.values())
    variants = plan_variants(plan.data)
    assert variants.torchscript
    assert (variants.tfjs is None) == ("tfjs" in plan.left_out)


def test_loss_and_accuracy_are_those_of_the_parameters_that_went_in() -> None:
    module, (X, _) = make(CASES["softmax"])  # noqa: N806 - as plans name it
    right = module(X).argmax(1)
    y = torch.where(torch.arange(6) < 4, right, (right + 1) % 5)
    plan = build_plan(module, (X, y))

    loss, accuracy, *_ = run_torchscript(
        plan.message.torchscript,
        *(X, y, torch.tensor(6.0), torch.tensor(0.1)),
        [torch.from_numpy(array) for array in plan.parameters.values()],
    )
    assert accuracy.item() == pytest.approx(4 / 6)
    assert loss.item() == pytest.approx(nn.functional.cross_entropy(module(X), y).item(), rel=1e-6)


def test_step_of_the_authors_own() -> None:
    weight, bias = torch.zeros(3, 2), torch.zeros(3)

    def step(X: Any, y: Any, batch_size: Any, lr: Any, params: Any) -> tuple[Any, ...]:  # noqa: N803 - as plans name it
        def loss_of(params: Any) -> Any:
            return ((X @ params[0].t() + params[1] - y) ** 2).sum() / batch_size

        gradients, loss = torch.func.grad_and_value(loss_of)(params)
        return loss, loss * 0, *[old - lr * gradient for old, gradient in zip(params, gradients, strict=True)]

    X, y = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 2.0]])  # noqa: N806
    plan = build_plan(step, (X, y), {"weight": weight, "bias": bias})

    assert list(plan.parameters) == ["weight", "bias"]
    loss, _, new_weight, new_bias = OperationList.from_plan(plan.message).run(
        [X.numpy(), y.numpy(), 2.0, 0.5, weight.numpy(), bias.numpy()]
    )
    assert loss == pytest.approx(5.0)
    np.testing.assert_allclose(new_bias, [0.5, 0.5, 2.0])
    np.testing.assert_allclose(new_weight, (y.t() @ X).numpy() * 0.5)


def test_step_may_give_its_parameters_as_a_list_and_numbers_are_refused() -> None:
    example = torch.ones(2, 3), torch.ones(2, 1)

    def step(X: Any, y: Any, batch_size: Any, lr: Any, params: Any) -> Any:  # noqa: N803 - as plans name it
        loss = (X @ params[0].t() - y).sum() / batch_size
        return loss, loss * 0, [params[0] - lr * X.sum(0, keepdim=True)]

    plan = build_plan(step, example, [torch.zeros(1, 3)])
    assert plan.message.output_count == 3
    with pytest.raises(PlanNotBuilt, match=r"gives 0\.5 where a tensor is expected"):
        build_plan(lambda *args: (step(*args)[0], 0.5, *step(*args)[2]), example, [torch.zeros(1, 3)])
    with pytest.raises(PlanNotBuilt, match="needs params"):
        build_plan(step, example)
    with pytest.raises(PlanNotBuilt, match="it must give loss, accuracy and the 1 new"):
        build_plan(lambda *args: step(*args)[:2], example, [torch.zeros(1, 3)])


def test_archive_holds_no_example_data_and_nothing_that_old_runtimes_choke_on() -> None:
    module, batch = make(CASES["softmax"])
    marked = (torch.full_like(batch[0], 1234.5), batch[1])
    torchscript = build_plan(module, marked).message.torchscript

    with zipfile.ZipFile(io.BytesIO(torchscript)) as archive:
        names = archive.namelist()
        contents = b"".join(archive.read(name) for name in names)
        assert int(archive.read("archive/version")) <= 5
    assert not [name for name in names if name.endswith(".debug_pkl") or "traced_inputs" in name or ".data" in name]
    assert np.float32(1234.5).tobytes() not in contents
    # Neither are the parameters: they travel as checkpoints.
    assert next(module.parameters()).detach().numpy().tobytes() not in contents


def test_same_model_gives_the_same_bytes() -> None:
    module, batch = make(CASES["cnn"])

    assert build_plan(module, batch).data == build_plan(module, batch).data


@pytest.mark.parametrize(
    ("module", "options", "reason"),
    [
        (lambda: nn.Sequential(nn.Linear(20, 5), nn.Dropout()), {}, r"layer '1' is dropout.*\.eval\(\)"),
        (lambda: nn.Sequential(nn.Linear(20, 5), nn.BatchNorm1d(5)), {}, "layer '1' is batch norm.*GroupNorm"),
        (lambda: nn.Linear(20, 5).requires_grad_(False), {}, "no parameter to train"),
        (lambda: nn.Linear(20, 5).double(), {}, "float64"),
        (lambda: nn.Linear(20, 5), {"loss": "hinge"}, "no loss 'hinge'.*cross_entropy"),
        (lambda: nn.Linear(20, 5), {"loss": lambda outputs, y: outputs - y}, r"shape \[\d, 5\].*one number"),
        (lambda: nn.Linear(20, 5), {"optimizer": SGD(momentum=0.9)}, "momentum has no effect.*local_steps"),
        (lambda: nn.Linear(20, 5), {"proximal": 0.1}, "proximal has no effect"),
        (lambda: nn.Linear(20, 5), {"local_steps": 0}, "local_steps is 0"),
        (lambda: nn.Linear(20, 5), {"params": []}, "params are given beside a module"),
        (lambda: nn.Linear(21, 5), {}, "failed on the example batch, RuntimeError"),
        (lambda: nn.LSTM(20, 5), {}, "gives a tuple, not one tensor"),
    ],
)
def test_what_phones_could_not_train_is_refused_with_the_reason(module: Any, options: Any, reason: str) -> None:
    with pytest.raises(PlanNotBuilt, match=reason):
        build_plan(module(), (torch.randn(6, 20), one_hot(6, 5)), **options)


@pytest.mark.parametrize(
    ("loss", "reason"),
    [
        (lambda outputs, y: (outputs * torch.rand_like(outputs)).mean(), "random numbers"),
        (lambda outputs, y: outputs.mean() if outputs.sum() > 0 else y.mean(), "looks at a tensor's value"),
        (lambda outputs, y: outputs.sum() / (outputs.shape[0] - 1), "no proportion"),
        (
            lambda outputs, y: outputs.mean() if outputs.shape[0] < 4 else outputs.mean() * 2,
            "another size of the batch",
        ),
        (lambda outputs, y: torch.linalg.inv(outputs.t() @ outputs).mean(), "has no form that phones of 2020 know"),
    ],
    ids=["random", "value", "rows-1", "control-flow", "operator"],
)
def test_steps_that_are_no_plan_are_refused_with_the_reason(loss: Any, reason: str) -> None:
    with pytest.raises(PlanNotBuilt, match=reason):
        build_plan(nn.Linear(20, 5), (torch.randn(6, 20), one_hot(6, 5)), loss=loss)
