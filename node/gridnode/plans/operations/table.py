"""Every operation by its name, and the forms in which plans write it."""

from __future__ import annotations

import functools
import re
from typing import Final

import numpy as np

from gridnode.plans.operations import arithmetic, convolutions, dtypes, networks, reductions, selection, shapes
from gridnode.plans.operations.promotion import as_tensor
from gridnode.plans.operations.types import Argument, Operation, Tensor

_rsub = arithmetic.swapped(arithmetic.sub)
_pow = arithmetic.binary(np.power)
_floor_divide = arithmetic.binary(np.floor_divide)
_remainder = arithmetic.binary(np.remainder)
_max = reductions.extreme(np.max, np.argmax, np.maximum)
_min = reductions.extreme(np.min, np.argmin, np.minimum)

OPERATIONS: Final[dict[str, Operation]] = {
    "abs": arithmetic.unary(np.abs),
    "acos": arithmetic.float_unary(np.arccos),
    "add": arithmetic.add,
    "addmm": arithmetic.addmm,
    "all": reductions.truth(np.all),
    "and": arithmetic.binary(np.bitwise_and),
    "any": reductions.truth(np.any),
    "argmax": reductions.position(np.argmax),
    "argmin": reductions.position(np.argmin),
    "asin": arithmetic.float_unary(np.arcsin),
    "atan": arithmetic.float_unary(np.arctan),
    "binary_cross_entropy": networks.binary_cross_entropy,
    "bmm": arithmetic.matmul,
    "cat": shapes.cat,
    "ceil": arithmetic.unary(np.ceil),
    "chunk": shapes.chunk,
    "clamp": arithmetic.clamp,
    "clamp_max": lambda input, max: arithmetic.clamp(input, None, max),
    "clamp_min": arithmetic.clamp,
    "clone": dtypes.identity,
    "contiguous": dtypes.identity,
    "conv1d": convolutions.convolution(1),
    "conv2d": convolutions.convolution(2),
    "conv_transpose1d": convolutions.transposed_convolution(1),
    "conv_transpose2d": convolutions.transposed_convolution(2),
    "copy": dtypes.identity,
    "cos": arithmetic.float_unary(np.cos),
    "cosh": arithmetic.float_unary(np.cosh),
    "cpu": dtypes.identity,
    "cross_entropy": networks.cross_entropy,
    "cumsum": reductions.cumsum,
    "detach": dtypes.identity,
    "div": arithmetic.div,
    "dot": arithmetic.matmul,
    "elu": networks.elu,
    "eq": arithmetic.binary(np.equal),
    "erf": arithmetic.float_unary(arithmetic.erf),
    "exp": arithmetic.float_unary(np.exp),
    "expand": shapes.expand,
    "expand_as": shapes.expand_as,
    "expm1": arithmetic.float_unary(np.expm1),
    "flatten": shapes.flatten,
    "floor": arithmetic.unary(np.floor),
    "floor_divide": _floor_divide,
    "fmod": arithmetic.binary(np.fmod),
    "full": dtypes.full,
    "full_like": dtypes.full_like,
    "gather": selection.gather,
    "ge": arithmetic.binary(np.greater_equal),
    "getitem": selection.getitem,
    "gt": arithmetic.binary(np.greater),
    "index_select": selection.index_select,
    "invert": arithmetic.unary(np.invert),
    "isfinite": arithmetic.unary(np.isfinite),
    "isinf": arithmetic.unary(np.isinf),
    "isnan": arithmetic.unary(np.isnan),
    "le": arithmetic.binary(np.less_equal),
    "leaky_relu": networks.leaky_relu,
    "linear": arithmetic.linear,
    "log": arithmetic.float_unary(np.log),
    "log10": arithmetic.float_unary(np.log10),
    "log1p": arithmetic.float_unary(np.log1p),
    "log2": arithmetic.float_unary(np.log2),
    "log_softmax": networks.log_softmax,
    "logical_and": arithmetic.binary(np.logical_and),
    "logical_not": arithmetic.unary(np.logical_not),
    "logical_or": arithmetic.binary(np.logical_or),
    "logical_xor": arithmetic.binary(np.logical_xor),
    "logsumexp": reductions.logsumexp,
    "lt": arithmetic.binary(np.less),
    "masked_fill": selection.masked_fill,
    "matmul": arithmetic.matmul,
    "max": _max,
    "mean": reductions.mean,
    "min": _min,
    "mm": arithmetic.matmul,
    "mse_loss": networks.mse_loss,
    "mul": arithmetic.multiply,
    "mv": arithmetic.matmul,
    "narrow": selection.narrow,
    "ne": arithmetic.binary(np.not_equal),
    "neg": arithmetic.unary(np.negative),
    "nll_loss": networks.nll_loss,
    "norm": reductions.norm,
    "one_hot": selection.one_hot,
    "ones": dtypes.ones,
    "ones_like": dtypes.ones_like,
    "or": arithmetic.binary(np.bitwise_or),
    "pad": convolutions.pad,
    "permute": shapes.permute,
    "pow": _pow,
    "prod": reductions.accumulating(np.prod),
    "rdiv": arithmetic.rdiv,
    "reciprocal": arithmetic.reciprocal,
    "relu": networks.relu,
    "remainder": _remainder,
    "repeat": shapes.repeat,
    "reshape": shapes.reshape,
    "reshape_as": shapes.reshape_as,
    "rfloordiv": arithmetic.swapped(_floor_divide),
    "round": arithmetic.unary(np.round),
    "rpow": arithmetic.swapped(_pow),
    "rsqrt": arithmetic.float_unary(lambda tensor: np.reciprocal(np.sqrt(tensor))),
    "rsub": _rsub,
    "sigmoid": networks.sigmoid,
    "sign": arithmetic.unary(np.sign),
    "sin": arithmetic.float_unary(np.sin),
    "sinh": arithmetic.float_unary(np.sinh),
    "softmax": networks.softmax,
    "softplus": networks.softplus,
    "sort": selection.sort,
    "split": shapes.split,
    "sqrt": arithmetic.float_unary(np.sqrt),
    "square": arithmetic.unary(np.square),
    "squeeze": shapes.squeeze,
    "stack": shapes.stack,
    "std": reductions.standard_deviation,
    "sub": arithmetic.sub,
    "sum": reductions.accumulating(np.sum),
    "t": shapes.t,
    "tan": arithmetic.float_unary(np.tan),
    "tanh": arithmetic.float_unary(np.tanh),
    "tensor": dtypes.tensor,
    "to": dtypes.to,
    "topk": selection.topk,
    "transpose": shapes.transpose,
    "trunc": arithmetic.unary(np.trunc),
    "type": dtypes.to,
    "type_as": dtypes.to,
    "unsqueeze": shapes.unsqueeze,
    "var": reductions.variance,
    "view": shapes.reshape,
    "view_as": shapes.reshape_as,
    "where": selection.where,
    "xor": arithmetic.binary(np.bitwise_xor),
    "zeros": dtypes.zeros,
    "zeros_like": dtypes.zeros_like,
    **{
        name: dtypes.casting(dtypes.DTYPES[name])
        for name in ("float", "double", "half", "int", "long", "short", "byte", "bool")
    },
}
"""Operations by PyTorch's name of the function or method."""

_SAME_AS: Final = {
    "absolute": "abs",
    "concat": "cat",
    "floordiv": "floor_divide",
    "greater": "gt",
    "less": "lt",
    "mod": "remainder",
    "multiply": "mul",
    "negative": "neg",
    "radd": "add",
    "rmul": "mul",
    "rtruediv": "rdiv",
    "subtract": "sub",
    "true_divide": "div",
    "truediv": "div",
}

_IN_PLACE_ONLY: Final[dict[str, Operation]] = {
    "copy": dtypes.copy_from,
    "fill": dtypes.full_like,
    "zero": dtypes.zeros_like,
    "requires_grad": lambda input, requires_grad=True: as_tensor(input),
}

_DUNDER: Final = re.compile(r"__(\w+)__")
_AUGMENTED: Final = re.compile(r"i(add|sub|mul|div|truediv|floordiv|pow|mod|and|or|xor)")


def find_operation(command: str) -> tuple[Operation, bool]:
    """The operation a plan's command stands for, and whether it also changes its target (``add_``, ``__iadd__``).

    Commands are methods (``add``), functions (``torch.add``, ``torch.nn.functional.relu``) or Python's special methods.

    Raises:
        KeyError: the operation is not known.
    """
    name = command.removeprefix("torch.").removeprefix("nn.functional.")
    in_place = False
    if dunder := _DUNDER.fullmatch(name):
        name = dunder[1]
        if augmented := _AUGMENTED.fullmatch(name):
            name, in_place = augmented[1], True
    elif name.endswith("_"):
        name, in_place = name[:-1], True
        if name in _IN_PLACE_ONLY:
            return _keeping_type(_IN_PLACE_ONLY[name]), True
    operation = OPERATIONS[_SAME_AS.get(name, name)]
    return (_keeping_type(operation), True) if in_place else (operation, False)


def _keeping_type(operation: Operation) -> Operation:
    """An operation whose result is written into its first argument has that one's shape and dtype."""

    @functools.wraps(operation)
    def in_place(input: Argument, *args: Argument, **kwargs: Argument) -> Tensor:
        target, result = as_tensor(input), as_tensor(operation(input, *args, **kwargs))
        if result.shape != target.shape:
            raise ValueError(f"a result of shape {result.shape} can't be written into a tensor of shape {target.shape}")
        if result.dtype.kind == "f" and target.dtype.kind != "f":
            raise ValueError(f"a result of dtype {result.dtype} can't be written into a tensor of dtype {target.dtype}")
        return result.astype(target.dtype, copy=False)

    return in_place
