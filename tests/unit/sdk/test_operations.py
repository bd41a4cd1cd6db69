"""Graphs as operation lists, without PyTorch: what is written is what this project's interpreter computes."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from gridnode.plans.interpreter import OperationList
from gridnode.plans.listing import list_operations
from gridnode.plans.plan import InvalidPlan
from gridnode.plans.variants import plan_variants
from gridnode.sdk.errors import PlanNotBuilt
from gridnode.sdk.graph import Graph, Rows, broadcast, count
from gridnode.sdk.operations import write_plan, write_role

ROWS = Rows(Fraction(1))


def small_graph() -> Graph:
    """``relu(x @ w + 1).sum(1)``, and the largest of each row."""
    graph = Graph()
    x, w = graph.add_input((ROWS, 3), "float32"), graph.add_input((3, 2), "float32")
    one = graph.add_constant(np.ones(2, np.float32))
    (product,) = graph.add("matmul", (x, w), ((ROWS, 2), "float32"))
    (total,) = graph.add("add", (product, one), ((ROWS, 2), "float32"))
    (positive,) = graph.add("relu", (total,), ((ROWS, 2), "float32"))
    (summed,) = graph.add("sum_dim", (positive, (1,), False), ((ROWS,), "float32"))
    values, _ = graph.add("max_dim", (total, 1, False), ((ROWS,), "float32"), ((ROWS,), "int64"))
    graph.outputs = [summed, values]
    return graph


def test_list_computes_the_graph_for_any_number_of_rows() -> None:
    plan, _ = write_plan("small", write_role(small_graph()), b"", (0, 0))
    operations = OperationList.from_plan(plan)
    w = np.array([[1, 2], [3, -4], [5, 6]], np.float32)

    for rows in (1, 4):
        x = np.arange(3 * rows, dtype=np.float32).reshape(rows, 3) - 4
        summed, largest = operations.run([x, w])
        np.testing.assert_array_equal(summed, np.maximum(x @ w + 1, 0).sum(1))
        np.testing.assert_array_equal(largest, (x @ w + 1).max(1))


def test_message_has_what_clients_look_up() -> None:
    plan, refusal = write_plan("small", write_role(small_graph()), b"", (0, 1))
    role = plan.message.role

    assert plan.name == "small"
    assert plan.base_framework == "torch"
    assert set(plan.message.roles) == {"torch"}
    assert "max" in (refusal or "")
    # syft.js finds inputs and outputs among the placeholders.
    placeholders = {placeholder.id.id_int for placeholder in role.placeholders}
    assert {each.id_int for each in (*role.input_placeholder_ids, *role.output_placeholder_ids)} <= placeholders
    kinds = plan.message.input_types.nested_types.nested_type_tuple.nested_types
    assert [len(kind.nested_types.nested_type_list.nested_types) for kind in kinds] == [0, 1]


def test_translatable_graph_has_operations_for_browsers() -> None:
    graph = small_graph()
    graph.outputs.pop()
    graph.prune()
    plan, refusal = write_plan("small", write_role(graph), b"", (0, 0))

    assert refusal is None
    variants = plan_variants(plan.message.SerializeToString())
    assert variants.tfjs is not None
    assert "tf.matMul(arg_1, arg_2)" in list_operations(variants.tfjs)


def test_operation_that_the_list_has_not_is_refused() -> None:
    graph = Graph()
    x = graph.add_input((2, 2), "float32")
    graph.outputs = list(graph.add("max_pool2d_with_indices", (x,), ((1, 1), "float32")))

    with pytest.raises(PlanNotBuilt, match="max_pool2d_with_indices is not in the operation list"):
        write_role(graph)


def test_equal_operations_are_computed_once_and_unused_ones_not_at_all() -> None:
    graph = Graph()
    x = graph.add_input((2,), "float32")
    first = graph.add("mul", (x, 1), ((2,), "float32"))
    assert graph.add("mul", (x, 1), ((2,), "float32")) == first
    # Equal in Python, not to PyTorch.
    assert graph.add("mul", (x, 1.0), ((2,), "float32")) != first
    assert graph.add("mul", (x, True), ((2,), "float32")) != first
    graph.outputs = list(first)
    graph.prune()

    assert len(graph.operations) == 1


def test_shapes_grow_with_the_batch() -> None:
    assert broadcast((ROWS, 1), (3,), ()) == (ROWS, 3)
    assert count((ROWS, 3, 2)) == Rows(Fraction(6))
    assert count((3, 2)) == 6
    assert count((ROWS, ROWS)) is None
    assert str(Rows(Fraction(1, 2))) == "1/2·rows"


def test_listing_is_readable() -> None:
    plan, _ = write_plan("small", write_role(small_graph()), b"", (0, 0))

    assert list_operations(plan.message.SerializeToString()).splitlines() == [
        "def small(arg_1, arg_2):",
        "    var_3 = arg_1.matmul(arg_2)",
        "    var_4 = var_3.add(constant_1)",
        "    var_5 = var_4.relu()",
        "    var_6 = var_5.sum(dim=[1])",
        "    var_7, var_8 = torch.max(var_4, dim=1)",
        "    return var_6, var_7",
    ]
    with pytest.raises(InvalidPlan):
        list_operations(b"nothing")


def test_constants_that_browsers_have_not_are_not_translated() -> None:
    graph = Graph()
    x = graph.add_input((ROWS, 3), "float32")
    graph.outputs = list(graph.add("mul", (x, graph.add_constant(np.arange(3))), ((ROWS, 3), "float32")))

    plan, refusal = write_plan("whole", write_role(graph), b"", (0,))

    assert refusal == "a constant is int64, which TensorFlow.js has not"
    assert plan_variants(plan.message.SerializeToString()).tfjs is None
