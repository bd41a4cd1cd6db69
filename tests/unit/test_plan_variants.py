"""Plans are read, served in three forms, and translated for browsers where that keeps their meaning."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gridnode.plans.plan import InvalidPlan, parse_plan
from gridnode.plans.variants import plan_variants
from gridnode.protocol.wire_format import field_header
from tests.support.plan_builder import Action, Value, plan_of
from tests.support.recordings import DATA, served_plan
from tests.support.syft_messages import parse, plan_without_ids

MODELS = ["tiny", "mlp"]
IN, OUT = Value("in"), Value("out")


def uploaded(model: str) -> bytes:
    return (DATA / "models" / model / "training_plan.uploaded.bin").read_bytes()


def edited(data: bytes, edit: Callable[[Any], object]) -> bytes:
    plan = parse("Plan", data)
    edit(plan)
    changed: bytes = plan.SerializeToString()
    return changed


def without_tfjs(data: bytes) -> bytes:
    return edited(data, lambda plan: plan.roles.pop("tfjs"))


def torchscript_files(plan: bytes) -> dict[str, bytes]:
    """Debug records aside, which the historical node wrote anew."""
    with zipfile.ZipFile(io.BytesIO(parse("Plan", plan).torchscript)) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith(".debug_pkl")}


@pytest.mark.parametrize("model", MODELS)
def test_plan_says_what_it_holds(model: str) -> None:
    plan = parse_plan(uploaded(model))
    parameters = {"tiny": 2, "mlp": 4}[model]
    assert plan.name == "training_plan"
    assert plan.base_framework == "torch"
    assert plan.has_operations
    assert (plan.input_count, plan.output_count) == (4 + parameters, 2 + parameters)
    assert plan.torchscript == parse("Plan", uploaded(model)).torchscript
    assert not parse_plan(served_plan(model, "torchscript")).has_operations
    assert parse_plan(served_plan(model, "list")).torchscript == b""


@pytest.mark.parametrize("model", MODELS)
def test_list_variant_is_the_recorded_one(model: str) -> None:
    variant = plan_variants(uploaded(model)).list
    assert plan_without_ids(variant) == plan_without_ids(served_plan(model, "list"))
    assert parse("Plan", variant).torchscript == b""


@pytest.mark.parametrize("model", MODELS)
def test_torchscript_variant_is_the_recorded_one(model: str) -> None:
    variant = plan_variants(uploaded(model)).torchscript
    assert plan_without_ids(variant) == plan_without_ids(served_plan(model, "torchscript"))
    assert torchscript_files(variant) == torchscript_files(served_plan(model, "torchscript"))
    assert parse("Plan", variant).torchscript == parse("Plan", uploaded(model)).torchscript


@pytest.mark.parametrize("model", MODELS)
def test_tfjs_variant_is_the_recorded_one(model: str) -> None:
    variants = plan_variants(uploaded(model))
    assert variants.tfjs is not None
    assert variants.tfjs_refusal is None
    assert plan_without_ids(variants.tfjs) == plan_without_ids(served_plan(model, "tfjs"))
    served = parse("Plan", variants.tfjs)
    assert (served.torchscript, len(served.roles), served.base_framework) == (b"", 0, "tfjs")


@pytest.mark.parametrize("model", MODELS)
def test_translation_is_the_recorded_one(model: str) -> None:
    translated = plan_variants(without_tfjs(uploaded(model))).tfjs
    assert translated is not None
    assert plan_without_ids(translated) == plan_without_ids(served_plan(model, "tfjs"))


def test_role_without_actions_is_translated_too() -> None:
    data = edited(uploaded("tiny"), lambda plan: plan.roles["tfjs"].ClearField("actions"))
    translated = plan_variants(data).tfjs
    assert translated is not None
    assert len(parse("Plan", translated).role.actions) == 61


def test_same_upload_gives_same_bytes() -> None:
    assert plan_variants(uploaded("tiny")) == plan_variants(uploaded("tiny"))


def test_unknown_fields_are_served_as_they_came() -> None:
    variants = plan_variants(uploaded("tiny") + field_header(99, 5) + b"later")
    for variant in (variants.list, variants.torchscript, variants.tfjs):
        assert variant is not None
        assert b"later" in variant


def translated_action(action: Action) -> Any:
    """The only action of the translation of a plan with this one."""
    variants = plan_variants(plan_of([action]))
    assert variants.tfjs is not None, variants.tfjs_refusal
    return parse("Plan", variants.tfjs).role.actions[0]


TRANSLATED: list[tuple[Action, str, list[Any], dict[str, Any]]] = [
    (Action("mean", IN, [], {"dim": 1}), "tf.mean", [IN, 1], {}),
    (Action("mean", IN, [1], {"keepdim": True}), "tf.mean", [IN, 1], {"keepdim": True}),
    (Action("torch.argmax", None, [IN], {"dim": 1}), "tf.argMax", [IN, 1], {}),
    (Action("torch.nn.functional.relu", None, [IN]), "tf.relu", [IN], {}),
    (Action("pow", IN, [2]), "tf.pow", [IN, 2], {}),
    (Action("__rtruediv__", IN, [1]), "tf.div", [1, IN], {}),
    (Action("sub_", IN, [2], returns=[IN]), "tf.sub", [IN, 2], {}),
    (Action("float", IN), "tf.cast", [IN, "float32"], {}),
]


@pytest.mark.parametrize(
    ("action", "command", "args", "kwargs"), TRANSLATED, ids=[case[0].command for case in TRANSLATED]
)
def test_single_translation(action: Action, command: str, args: list[Any], kwargs: dict[str, Any]) -> None:
    found = translated_action(action)
    expected = parse("Plan", plan_of([Action(command, None, args, kwargs, action.returns)])).role.actions[0]
    assert found == expected


def test_tensor_as_target_is_translated() -> None:
    data = edited(
        plan_of([Action("add", IN, [IN])]),
        lambda plan: plan.role.actions[0].target_tensor.CopyFrom(_constant()),
    )
    translated = plan_variants(data).tfjs
    assert translated is not None
    assert parse("Plan", translated).role.actions[0].args[0].arg_tensor == _constant()


def _constant() -> Any:
    action = Action("add", IN, [np.ones(2, np.float32)])
    return parse("Plan", plan_of([action])).role.actions[0].args[0].arg_tensor


# Each of these has an entry in threepio's table, or raises there, but would not compute the same in syft.js.
UNTRANSLATABLE = [
    Action("relu6", IN),
    Action("atan2", IN, [IN]),
    Action("split", IN, [2]),
    Action("transpose", IN, [0, 1]),
    Action("softmax", IN, [], {"dim": 0}),
    Action("flatten", IN),
    Action("max", IN, [IN]),
    Action("max", IN, [1], returns=[OUT, Value("indices")]),
    Action("max", IN, [], {"dim": 1}),
    Action("add", IN, [IN], {"alpha": 2}),
    Action("sum", IN, [], {"keepdim": True}),
    Action("sum", IN, [], {"dim": 1, "dtype": "float64"}),
    Action("sum", IN, [1], {"dim": 1}),
    Action("sum", IN, [1, True]),
    Action("argmax", IN, [], {"dim": 1, "keepdim": True}),
    Action("reshape", IN, [-1, 1]),
    Action("add_", IN, [1]),
    Action("mm", IN, [IN]),
    Action("linear", IN, [IN]),
    Action("no_such_operation", IN),
    Action("", IN),
    Action("relu", IN, returns=[]),
]


@pytest.mark.parametrize("action", UNTRANSLATABLE, ids=[action.command for action in UNTRANSLATABLE])
def test_what_would_change_its_meaning_is_not_translated(action: Action) -> None:
    variants = plan_variants(plan_of([Action("relu", IN, returns=[Value("first")]), action]))
    assert variants.tfjs is None
    assert variants.tfjs_refusal is not None
    assert f"action 1 ({action.command!r})" in variants.tfjs_refusal


def test_plan_of_torchscript_only_has_no_translation() -> None:
    data = edited(without_tfjs(uploaded("tiny")), lambda plan: plan.role.ClearField("actions"))
    variants = plan_variants(data)
    assert variants.tfjs is None
    assert variants.tfjs_refusal == "the plan has no operation list, only TorchScript"


# --- refusals ---------------------------------------------------------------------------------------------------------


def nested(number: int, content: bytes) -> bytes:
    return field_header(number, len(content)) + content


def deep(levels: int) -> bytes:
    argument = b""
    for _ in range(levels):
        argument = nested(11, nested(1, argument))
    return nested(2, nested(2, nested(5, argument)))


REFUSED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "plan '' has neither operations nor TorchScript"),
    "a State": ((DATA / "models" / "tiny" / "state.bin").read_bytes(), "Plan|neither"),
    "text": (b"this is no plan at all", "not a Plan"),
    "cut off": (uploaded("tiny")[:-3], "not a Plan"),
    "cut off inside": (nested(2, uploaded("tiny")[:50] + b"\x12\x7f"), "not a Plan"),
    "name that is no text": (uploaded("tiny") + nested(4, b"\xff\xfe"), "not a Plan"),
    "nested without end": (deep(10_000), "not a Plan"),
    "a million roles": (b"\x52\x00" * 1_000_000, "not a Plan: a message has too many fields"),
    "millions of actions": (nested(2, b"\x12\x00" * 3_000_000), "operations take 6000000 bytes, at most 4194304"),
}


@pytest.mark.parametrize(("data", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(data: bytes, reason: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(InvalidPlan, match=reason):
            plan_variants(data)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_operations_of_another_framework_are_refused() -> None:
    with pytest.raises(InvalidPlan, match="active operations of plan 'training_plan' are for 'tfjs'"):
        plan_variants(served_plan("tiny", "tfjs"))


def test_torchscript_does_not_count_as_operations() -> None:
    data = edited(uploaded("tiny"), lambda plan: setattr(plan, "torchscript", bytes(5_000_000)))
    assert len(parse_plan(data).torchscript) == 5_000_000
    with pytest.raises(InvalidPlan, match="at most 1000 are accepted"):
        parse_plan(data, maximum_operations_bytes=1000)
