"""The three forms in which a phone may ask for a plan, as edits of the uploaded message."""

from __future__ import annotations

from dataclasses import dataclass

from gridnode.plans.plan import InvalidPlan, parse_plan
from gridnode.plans.tfjs import Untranslatable, translate_role
from gridnode.plans.torchscript import check_archive
from gridnode.protocol import syft_pb2

_TFJS = "tfjs"


@dataclass(frozen=True, slots=True)
class PlanVariants:
    """Serialized plans by what a phone passes as ``receive_operations_as``.

    Exactly one of ``tfjs`` and ``tfjs_refusal`` (why there is none) is None. The same upload gives the same bytes.
    """

    list: bytes
    torchscript: bytes
    tfjs: bytes | None
    tfjs_refusal: str | None


def plan_variants(data: bytes | memoryview) -> PlanVariants:
    """Make the variants of an uploaded plan.

    Raises:
        InvalidPlan: not a plan, one whose active operations are not PyTorch's, or one that no device could run.
    """
    plan = parse_plan(data)
    if plan.base_framework not in ("", "torch"):
        raise InvalidPlan(
            f"the active operations of plan {plan.name!r} are for {plan.base_framework!r}, expected are those for torch"
        )
    if plan.torchscript:
        check_archive(plan.torchscript)
    elif not plan.has_operations:
        raise InvalidPlan(f"plan {plan.name!r} has neither operations nor TorchScript: no device could run it")
    tfjs, refusal = _tfjs_variant(plan.message)
    return PlanVariants(_list_variant(plan.message), _torchscript_variant(plan.message), tfjs, refusal)


def _list_variant(uploaded: syft_pb2.Plan) -> bytes:
    variant = _copy(uploaded)
    variant.ClearField("torchscript")
    return _serialize(variant)


def _torchscript_variant(uploaded: syft_pb2.Plan) -> bytes:
    variant = _copy(uploaded)
    del variant.role.actions[:]
    return _serialize(variant)


def _tfjs_variant(uploaded: syft_pb2.Plan) -> tuple[bytes | None, str | None]:
    if _TFJS in uploaded.roles and uploaded.roles[_TFJS].actions:
        role = uploaded.roles[_TFJS]
    elif not uploaded.role.actions:
        return None, "the plan has no operation list, only TorchScript"
    else:
        try:
            role = translate_role(uploaded.role)
        except Untranslatable as error:
            return None, f"the plan has no operations for TensorFlow.js and can't be translated: {error}"
    variant = _copy(uploaded)
    variant.ClearField("torchscript")
    variant.ClearField("roles")
    variant.role.CopyFrom(role)
    variant.base_framework = _TFJS
    return _serialize(variant), None


def _copy(message: syft_pb2.Plan) -> syft_pb2.Plan:
    copy = syft_pb2.Plan()
    copy.CopyFrom(message)
    return copy


def _serialize(message: syft_pb2.Plan) -> bytes:
    return message.SerializeToString(deterministic=True)
