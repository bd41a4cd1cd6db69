"""Operation lists give in NumPy what PyTorch gave, and what can't be run is refused before it runs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from gridnode.plans.interpreter import OperationList
from gridnode.plans.operations import OPERATIONS, find_operation
from gridnode.plans.plan import InvalidPlan, parse_plan
from gridnode.protocol.syft_proto import decode_state
from tests.support.plan_builder import Action, Value, plan_of
from tests.support.recordings import DATA, Run, load_run
from tests.support.syft_messages import parse

IN, OTHER, OUT = Value("in"), Value("other"), Value("out")


def compile_plan(data: bytes) -> OperationList:
    return OperationList.from_plan(parse_plan(data))


# --- recorded plans ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["tiny", "mlp"])
def test_training_plan_gives_what_pytorch_gave(model: str) -> None:
    folder = DATA / "models" / model
    recorded = np.load(folder / "training_plan.exec.npz")
    parameters = [name for name in sorted(recorded.files) if name.startswith("p")]
    operations = compile_plan((folder / "training_plan.uploaded.bin").read_bytes())
    inputs = [recorded[name] for name in ("X", "y", "batch_size", "lr", *parameters)]

    outputs = operations.run(inputs)

    names = ["list_loss", "list_acc", *(f"list_new_{name}" for name in parameters)]
    assert operations.input_count == len(inputs)
    assert operations.output_count == len(names)
    for name, output in zip(names, outputs, strict=True):
        assert (output.dtype, output.shape) == (recorded[name].dtype, recorded[name].shape), name
        np.testing.assert_allclose(output, recorded[name], rtol=1e-6, atol=1e-7, err_msg=name)


def test_inputs_are_not_changed_and_runs_do_not_meet() -> None:
    folder = DATA / "models" / "tiny"
    recorded = np.load(folder / "training_plan.exec.npz")
    operations = compile_plan((folder / "training_plan.uploaded.bin").read_bytes())
    inputs = [recorded[name].copy() for name in ("X", "y", "batch_size", "lr", "p0", "p1")]
    before = [value.copy() for value in inputs]

    first = [output.copy() for output in operations.run(inputs)]
    operations.run([value * 2 for value in inputs])
    second = operations.run(inputs)

    for value, unchanged in zip(inputs, before, strict=True):
        assert value.tobytes() == unchanged.tobytes()
    for one, other in zip(first, second, strict=True):
        assert one.tobytes() == other.tobytes()


def average_iteratively(run: Run, diffs: list[tuple[np.ndarray[Any, Any], ...]]) -> list[np.ndarray[Any, Any]]:
    operations = compile_plan(run.hosting.averaging_plan)
    average = list(diffs[0])
    for number, diff in enumerate(diffs[1:], start=1):
        average = operations.run([*average, *diff, np.array([number])])
    return average


def average_at_once(run: Run, diffs: list[tuple[np.ndarray[Any, Any], ...]]) -> list[np.ndarray[Any, Any]]:
    return compile_plan(run.hosting.averaging_plan).run([tensor for diff in diffs for tensor in diff])


@pytest.mark.parametrize("name", ["tiny-iter", "tiny-iter7", "tiny-param", "jwt-secret", "syftjs-tiny", "tiny-noniter"])
def test_averaging_plan_gives_the_recorded_checkpoints(name: str) -> None:
    run = load_run(name)
    average_of = average_at_once if name == "tiny-noniter" else average_iteratively
    for cycle, reports in enumerate(run.diffs):
        average = average_of(run, [decode_state(report).tensors for report in reports])
        old, new = (decode_state(run.checkpoints[number]).tensors for number in (cycle, cycle + 1))
        for before, change, after in zip(old, average, new, strict=True):
            assert (before - change).tobytes() == after.tobytes()


@pytest.mark.parametrize("number", [3, np.array(3), np.array([3]), np.float32(3), 3.0])
def test_number_of_averaged_diffs_may_be_any_kind_of_number(number: Any) -> None:
    operations = compile_plan((DATA / "models" / "tiny" / "avg_plan.iterative.bin").read_bytes())
    one = [np.full((2, 4), 1, np.float32), np.full(2, 1, np.float32)]
    five = [np.full((2, 4), 5, np.float32), np.full(2, 5, np.float32)]
    for output, shape in zip(operations.run([*one, *five, number]), [(2, 4), (2,)], strict=True):
        assert output.dtype == np.float32
        assert output.tolist() == np.full(shape, 2).tolist()


# --- single operations ------------------------------------------------------------------------------------------------

F32, F64, F16, I64, I32, U8, BOOL = np.float32, np.float64, np.float16, np.int64, np.int32, np.uint8, np.bool_
MATRIX = np.array([[1, -2, 3], [4, 5, -6]], F32)
VECTOR = np.array([1, 2, 4], F32)


def run_one(command: str, inputs: list[Any], args: list[Any], kwargs: dict[str, Any], returns: int = 1) -> list[Any]:
    """Run one operation whose first input is its target and whose others come before ``args``."""
    values = [Value(f"in{number}") for number in range(len(inputs))]
    results = [Value(f"out{number}") for number in range(returns)]
    action = Action(command, values[0], [*values[1:], *args], kwargs, results)
    return compile_plan(plan_of([action], values, results)).run(inputs)


def test_every_operation_is_called_by_the_cases_below() -> None:
    """A new operation comes with a case."""
    called = {case[0] for case in CASES} | {case[0] for case in SEVERAL_RESULTS}
    functions = {find_operation(command)[0] for command in called}
    assert {name for name, function in OPERATIONS.items() if function not in functions and name not in called} == set()


def f32(*values: Any) -> np.ndarray[Any, Any]:
    return np.array(values, F32)


def i64(*values: Any) -> np.ndarray[Any, Any]:
    return np.array(values, I64)


Case = tuple[str, list[Any], list[Any], dict[str, Any], Any]

# Command, tensors, other arguments, keyword arguments, and what PyTorch gives for them.
CASES: list[Case] = [
    ("abs", [f32(-1, 2)], [], {}, f32(1, 2)),
    ("acos", [f32(1, 0)], [], {}, f32(0, math.pi / 2)),
    ("add", [f32(1, 2), f32(3, 4)], [], {}, f32(4, 6)),
    ("add", [f32(1, 2), f32(3, 4)], [], {"alpha": 2}, f32(7, 10)),
    ("add", [f32(1, 2)], [0.5], {}, f32(1.5, 2.5)),
    ("add", [i64(1, 2)], [1], {}, i64(2, 3)),
    ("add", [i64(1, 2)], [0.5], {}, f32(1.5, 2.5)),
    ("add", [np.array([True, False])], [1], {}, i64(2, 1)),
    ("add", [f32(1), i64(2)], [], {}, f32(3)),
    ("add", [np.array([1], F16), i64(2)], [], {}, np.array([3], F16)),
    ("add", [np.array([1], F64), f32(2)], [], {}, np.array([3], F64)),
    ("add", [np.array([1], U8), np.array([2], np.int8)], [], {}, np.array([3], np.int16)),
    ("add", [f32(1), np.array(2, F64)], [], {}, f32(3)),
    ("add", [np.array([1], I32), np.array(2, I64)], [], {}, np.array([3], I32)),
    ("add", [np.array([1], I32), np.array(0.5, F64)], [], {}, np.array([1.5], F64)),
    ("__add__", [f32(1)], [f32(1, 2)], {}, f32(2, 3)),
    ("__radd__", [f32(1)], [2], {}, f32(3)),
    ("__iadd__", [f32(1)], [2], {}, f32(3)),
    ("add_", [f32(1, 2), f32(3, 4)], [], {}, f32(4, 6)),
    ("add_", [f32(1, 2), i64(1, 1)], [], {}, f32(2, 3)),
    ("add_", [f32(1, 2), np.array([1, 1], F64)], [], {}, f32(2, 3)),
    ("addmm", [f32([1, 1]), MATRIX, MATRIX.T], [], {}, f32([15, -23], [-23, 78])),
    ("addmm", [f32([1, 1]), MATRIX, MATRIX.T], [], {"beta": 2, "alpha": 10}, f32([142, -238], [-238, 772])),
    ("all", [np.array([True, False])], [], {}, np.array(False)),
    ("all", [np.array([[True, False], [True, True]])], [1], {"keepdim": True}, np.array([[False], [True]])),
    ("any", [np.array([[True, False], [False, False]])], [], {"dim": 1}, np.array([True, False])),
    ("__and__", [np.array([True, True])], [np.array([1, 0], BOOL)], {}, np.array([True, False])),
    ("argmax", [MATRIX], [], {}, np.array(4, I64)),
    ("argmax", [MATRIX], [], {"dim": 1}, i64(2, 1)),
    ("torch.argmax", [MATRIX], [], {"dim": 1, "keepdim": True}, i64([2], [1])),
    ("argmin", [MATRIX], [0], {}, i64(0, 0, 1)),
    ("asin", [f32(1)], [], {}, f32(math.pi / 2)),
    ("atan", [f32(1)], [], {}, f32(math.pi / 4)),
    ("binary_cross_entropy", [f32(0.5, 1), f32(1, 0)], [], {"reduction": "sum"}, f32(100.693147)[0]),
    ("bmm", [f32([[1, 2]]), f32([[3], [4]])], [], {}, f32([[11]])),
    ("cat", [], [[f32(1), f32(2, 3)]], {}, f32(1, 2, 3)),
    ("torch.cat", [], [[i64([1], [2]), f32([3], [4])]], {"dim": 1}, f32([1, 3], [2, 4])),
    ("ceil", [f32(1.5, -1.5)], [], {}, f32(2, -1)),
    ("clamp", [f32(-1, 0.5, 2)], [], {"min": 0, "max": 1}, f32(0, 0.5, 1)),
    ("clamp", [f32(-1, 2)], [], {"max": 1}, f32(-1, 1)),
    ("clamp_max", [f32(-1, 2)], [1], {}, f32(-1, 1)),
    ("clamp_min", [f32(-1, 2)], [0], {}, f32(0, 2)),
    ("clone", [f32(1)], [], {}, f32(1)),
    ("contiguous", [MATRIX.T], [], {}, MATRIX.T),
    ("copy", [f32(1)], [], {}, f32(1)),
    ("copy_", [f32(1, 2)], [i64(3, 4)], {}, f32(3, 4)),
    ("cos", [f32(0)], [], {}, f32(1)),
    ("cosh", [f32(0)], [], {}, f32(1)),
    ("cpu", [f32(1)], [], {}, f32(1)),
    ("cross_entropy", [f32([0, 0], [0, 0]), i64(0, 1)], [], {}, f32(math.log(2))[0]),
    ("cumsum", [MATRIX], [], {"dim": 1}, f32([1, -1, 2], [4, 9, 3])),
    ("cumsum", [np.array([True, True])], [0], {}, i64(1, 2)),
    ("detach", [f32(1)], [], {}, f32(1)),
    ("div", [f32(1, 3), f32(2, 2)], [], {}, f32(0.5, 1.5)),
    ("div", [i64(1, 3)], [2], {}, f32(0.5, 1.5)),
    ("div", [i64(1, -3), i64(2, 2)], [], {"rounding_mode": "trunc"}, i64(0, -1)),
    ("div", [i64(1, -3), i64(2, 2)], [], {"rounding_mode": "floor"}, i64(0, -2)),
    ("div", [f32(1, -1)], [0], {}, f32(math.inf, -math.inf)),
    ("__truediv__", [i64(1)], [i64(4)], {}, f32(0.25)),
    ("__rtruediv__", [f32(4, 8)], [2], {}, f32(0.5, 0.25)),
    ("__rtruediv__", [i64(4)], [1], {}, f32(0.25)),
    ("__rdiv__", [f32(4)], [1], {}, f32(0.25)),
    ("dot", [VECTOR, VECTOR], [], {}, f32(21)[0]),
    ("double", [f32(1)], [], {}, np.array([1], F64)),
    ("elu", [f32(-1, 2)], [], {}, f32(math.expm1(-1), 2)),
    ("eq", [i64(1, 2), i64(1, 3)], [], {}, np.array([True, False])),
    ("__eq__", [f32(1, 2)], [2], {}, np.array([False, True])),
    ("exp", [f32(0, 1)], [], {}, f32(1, math.e)),
    ("exp", [i64(0)], [], {}, f32(1)),
    ("expand", [f32([1], [2])], [-1, 2], {}, f32([1, 1], [2, 2])),
    ("torch.nn.functional.conv1d", [f32([[1, 2, 4]]), f32([[1, 10]])], [], {}, f32([[21, 42]])),
    ("torch.nn.functional.conv1d", [f32([[1, 2, 4]]), f32([[1, 10]]), f32(0.5)], [[2]], {}, f32([[21.5]])),
    ("torch.nn.functional.conv2d", [f32([[[1, 2], [4, 8]]]), f32([[[1, 10]]])], [], {}, f32([[[21], [84]]])),
    ("torch.nn.functional.conv_transpose1d", [f32([[1, 2]]), f32([[1, 10]])], [], {}, f32([[1, 12, 20]])),
    ("torch.nn.functional.conv_transpose2d", [f32([[[1, 2]]]), f32([[[1], [10]]])], [], {}, f32([[[1, 2], [10, 20]]])),
    ("erf", [f32(0, 0.5)], [], {}, f32(0, 0.5204999)),
    ("torch.nn.functional.pad", [f32(1, 2)], [[1, -1]], {"value": 7.0}, f32(7, 1)),
    ("expand", [f32(1, 2)], [[2, 2]], {}, f32([1, 2], [1, 2])),
    ("expand_as", [f32(1, 2), MATRIX[:, :2]], [], {}, f32([1, 2], [1, 2])),
    ("expm1", [f32(1e-7)], [], {}, f32(1e-7)),
    ("fill_", [f32(1, 2)], [3], {}, f32(3, 3)),
    ("flatten", [np.zeros((2, 3, 4), F32)], [], {"start_dim": 1}, np.zeros((2, 12), F32)),
    ("flatten", [np.array(1, F32)], [], {}, f32(1)),
    ("float", [np.array([True, False])], [], {}, f32(1, 0)),
    ("floor", [f32(1.5, -1.5)], [], {}, f32(1, -2)),
    ("floor_divide", [i64(7, -7)], [2], {}, i64(3, -4)),
    ("__floordiv__", [f32(7)], [2], {}, f32(3)),
    ("__rfloordiv__", [f32(2)], [7], {}, f32(3)),
    ("fmod", [f32(-7)], [3], {}, f32(-1)),
    ("torch.full", [], [[2], 0.5], {}, f32(0.5, 0.5)),
    ("torch.full", [], [[1], 3], {"dtype": "torch.float64"}, np.array([3], F64)),
    ("full_like", [i64(1, 2)], [5], {}, i64(5, 5)),
    ("gather", [MATRIX], [1, i64([2], [0])], {}, f32([3], [4])),
    ("ge", [f32(1, 2)], [2], {}, np.array([False, True])),
    ("__getitem__", [MATRIX], [1], {}, f32(4, 5, -6)),
    ("__getitem__", [MATRIX, np.array([False, True])], [], {}, f32([4, 5, -6])),
    ("gt", [f32(1, 2)], [1], {}, np.array([False, True])),
    ("__gt__", [f32(1, 2), f32(1, 1)], [], {}, np.array([False, True])),
    ("half", [f32(1)], [], {}, np.array([1], F16)),
    ("bool", [f32(0, 2)], [], {}, np.array([False, True])),
    ("byte", [f32(3)], [], {}, np.array([3], U8)),
    ("index_select", [MATRIX], [1, i64(2, 0)], {}, f32([3, 1], [-6, 4])),
    ("int", [f32(1.9, -1.9)], [], {}, np.array([1, -1], I32)),
    ("__invert__", [np.array([True, False])], [], {}, np.array([False, True])),
    ("isfinite", [f32(1, math.inf, math.nan)], [], {}, np.array([True, False, False])),
    ("isinf", [f32(1, math.inf, math.nan)], [], {}, np.array([False, True, False])),
    ("isnan", [f32(1, math.inf, math.nan)], [], {}, np.array([False, False, True])),
    ("le", [f32(1, 2)], [1], {}, np.array([True, False])),
    ("leaky_relu", [f32(-1, 2)], [], {"negative_slope": 0.1}, f32(-0.1, 2)),
    ("linear", [VECTOR, MATRIX], [], {}, f32(9, -10)),
    ("torch.nn.functional.linear", [VECTOR, MATRIX, f32(1, 2)], [], {}, f32(10, -8)),
    ("log", [f32(1, math.e)], [], {}, f32(0, 1)),
    ("log", [f32(0)], [], {}, f32(-math.inf)),
    ("log10", [f32(100)], [], {}, f32(2)),
    ("log1p", [f32(1e-7)], [], {}, f32(1e-7)),
    ("log2", [f32(8)], [], {}, f32(3)),
    ("log_softmax", [f32([0, 0], [1000, 0])], [], {"dim": 1}, f32([-math.log(2)] * 2, [0, -1000])),
    ("log_softmax", [f32([0, 0])], [1], {"dtype": "torch.float64"}, np.full((1, 2), -math.log(2))),
    ("logical_and", [f32(1, 0), f32(2, 2)], [], {}, np.array([True, False])),
    ("logical_not", [f32(1, 0)], [], {}, np.array([False, True])),
    ("logical_or", [f32(1, 0), f32(0, 0)], [], {}, np.array([True, False])),
    ("logical_xor", [f32(1, 1), f32(0, 1)], [], {}, np.array([True, False])),
    ("logsumexp", [f32([1000, 1000])], [], {"dim": 1}, f32(1000 + math.log(2))),
    ("logsumexp", [f32([0, 0])], [1], {"keepdim": True}, f32([math.log(2)])),
    ("long", [f32(1.9)], [], {}, i64(1)),
    ("lt", [f32(1, 2)], [2], {}, np.array([True, False])),
    ("masked_fill", [f32(1, 2), np.array([True, False])], [9], {}, f32(9, 2)),
    ("matmul", [MATRIX, VECTOR], [], {}, f32(9, -10)),
    ("matmul", [i64([1, 2]), i64([3], [4])], [], {}, i64([11])),
    ("__matmul__", [VECTOR, VECTOR], [], {}, f32(21)[0]),
    ("max", [MATRIX], [], {}, np.array(5, F32)),
    ("max", [f32(1, 4), f32(3, 2)], [], {}, f32(3, 4)),
    ("mean", [MATRIX], [], {}, np.array(5 / 6, F32)),
    ("mean", [MATRIX], [], {"dim": 1, "keepdim": True}, f32([2 / 3], [1])),
    ("mean", [i64(1, 2)], [], {"dtype": "torch.float64"}, np.array(1.5, F64)),
    ("min", [MATRIX], [], {}, np.array(-6, F32)),
    ("min", [f32(1, 4), f32(3, 2)], [], {}, f32(1, 2)),
    ("mm", [MATRIX, MATRIX.T], [], {}, f32([14, -24], [-24, 77])),
    ("mse_loss", [f32(1, 2), f32(3, 2)], [], {}, np.array(2, F32)),
    ("mul", [f32(1, 2), f32(3, 4)], [], {}, f32(3, 8)),
    ("mul", [np.array([True, False]), f32(3, 4)], [], {}, f32(3, 0)),
    ("__mul__", [f32(2), np.array([3])], [], {}, f32(6)),
    ("__rmul__", [f32(2)], [3], {}, f32(6)),
    ("mv", [MATRIX, VECTOR], [], {}, f32(9, -10)),
    ("narrow", [MATRIX], [1, 1, 2], {}, f32([-2, 3], [5, -6])),
    ("ne", [f32(1, 2)], [2], {}, np.array([True, False])),
    ("neg", [f32(1, -2)], [], {}, f32(-1, 2)),
    ("nll_loss", [f32([-1, -2], [-3, -4]), i64(0, 1)], [], {"reduction": "none"}, f32(1, 4)),
    ("norm", [f32(3, 4)], [], {}, np.array(5, F32)),
    ("norm", [f32([3, 4])], [1, 1], {}, f32(7)),
    ("norm", [f32([3, -4])], [], {"p": math.inf, "dim": 1, "keepdim": True}, f32([4])),
    ("norm", [f32(3, 0)], [0], {}, np.array(1, F32)),
    ("norm", [f32(1, 2)], [3], {}, np.array(9 ** (1 / 3), F32)),
    ("one_hot", [i64(0, 2)], [], {"num_classes": 3}, i64([1, 0, 0], [0, 0, 1])),
    ("torch.ones", [], [2], {}, f32(1, 1)),
    ("ones_like", [i64(5, 6)], [], {}, i64(1, 1)),
    ("__or__", [np.array([True, False])], [np.array([0, 0], BOOL)], {}, np.array([True, False])),
    ("permute", [np.zeros((2, 3, 4), F32)], [2, 0, 1], {}, np.zeros((4, 2, 3), F32)),
    ("pow", [f32(2, 3)], [2], {}, f32(4, 9)),
    ("pow", [f32(4)], [0.5], {}, f32(2)),
    ("pow", [i64(4)], [0.5], {}, f32(2)),
    ("__pow__", [i64(2)], [3], {}, i64(8)),
    ("__rpow__", [f32(3)], [2], {}, f32(8)),
    ("prod", [MATRIX], [], {"dim": 1}, f32(-6, -120)),
    ("reciprocal", [f32(4)], [], {}, f32(0.25)),
    ("relu", [f32(-1, 2)], [], {}, f32(0, 2)),
    ("torch.nn.functional.relu", [f32(-1, 2)], [], {"inplace": False}, f32(0, 2)),
    ("remainder", [f32(-7)], [3], {}, f32(2)),
    ("__mod__", [i64(-7)], [3], {}, i64(2)),
    ("repeat", [f32(1, 2)], [2, 1], {}, f32([1, 2], [1, 2])),
    ("requires_grad_", [f32(1)], [], {}, f32(1)),
    ("reshape", [MATRIX], [[-1, 1]], {}, MATRIX.reshape(6, 1)),
    ("reshape", [MATRIX], [3, 2], {}, MATRIX.reshape(3, 2)),
    ("reshape_as", [MATRIX, np.zeros((3, 2), F32)], [], {}, MATRIX.reshape(3, 2)),
    ("round", [f32(0.5, 1.5, -1.2)], [], {}, f32(0, 2, -1)),
    ("rsqrt", [f32(4)], [], {}, f32(0.5)),
    ("rsub", [f32(1)], [3], {}, f32(2)),
    ("__rsub__", [i64(1)], [0.5], {}, f32(-0.5)),
    ("short", [f32(3)], [], {}, np.array([3], np.int16)),
    ("sigmoid", [f32(0, -1000, 1000)], [], {}, f32(0.5, 0, 1)),
    ("sign", [f32(-2, 0, 3)], [], {}, f32(-1, 0, 1)),
    ("sin", [f32(0)], [], {}, f32(0)),
    ("sinh", [f32(0)], [], {}, f32(0)),
    ("softmax", [f32([0, 0], [1000, 0])], [], {"dim": -1}, f32([0.5, 0.5], [1, 0])),
    ("softmax", [f32([0, 0])], [], {}, f32([0.5, 0.5])),
    ("softplus", [f32(0, 100)], [], {}, f32(math.log(2), 100)),
    ("sqrt", [f32(4, 9)], [], {}, f32(2, 3)),
    ("square", [f32(-3)], [], {}, f32(9)),
    ("squeeze", [np.zeros((1, 2, 1), F32)], [], {}, np.zeros(2, F32)),
    ("squeeze", [np.zeros((1, 2, 1), F32)], [1], {}, np.zeros((1, 2, 1), F32)),
    ("squeeze", [np.zeros((1, 2, 1), F32)], [], {"dim": 0}, np.zeros((2, 1), F32)),
    ("torch.stack", [], [[f32(1), i64(2)]], {}, f32([1], [2])),
    ("std", [f32(1, 3)], [], {}, np.array(math.sqrt(2), F32)),
    ("sub", [f32(3), f32(1)], [], {}, f32(2)),
    ("sub", [f32(3), f32(1)], [], {"alpha": 2}, f32(1)),
    ("sub_", [f32(3), f32(1)], [], {}, f32(2)),
    ("sum", [MATRIX], [], {}, np.array(5, F32)),
    ("sum", [MATRIX], [], {"dim": 1, "keepdim": True}, f32([2], [3])),
    ("sum", [MATRIX], [], {"dim": [0]}, f32(5, 3, -3)),
    ("sum", [MATRIX], [[0, 1]], {}, np.array(5, F32)),
    ("sum", [np.array([True, True])], [], {}, np.array(2, I64)),
    ("sum", [np.array([200, 100], U8)], [], {}, np.array(300, I64)),
    ("sum", [i64(1)], [], {"dtype": "torch.float32"}, np.array(1, F32)),
    ("t", [MATRIX], [], {}, MATRIX.T),
    ("t", [VECTOR], [], {}, VECTOR),
    ("tan", [f32(0)], [], {}, f32(0)),
    ("tanh", [f32(0, 100)], [], {}, f32(0, 1)),
    ("torch.tensor", [], [[0.5, 1.0]], {}, f32(0.5, 1)),
    ("torch.tensor", [], [3], {"dtype": "torch.float64"}, np.array(3, F64)),
    ("to", [f32(1.5)], ["torch.int64"], {}, i64(1)),
    ("to", [f32(1.5)], [], {"dtype": "float64"}, np.array([1.5], F64)),
    ("to", [f32(1.5)], ["cpu"], {}, f32(1.5)),
    ("transpose", [np.zeros((2, 3, 4), F32)], [0, 2], {}, np.zeros((4, 3, 2), F32)),
    ("trunc", [f32(1.5, -1.5)], [], {}, f32(1, -1)),
    ("type", [f32(1)], ["torch.float64"], {}, np.array([1], F64)),
    ("type_as", [f32(1.5), i64(0)], [], {}, i64(1)),
    ("unsqueeze", [VECTOR], [], {"dim": 1}, f32([1], [2], [4])),
    ("var", [f32(1, 3)], [], {}, np.array(2, F32)),
    ("var", [f32(1, 3)], [], {"unbiased": False}, np.array(1, F32)),
    ("var", [f32(1, 3)], [False], {}, np.array(1, F32)),
    ("var", [f32([1, 3])], [1], {"keepdim": True}, f32([2])),
    ("view", [MATRIX], [3, -1], {}, MATRIX.reshape(3, 2)),
    ("view_as", [MATRIX, np.zeros((3, 2), F32)], [], {}, MATRIX.reshape(3, 2)),
    ("torch.where", [np.array([True, False]), f32(1, 2), i64(3, 4)], [], {}, f32(1, 4)),
    ("__xor__", [np.array([True, True])], [np.array([0, 1], BOOL)], {}, np.array([True, False])),
    ("zero_", [f32(1, 2)], [], {}, f32(0, 0)),
    ("torch.zeros", [], [[1, 2]], {"dtype": "torch.int64"}, i64([0, 0])),
    ("zeros_like", [f32(5, 6)], [], {}, f32(0, 0)),
]


def case_name(case: Case) -> str:
    return case[0]


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_operation_gives_what_pytorch_gives(case: Case) -> None:
    command, tensors, args, kwargs, expected = case
    # Tensors beyond the inputs, which a plan could only hold in its message, are made inputs too.
    inputs = list(tensors)
    values = [Value(f"in{number}") for number in range(len(inputs))]

    def as_argument(arg: Any) -> Any:
        if isinstance(arg, list):
            return [as_argument(item) for item in arg]
        if isinstance(arg, np.ndarray):
            inputs.append(arg)
            return Value(f"in{len(inputs) - 1}")
        return arg

    arguments = [*values[1:], *(as_argument(arg) for arg in args)]
    names = [Value(f"in{number}") for number in range(len(inputs))]
    action = Action(command, values[0] if values else None, arguments, kwargs)
    [output] = compile_plan(plan_of([action], names)).run(inputs)

    assert (output.dtype, output.shape) == (expected.dtype, expected.shape)
    if output.dtype.kind == "f":
        np.testing.assert_allclose(output, expected, rtol=1e-6, atol=1e-7)
    else:
        assert output.tolist() == expected.tolist()


SEVERAL_RESULTS: list[tuple[str, list[Any], list[Any], dict[str, Any], list[Any]]] = [
    ("max", [MATRIX], [1], {}, [f32(3, 5), i64(2, 1)]),
    ("max", [MATRIX], [], {"dim": 1, "keepdim": True}, [f32([3], [5]), i64([2], [1])]),
    ("min", [MATRIX], [], {"dim": 0}, [f32(1, -2, -6), i64(0, 0, 1)]),
    ("sort", [f32(2, 3, 1)], [], {}, [f32(1, 2, 3), i64(2, 0, 1)]),
    ("topk", [f32(2, 3, 1)], [2], {}, [f32(3, 2), i64(1, 0)]),
    ("split", [f32(1, 2, 3)], [2], {}, [f32(1, 2), f32(3)]),
    ("split", [f32(1, 2, 3)], [[1, 2]], {}, [f32(1), f32(2, 3)]),
    ("chunk", [f32(1, 2, 3)], [2], {}, [f32(1, 2), f32(3)]),
]


@pytest.mark.parametrize(("command", "inputs", "args", "kwargs", "expected"), SEVERAL_RESULTS)
def test_operation_with_several_results(
    command: str, inputs: list[Any], args: list[Any], kwargs: dict[str, Any], expected: list[Any]
) -> None:
    outputs = run_one(command, inputs, args, kwargs, returns=len(expected))
    for output, wanted in zip(outputs, expected, strict=True):
        assert (output.dtype, output.tolist()) == (wanted.dtype, wanted.tolist())


# --- placeholders -----------------------------------------------------------------------------------------------------


def test_in_place_operation_changes_its_target_for_later_actions() -> None:
    actions = [
        Action("add_", IN, [1], returns=[Value("sum")]),
        Action("mul", IN, [Value("sum")]),
    ]
    given = f32(1, 2)
    [output] = compile_plan(plan_of(actions)).run([given])
    assert output.tolist() == [4, 9]
    assert given.tolist() == [1, 2]


def test_state_of_the_plan_is_at_hand() -> None:
    data = plan_of([Action("mul", IN, [Value("weight")])], state={"weight": f32(2, 3)})
    assert compile_plan(data).run([f32(1, 1)])[0].tolist() == [2, 3]


def test_tensor_in_the_arguments_is_a_constant() -> None:
    data = plan_of([Action("mul", IN, [f32(2, 3)])])
    assert compile_plan(data).run([f32(1, 1)])[0].tolist() == [2, 3]


def test_value_is_kept_until_its_last_use() -> None:
    actions = [
        Action("add", IN, [1], returns=[Value("a")]),
        Action("add", Value("a"), [1], returns=[Value("b")]),
        Action("mul", Value("a"), [Value("b")], returns=[Value("c")]),
        Action("sub", Value("c"), [Value("a")], returns=[OUT]),
    ]
    plan = plan_of(actions, outputs=[OUT, Value("a"), IN])
    assert [output.tolist() for output in compile_plan(plan).run([f32(1)])] == [[4], [2], [1]]


def test_text_ids_are_placeholders_too() -> None:
    plan = parse("Plan", plan_of([Action("add", IN, [1])]))
    for identifier in (plan.role.actions[0].target_placeholder_id.id, plan.role.input_placeholder_ids[0]):
        identifier.id_str = "x"
    assert compile_plan(plan.SerializeToString()).run([f32(1)])[0].tolist() == [2]


# --- refusals ---------------------------------------------------------------------------------------------------------


def pointer_target() -> bytes:
    plan = parse("Plan", plan_of([Action("torch.zeros", None, [1])]))
    plan.role.actions[0].target_pointer.SetInParent()
    data: bytes = plan.SerializeToString()
    return data


def with_bad_state() -> bytes:
    plan = parse("Plan", plan_of([Action("relu", IN)]))
    plan.role.state.tensors.add().torch_tensor.contents_bin = b"pickle"
    data: bytes = plan.SerializeToString()
    return data


REFUSED: dict[str, tuple[bytes, str]] = {
    "unknown operation": (
        plan_of([Action("relu", IN, returns=[Value("a")]), Action("lstm_cell", Value("a"))]),
        r"action 1 \('lstm_cell'\) of plan 'handmade': this operation is not known",
    ),
    "attribute of Python": (plan_of([Action("__class__", IN)]), "not known"),
    "another framework": (plan_of([Action("tf.transpose", None, [IN])]), "not known"),
    "unknown keyword": (plan_of([Action("sum", IN, [], {"axes": 1})]), r"action 0 \('sum'\).*unexpected keyword"),
    "missing argument": (plan_of([Action("matmul", IN)]), "missing a required argument: 'other'"),
    "too many arguments": (plan_of([Action("exp", IN, [1])]), "too many positional arguments"),
    "value used before it is made": (plan_of([Action("add", IN, [Value("later")])]), "nothing gives it a value"),
    "output that nothing makes": (plan_of([Action("relu", IN)], outputs=[Value("other")]), "nothing gives it a value"),
    "same input twice": (plan_of([Action("relu", IN)], inputs=[IN, IN]), "an input is given twice"),
    "pointer as target": (pointer_target(), "field 2 is of a kind that is not supported"),
    "constant that is pickled": (with_bad_state(), "state of plan 'handmade'.*contents_bin"),
}


@pytest.mark.parametrize(("data", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_when_compiled(data: bytes, reason: str) -> None:
    plan = parse_plan(data)
    with pytest.raises(InvalidPlan, match=reason):
        OperationList.from_plan(plan)


def test_plan_without_operations_is_refused() -> None:
    variant = (DATA / "models" / "tiny" / "training_plan.served.torchscript.bin").read_bytes()
    with pytest.raises(InvalidPlan, match="'training_plan' has no operation list"):
        compile_plan(variant)


FAILING: dict[str, tuple[Action, list[Any], str]] = {
    "shapes that do not fit": (Action("matmul", IN, [IN]), [MATRIX], r"action 0 \('matmul'\).*failed"),
    "dimension that is not there": (Action("sum", IN, [], {"dim": 7}), [MATRIX], "axis 7 is out of bounds"),
    "in-place operation that broadcasts": (Action("add_", IN, [f32([1], [2])]), [VECTOR], "can't be written into"),
    "in-place operation that needs floats": (Action("div_", IN, [2]), [i64(1)], "dtype float32 can't be written into"),
    "several results for one placeholder": (
        Action("max", IN, [1]),
        [MATRIX],
        "gives 2 values where the plan takes one",
    ),
    "one result for several placeholders": (Action("exp", IN, returns=[OUT, OTHER]), [MATRIX], "shorter"),
    "text where a number belongs": (Action("add", IN, ["1"]), [MATRIX], "str is no number and no tensor"),
    "nothing where a number belongs": (Action("add", IN, [None]), [MATRIX], "NoneType is no number and no tensor"),
    "unknown dtype": (Action("to", IN, ["complex64"]), [MATRIX], "dtype 'complex64' is not known"),
    "unknown reduction": (Action("mse_loss", IN, [IN, "median"]), [MATRIX], "reduction 'median' is none of"),
    "unknown rounding": (Action("div", IN, [2, "up"]), [MATRIX], "rounding_mode 'up' is none of"),
    "t of three dimensions": (Action("t", IN), [np.zeros((1, 1, 1))], "at most 2 dimensions"),
    "split that does not add up": (Action("split", IN, [[1, 1]]), [VECTOR], "sum to 2, the dimension has 3"),
    "repeat with too few numbers": (Action("repeat", IN, [2]), [MATRIX], "for each of the 2 dimensions"),
    "more memory than there is": (Action("torch.zeros", None, [2**60]), [VECTOR], "failed"),
}


@pytest.mark.parametrize(("action", "inputs", "reason"), FAILING.values(), ids=FAILING.keys())
def test_failing_operation_is_named(action: Action, inputs: list[Any], reason: str) -> None:
    operations = compile_plan(plan_of([action]))
    with pytest.raises(InvalidPlan, match=reason):
        operations.run(inputs)


def test_wrong_number_of_inputs_is_refused() -> None:
    with pytest.raises(InvalidPlan, match="has 1 inputs, 2 were given"):
        compile_plan(plan_of([Action("relu", IN)])).run([VECTOR, VECTOR])
