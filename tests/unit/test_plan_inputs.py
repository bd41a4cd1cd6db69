"""A training plan is refused with a model that it was not traced with, and no other plan is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from gridnode.errors import InvalidRequest
from gridnode.plans.plan import Plan, parse_plan
from gridnode.processes.plan_inputs import Shape, check_plan_inputs
from gridnode.protocol.syft_proto import decode_state
from tests.support.plan_builder import Action, Value, plan_of
from tests.support.recordings import DATA
from tests.support.syft_messages import parse

X, Y, ONE, MATRIX, VECTOR = (3, 4), (3, 2), (1,), (2, 4), (2,)
MODEL: list[Shape] = [MATRIX, VECTOR]


def plan(*shapes: Shape | None) -> Plan:
    """A plan with inputs of these shapes; None for one whose shape is not said."""
    inputs = [Value(f"in{number}") for number in range(len(shapes))]
    message = parse("Plan", plan_of([Action("torch.relu", args=[Value("in0")])], inputs))
    for value, shape in zip(inputs, shapes, strict=True):
        placeholder = message.role.placeholders.add()
        placeholder.id.id_int = value.id
        if shape is not None:
            placeholder.expected_shape.SetInParent()
            placeholder.expected_shape.dims.extend(shape)
    return parse_plan(message.SerializeToString())


def refusal(given: Plan, model: Sequence[Shape]) -> str:
    with pytest.raises(InvalidRequest) as caught:
        check_plan_inputs("plans.training_plan", given, model)
    return caught.value.message


@pytest.mark.parametrize(
    "shapes",
    [
        (X, Y, ONE, ONE, MATRIX, VECTOR),
        (X, Y, (), (), MATRIX, VECTOR),
        (X, Y, ONE, ONE, ONE, MATRIX, VECTOR),  # a third hyperparameter
        (X, Y, MATRIX, VECTOR),  # none at all
        (X, X, Y, ONE, ONE, MATRIX, VECTOR),  # data of two kinds
        (X, MATRIX, VECTOR),
        (None,) * 6,
        (None, None, None, None, MATRIX, None),
    ],
)
def test_plan_for_the_model_passes_however_it_is_called(shapes: tuple[Shape | None, ...]) -> None:
    check_plan_inputs("plans.training_plan", plan(*shapes), MODEL)


@pytest.mark.parametrize(
    ("shapes", "model", "found"),
    [
        ((X, Y, ONE, ONE, MATRIX, VECTOR), [VECTOR], 2),
        ((X, Y, ONE, ONE, MATRIX, VECTOR), [MATRIX, VECTOR, MATRIX], 2),
        ((X, Y, ONE, ONE, ONE, VECTOR), [ONE, ONE, VECTOR], 2),
        ((X, Y, ONE, ONE, MATRIX), MODEL, 1),
        ((None,) * 2, MODEL, 1),
    ],
)
def test_number_of_parameters_is_that_of_the_model(
    shapes: tuple[Shape | None, ...], model: list[Shape], found: int
) -> None:
    message = refusal(plan(*shapes), model)
    assert message.startswith(f"plans.training_plan takes {found} parameters, but model has {len(model)}: ")


def test_shapes_of_parameters_are_those_of_the_model() -> None:
    given = plan(X, Y, ONE, ONE, MATRIX, VECTOR)
    assert refusal(given, [MATRIX, (3,)]).startswith(
        "plans.training_plan takes parameter 1 with shape [2], but in model it has shape [3]: "
    )
    assert "parameter 0 with shape [2, 4], but in model it has shape [4, 2]" in refusal(given, [(4, 2), VECTOR])
    assert "parameter 0 with shape [2, 4]" in refusal(plan(X, Y, MATRIX, VECTOR), [(4, 2), VECTOR])


def test_scalar_parameters_are_not_taken_for_hyperparameters() -> None:
    check_plan_inputs("plans.training_plan", plan(X, Y, ONE, ONE, ONE, ONE), [ONE, ONE])


RECORDED = sorted(DATA.glob("**/*training_plan*.bin"))


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: "-".join(path.relative_to(DATA).parts[1:]))
def test_no_recorded_process_is_refused(path: Path) -> None:
    model = next(path.parent.glob("state.bin"), DATA / "models" / "tiny" / "state.bin")
    shapes = [tensor.shape for tensor in decode_state(model.read_bytes()).tensors]
    given = parse_plan(path.read_bytes())
    assert given.input_shapes[-len(shapes) :] == shapes
    check_plan_inputs("plans.training_plan", given, shapes)
    with pytest.raises(InvalidRequest):
        check_plan_inputs("plans.training_plan", given, shapes[1:])
