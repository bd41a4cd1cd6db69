"""Hosting a process: check everything, then store all of it in one transaction, or nothing."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import insert, select
from sqlalchemy.dialects.postgresql import insert as insert_or_ignore
from sqlalchemy.orm import Session

from gridnode.averaging.hosted_plan import HostedPlan, SandboxLimits
from gridnode.averaging.layout import ModelLayout, is_finite
from gridnode.cycles.closing import start_cycle
from gridnode.db import binary_copy
from gridnode.db.models import Plan, Process, Protocol
from gridnode.errors import Conflict, InvalidRequest
from gridnode.plans.gate import require_targets
from gridnode.plans.plan import parse_plan
from gridnode.plans.variants import PlanVariants, plan_variants
from gridnode.processes.plan_inputs import check_plan_inputs
from gridnode.processes.schema import ClientConfig, ServerConfig, parse_client_config, parse_server_config
from gridnode.protocol.syft_proto import State, decode_state

_MAXIMUM_PLANS = 100
_SECRET_BYTES = 32
_TRAINING_PLAN = "training_plan"


@dataclass(frozen=True, slots=True)
class Upload:
    """What an author sends: encoded messages and the two configs, nothing of it checked yet."""

    model: bytes
    plans: Mapping[str, bytes]
    protocols: Mapping[str, bytes]
    averaging_plan: bytes
    client_config: object
    server_config: object


@dataclass(frozen=True, slots=True)
class CheckedUpload:
    """An upload that can be stored and trained."""

    model: bytes
    layout: ModelLayout
    plans: Mapping[str, PlanVariants]
    protocols: Mapping[str, bytes]
    averaging_plan: bytes | None
    client_config: ClientConfig
    client_values: dict[str, Any]
    server_config: ServerConfig
    server_values: dict[str, Any]
    digest: bytes


def check_upload(upload: Upload, limits: SandboxLimits) -> CheckedUpload:
    """Check an upload completely: parse all of it and try the averaging plan on zero diffs of the model's shapes.

    Raises:
        InvalidRequest: names the field and what is wrong with it.
    """
    client_config = parse_client_config(upload.client_config)
    server_config, _ = parse_server_config(upload.server_config)
    layout = ModelLayout.of(_check_model(upload.model).tensors)
    plans = _check_plans(upload.plans, layout)
    for name, plan in upload.plans.items():
        require_targets(name, plan, server_config.targets)
    for name, protocol in upload.protocols.items():
        _check_name("protocols", name)
        if not protocol:
            raise InvalidRequest(f"protocols.{name} is empty")
    values = dict(upload.server_config)  # type: ignore[call-overload]
    if upload.averaging_plan:
        diffs = _check_averaging_plan(upload.averaging_plan, layout, server_config, limits)
        if diffs is not None:
            # A list-form plan fixes the number of diffs: stored as if the author had written it.
            values |= {"min_diffs": diffs, "max_diffs": diffs}
            server_config, _ = parse_server_config(values)
    return CheckedUpload(
        model=upload.model,
        layout=layout,
        plans=plans,
        protocols=upload.protocols,
        averaging_plan=upload.averaging_plan or None,
        client_config=client_config,
        client_values=dict(upload.client_config),  # type: ignore[call-overload]
        server_config=server_config,
        server_values=values,
        digest=_digest(upload),
    )


def store_process(session: Session, upload: CheckedUpload, now: datetime) -> int:
    """Store a checked upload with its first checkpoint and first cycle; returns the process id.

    Storing the very same again changes nothing and gives the same id: an author whose answer was lost sends it again.

    Raises:
        Conflict: something else is hosted under that name and version.
    """
    name, version = upload.client_config.name, upload.client_config.version
    process_id = session.scalar(
        insert_or_ignore(Process)
        .values(
            name=name,
            version=version,
            state="active",
            secret=secrets.token_bytes(_SECRET_BYTES),
            client_config=upload.client_values,
            server_config=upload.server_values,
            averaging_plan=upload.averaging_plan,
            parameters=upload.layout.to_json(),
            upload_digest=upload.digest,
            created_at=now,
        )
        .on_conflict_do_nothing(constraint="processes_name_version_key")
        .returning(Process.id)
    )
    if process_id is None:
        return _hosted_before(session, upload)
    for plan_name, variants in upload.plans.items():
        session.execute(
            insert(Plan).values(
                process_id=process_id,
                name=plan_name,
                operations=variants.list,
                torchscript=variants.torchscript,
                tfjs=variants.tfjs,
                tfjs_refusal=variants.tfjs_refusal,
            )
        )
    for protocol_name, value in upload.protocols.items():
        session.execute(insert(Protocol).values(process_id=process_id, name=protocol_name, value=value))
    binary_copy.insert_row(session, "checkpoints", {"process_id": process_id, "number": 1, "value": upload.model})
    start_cycle(session, process_id, upload.server_config, 1, now)
    return int(process_id)


def _hosted_before(session: Session, upload: CheckedUpload) -> int:
    name, version = upload.client_config.name, upload.client_config.version
    found = session.execute(
        select(Process.id, Process.upload_digest).where(Process.name == name, Process.version == version)
    ).one_or_none()
    if found is None or found.upload_digest != upload.digest:
        raise Conflict(
            f"{name} {version} is hosted already, with other contents: "
            "choose another client_config.version, or delete it first"
        )
    return int(found.id)


def _digest(upload: Upload) -> bytes:
    """Of all that is sent; the same however the keys of a config are ordered."""
    configs = [msgspec.json.encode(config, order="sorted") for config in (upload.client_config, upload.server_config)]
    named = [
        (field, name, value)
        for field, values in (("plans", upload.plans), ("protocols", upload.protocols))
        for name, value in sorted(values.items())
    ]
    parts = [b"%d" % len(named), upload.model, upload.averaging_plan, *configs]
    for field, name, value in named:
        parts += [field.encode(), name.encode(), value]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()


def _check_model(model: bytes) -> State:
    if not model:
        raise InvalidRequest("model is missing: send the model's State")
    try:
        state = decode_state(model)
    except InvalidRequest as error:
        raise InvalidRequest(f"model: {error.message}") from None
    if not state.tensors:
        raise InvalidRequest("model has no parameters")
    for index, tensor in enumerate(state.tensors):
        if not is_finite(tensor):
            raise InvalidRequest(f"model: parameter {index} has NaN or infinite values")
    return state


def _check_plans(plans: Mapping[str, bytes], layout: ModelLayout) -> dict[str, PlanVariants]:
    if not plans:
        raise InvalidRequest("plans is empty: devices need at least one training plan")
    if len(plans) > _MAXIMUM_PLANS:
        raise InvalidRequest(f"plans has {len(plans)} entries, at most {_MAXIMUM_PLANS} are accepted")
    checked = {}
    for name, value in plans.items():
        _check_name("plans", name)
        try:
            checked[name] = plan_variants(value)
        except InvalidRequest as error:
            raise InvalidRequest(f"plans.{name}: {error.message}") from None
        # Other plans, for evaluation or preparing data, may take what they like.
        if name == _TRAINING_PLAN or len(plans) == 1:
            check_plan_inputs(f"plans.{name}", parse_plan(value), [each.shape for each in layout.parameters])
    return checked


def _check_name(field: str, name: str) -> None:
    if not name or len(name) > 255 or not name.isprintable():
        raise InvalidRequest(f"{field} has a name that is empty, longer than 255 characters, or not printable")


def _check_averaging_plan(plan: bytes, layout: ModelLayout, config: ServerConfig, limits: SandboxLimits) -> int | None:
    """Try the plan; the number of diffs that a list-form plan was traced for, None for an iterative one."""
    if config.aggregation.strategy != "mean":
        raise InvalidRequest(
            "server_config.aggregation and averaging_plan are both set: the plan decides how diffs are averaged. "
            "Leave one of them out."
        )
    diffs = HostedPlan.check(plan, layout, iterative=config.iterative_plan, max_diffs=config.max_diffs, limits=limits)
    for key, value in (("min_diffs", config.min_diffs), ("max_diffs", config.max_diffs)):
        if diffs is not None and value is not None and value != diffs:
            raise InvalidRequest(
                f"server_config.{key} is {value} but the averaging plan was traced for exactly {diffs} diffs: "
                f"set min_diffs and max_diffs to {diffs}, or host an iterative plan."
            )
    return diffs
