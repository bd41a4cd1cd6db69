"""The status of a GridNode as types, of which crds/ is generated as well; :mod:`..status` computes it."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

ConditionStatus = Literal["True", "False", "Unknown"]


class Condition(Struct, rename="camel", frozen=True):
    """One aspect of a GridNode's state."""

    type: Annotated[str, Meta(max_length=63, description="Which aspect, such as Ready.")]
    status: Annotated[ConditionStatus, Meta(description="Whether it holds.")]
    reason: Annotated[str, Meta(max_length=128, description="Why, in one word for programs.")]
    message: Annotated[str, Meta(max_length=8192, description="Why, and what to do, for people.")]
    last_transition_time: Annotated[
        str, Meta(description="When status changed last.", extra_json_schema={"format": "date-time"})
    ]
    observed_generation: Annotated[int, Meta(description="Generation of the spec that this is about.")]


class ModelsStatus(Struct, rename="camel", frozen=True):
    """The models that the node hosts."""

    count: Annotated[int, Meta(description="Models hosted.")] = 0
    active: Annotated[int, Meta(description="Models in training, paused ones included.")] = 0
    finished: Annotated[int, Meta(description="Models that are trained to their end.")] = 0
    failed: Annotated[int, Meta(description="Models whose averaging plan failed; their reports are kept.")] = 0
    percent: Annotated[
        int | None, Meta(description="Completed cycles in percent of all; absent where no model has a last cycle.")
    ] = None
    last_completed_cycle: Annotated[
        int | None, Meta(description="Largest number of a completed cycle; absent before the first.")
    ] = None


class DatabaseStatus(Struct, rename="camel", frozen=True):
    """Where the node's data is."""

    schema: Annotated[
        str, Meta(description="Name of the schema; a later GridNode of this name adopts the models in it.")
    ]


class Display(Struct, rename="camel", frozen=True):
    """Texts for the columns of kubectl get."""

    replicas: Annotated[str, Meta(description="Ready of wanted pods, such as 2/3.")]
    progress: Annotated[str | None, Meta(description="Progress over all models, such as 40%.")] = None


class GridNodeStatus(Struct, rename="camel", frozen=True):
    """What the operator has observed."""

    conditions: Annotated[
        list[Condition],
        Meta(
            description="Ready, DatabaseReady, Migrated, Available, Exposed, Progressing and Degraded.",
            extra_json_schema={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
        ),
    ] = field(default_factory=list)
    observed_generation: Annotated[int | None, Meta(description="Generation of the spec that the status is about.")] = (
        None
    )
    url: Annotated[str | None, Meta(description="Where phones reach the node.")] = None
    image: Annotated[str | None, Meta(description="Image of the pods.")] = None
    replicas: Annotated[int, Meta(description="Pods that there are.")] = 0
    ready_replicas: Annotated[int, Meta(description="Pods that are ready.")] = 0
    selector: Annotated[str | None, Meta(description="Label selector of the pods, for autoscalers.")] = None
    schema_revision: Annotated[str | None, Meta(description="Revision of the node's database schema.")] = None
    database: Annotated[DatabaseStatus | None, Meta(description="Where the node's data is.")] = None
    models: Annotated[ModelsStatus | None, Meta(description="The models that the node hosts.")] = None
    display: Annotated[Display | None, Meta(description="Texts for the columns of kubectl get.")] = None
