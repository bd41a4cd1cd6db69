"""Builds training plans: trace, lower, write each variant, and try them against the step itself."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils._pytree import tree_leaves

from gridnode.plans.interpreter import OperationList
from gridnode.plans.plan import InvalidPlan, Plan
from gridnode.sdk.decompositions import decompositions
from gridnode.sdk.errors import PlanNotBuilt
from gridnode.sdk.losses import Loss, Metric, choose
from gridnode.sdk.lowering import lower
from gridnode.sdk.operations import write_plan, write_role
from gridnode.sdk.optimizers import SGD
from gridnode.sdk.plans import BuiltPlan
from gridnode.sdk.steps import step_of_module
from gridnode.sdk.torchscript import run_torchscript, write_torchscript
from gridnode.sdk.tracing import Step, batch_of, trace_step

#: Sizes of the batches on which the variants are compared with the step, in multiples of the local steps.
_TRIED: Final = (1, 4)
_RELATIVE, _ABSOLUTE = 1e-4, 1e-5
_LEARNING_RATE: Final = 0.1


def build_plan(
    training: torch.nn.Module | Step,
    example_batch: tuple[torch.Tensor, torch.Tensor],
    params: Sequence[torch.Tensor] | Mapping[str, torch.Tensor] | None = None,
    *,
    loss: str | Loss = "cross_entropy",
    metric: Metric | None = None,
    optimizer: SGD | None = None,
    local_steps: int = 1,
    proximal: float = 0.0,
    name: str = "training_plan",
) -> BuiltPlan:
    """Build a training plan that phones of 2020 can run, from today's PyTorch.

    Args:
        training: a module, or a function ``(X, y, batch_size, lr, params) → (loss, accuracy, *new_params)``. The
            function gets params as a list, and batch_size (the number of rows) and lr as float32 tensors without
            dimensions; ``torch.func.grad_and_value`` gives gradients.
        example_batch: X and y with rows in the first dimension, of the shapes and dtypes that phones will pass. A plan
            works for any number of rows.
        params: the parameters the function starts from; of a module they are its own.
        loss: for a module: ``cross_entropy``, ``bce_with_logits``, ``mse``, ``huber``, or a function
            ``(outputs, y) → mean loss``.
        metric: for a module: what phones report as accuracy, a function ``(outputs, y) → number``. If not given, the
            share of right answers, and 0 for ``mse`` and ``huber``.
        optimizer: for a module: plain SGD if not given.
        local_steps: for a module: steps in one call, each on its part of the batch.
        proximal: for a module: FedProx's μ.

    Raises:
        PlanNotBuilt: the step has something that phones can't compute; the message says what to write instead.
    """
    _check_example(example_batch)
    step: Step
    if isinstance(training, torch.nn.Module):
        if params is not None:
            raise PlanNotBuilt("params are given beside a module, which has its own: leave them out.")
        chosen = choose(loss, metric)
        step, named = step_of_module(training, *chosen, optimizer or SGD(), local_steps, proximal)
    else:
        step, named = _flattening(training), _named(params)
    _check_parameters(named)
    with warnings.catch_warnings():
        # What PyTorch says of its own insides is of no use here.
        warnings.simplefilter("ignore")
        return _Builder(step, example_batch, named, local_steps, name).build()


class _Builder:
    def __init__(
        self,
        step: Any,
        example: tuple[torch.Tensor, torch.Tensor],
        named: Mapping[str, torch.Tensor],
        multiple: int,
        name: str,
    ) -> None:
        self._step = step
        self._example = example
        self._named = named
        self._parameters = list(named.values())
        self._multiple = multiple
        self._name = name

    def build(self) -> BuiltPlan:
        lists = (0, 0, 0, 0, len(self._parameters))
        torchscript = write_torchscript(self._graph(as_operations=False), len(self._parameters))
        self._try_torchscript(torchscript)
        left_out = {}
        try:
            role = write_role(self._graph(as_operations=True))
            plan, refusal = write_plan(self._name, role, torchscript, lists)
            self._try_operations(plan)
        except PlanNotBuilt as error:
            left_out["list"] = error.message
            plan, refusal = write_plan(self._name, None, torchscript, lists)
        if refusal is not None:
            left_out["tfjs"] = refusal
        arrays = {name: tensor.detach().numpy().copy() for name, tensor in self._named.items()}
        data = plan.message.SerializeToString(deterministic=True)
        return BuiltPlan(self._name, data, arrays, left_out, self._multiple)

    def _graph(self, *, as_operations: bool) -> Any:
        table = decompositions(as_operations=as_operations)
        trace = trace_step(self._step, self._example, self._parameters, table, multiple=self._multiple)
        graph = lower(trace)
        _check_outputs(graph.outputs, graph.inputs[4:])
        return graph

    def _try_torchscript(self, archive: bytes) -> None:
        for inputs, expected in self._trials():
            problem = _difference([tensor.numpy() for tensor in run_torchscript(archive, *inputs)], expected)
            if problem is not None:
                raise PlanNotBuilt(f"the TorchScript does not give what the step gives: {problem}")

    def _try_operations(self, plan: Plan) -> None:
        try:
            operations = OperationList.from_plan(plan)
            for inputs, expected in self._trials():
                flat = [tensor.numpy() for item in inputs for tensor in (item if isinstance(item, list) else [item])]
                problem = _difference(operations.run(flat), expected)
                if problem is not None:
                    raise PlanNotBuilt(f"the operation list does not give what the step gives: {problem}")
        except InvalidPlan as error:
            raise PlanNotBuilt(error.message) from error

    def _trials(self) -> list[tuple[list[Any], list[NDArray[Any]]]]:
        """Inputs of the plan for batches of several sizes, and what the step makes of them."""
        trials = []
        for size in _TRIED:
            batch = batch_of(self._example, size * self._multiple)
            rows = torch.tensor(float(batch[0].shape[0]))
            inputs = [*batch, rows, torch.tensor(_LEARNING_RATE), self._parameters]
            trials.append((inputs, [tensor.detach().numpy() for tensor in self._step(*inputs)]))
        return trials


def _difference(outputs: Sequence[NDArray[Any]], expected: Sequence[NDArray[Any]]) -> str | None:
    for index, (output, wanted) in enumerate(zip(outputs, expected, strict=True)):
        if output.shape != wanted.shape or output.dtype != wanted.dtype:
            return f"output {index} is {output.dtype}{list(output.shape)}, not {wanted.dtype}{list(wanted.shape)}"
        if not np.allclose(output, wanted, rtol=_RELATIVE, atol=_ABSOLUTE, equal_nan=True):
            return f"output {index} differs by up to {np.abs(output - wanted).max():.2g}"
    return None


def _flattening(step: Step) -> Step:
    """The step with its parameters given one by one, however it nests them."""

    def flat(*arguments: Any) -> tuple[Any, ...]:
        return tuple(tree_leaves(step(*arguments)))

    return flat


def _named(params: Sequence[torch.Tensor] | Mapping[str, torch.Tensor] | None) -> dict[str, torch.Tensor]:
    if params is None:
        raise PlanNotBuilt("a step that is a function needs params: the tensors it starts from, in its order.")
    pairs = params.items() if isinstance(params, Mapping) else ((f"p{i}", p) for i, p in enumerate(params))
    return {name: tensor.detach() for name, tensor in pairs}


def _check_example(example: tuple[torch.Tensor, torch.Tensor]) -> None:
    if len(example) != 2 or not all(isinstance(tensor, torch.Tensor) and tensor.dim() for tensor in example):
        raise PlanNotBuilt("example_batch must be two tensors, X and y, with rows in the first dimension.")
    X, y = example  # noqa: N806 - as plans name it
    if X.shape[0] != y.shape[0] or not X.shape[0]:
        raise PlanNotBuilt(
            f"example_batch has {X.shape[0]} rows in X and {y.shape[0]} in y: give the same, at least 1."
        )
    for name, tensor in (("X", X), ("y", y)):
        if tensor.dtype not in (torch.float32, torch.int64, torch.int32, torch.bool):
            raise PlanNotBuilt(f"{name} of example_batch is {tensor.dtype}: phones pass float32 or int64. Convert it.")


def _check_parameters(named: Mapping[str, torch.Tensor]) -> None:
    if not named:
        raise PlanNotBuilt("there is no parameter to train: none of the module's requires a gradient.")
    for name, tensor in named.items():
        if tensor.dtype != torch.float32 or not tensor.dim():
            raise PlanNotBuilt(
                f"parameter {name} is {tensor.dtype} of {tensor.dim()} dimensions: phones train float32 tensors of at "
                "least one dimension."
            )


def _check_outputs(outputs: Sequence[Any], parameters: Sequence[Any]) -> None:
    if len(outputs) != 2 + len(parameters):
        raise PlanNotBuilt(
            f"the step gives {len(outputs)} tensors: it must give loss, accuracy and the {len(parameters)} new "
            "parameters, in their order."
        )
    for name, output in (("loss", outputs[0]), ("accuracy", outputs[1])):
        if output.shape != () or output.dtype != "float32":
            raise PlanNotBuilt(
                f"the step's {name} is {output.dtype}{list(output.shape)}: it must be one float32 number."
            )
    for index, (output, parameter) in enumerate(zip(outputs[2:], parameters, strict=True)):
        if output.shape != parameter.shape or output.dtype != parameter.dtype:
            raise PlanNotBuilt(f"new parameter {index} has another shape or dtype than the one that went in.")
