"""Whether a training plan is for the model that it is hosted with, as far as its inputs tell."""

from __future__ import annotations

from collections.abc import Sequence

from gridnode.errors import InvalidRequest
from gridnode.plans.plan import Plan

Shape = tuple[int, ...]

# What phones pass a training plan before the model's parameters: X, y, batch_size, lr.
_DATA = 2
_HYPERPARAMETERS = 2
_SCALARS: tuple[Shape, ...] = ((), (1,))


def check_plan_inputs(field: str, plan: Plan, parameters: Sequence[Shape]) -> None:
    """Refuse a training plan that was traced for another model.

    The parameters are a plan's last inputs. What comes before them is the author's to choose, but where it begins as
    all known clients call it, with batch_size and lr behind the data, the number of parameters is told from it too. A
    plan that doesn't say shapes is looked at for the number of its inputs only, one that lists no inputs not at all.

    Args:
        field: of the upload, for the error.
        plan: the training plan.
        parameters: shapes of the model's parameters.

    Raises:
        InvalidRequest: names the field, and the numbers or shapes that differ.
    """
    inputs = plan.input_shapes
    if not inputs:
        return
    found = _parameter_count(inputs, len(parameters))
    if found != len(parameters):
        raise InvalidRequest(
            f"{field} takes {found} parameters, but model has {len(parameters)}: host the model that the plan was "
            "traced with. A training plan's inputs are X, y, batch_size, lr, and then each parameter of the model."
        )
    last = inputs[len(inputs) - len(parameters) :]
    for index, (expected, actual) in enumerate(zip(last, parameters, strict=True)):
        if expected is not None and expected != actual:
            raise InvalidRequest(
                f"{field} takes parameter {index} with shape {list(expected)}, but in model it has shape "
                f"{list(actual)}: host the model that the plan was traced with"
            )


def _parameter_count(inputs: Sequence[Shape | None], wanted: int) -> int:
    """How many parameters a plan takes: ``wanted`` if that can be."""
    begin = _DATA + _HYPERPARAMETERS
    if not all(shape in _SCALARS for shape in inputs[_DATA:begin]) or len(inputs) <= begin:
        # Not called as usual, or without shapes. At least the data comes before the parameters.
        return min(wanted, len(inputs) - 1)
    rest = inputs[begin:]
    # Further hyperparameters look like parameters that are scalars.
    surely = len(rest)
    while surely > 0 and rest[len(rest) - surely] in _SCALARS:
        surely -= 1
    return max(surely, min(wanted, len(rest)))
