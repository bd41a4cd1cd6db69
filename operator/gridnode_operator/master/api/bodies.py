"""Bodies of requests to ``/api/v1``."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

_Name = Annotated[str, Meta(min_length=1, max_length=255)]


class NewDataset(Struct, frozen=True, forbid_unknown_fields=True):
    """A dataset to be made; one of the name that is there stays as it is."""

    name: Annotated[_Name, Meta(description="What apps and notebooks call it: their dataset_id.")]
    owner: Annotated[_Name | None, Meta(description="Whose it is; needed, and possible, for admins only.")] = None
    features: Annotated[list[_Name], Meta(max_length=10_000, description="Names of its features.")] = field(
        default_factory=list
    )
    labels: Annotated[list[_Name], Meta(max_length=10_000, description="Names of its labels.")] = field(
        default_factory=list
    )
    node: Annotated[bool, Meta(description="Whether to have its node made at once.")] = False


class NewModel(Struct, frozen=True, forbid_unknown_fields=True):
    """A model to be announced for a dataset."""

    features: Annotated[list[_Name], Meta(max_length=10_000, description="Features that it trains on.")] = field(
        default_factory=list
    )
    labels: Annotated[list[_Name], Meta(max_length=10_000, description="Labels that it predicts.")] = field(
        default_factory=list
    )


class NewKey(Struct, frozen=True, forbid_unknown_fields=True):
    """A key to be made."""

    scope: Annotated[Literal["app", "notebook", "node", "admin"], Meta(description="What it is good for.")]
    owner: Annotated[_Name | None, Meta(description="For whom it acts: app and notebook keys only.")] = None
    node_id: Annotated[_Name | None, Meta(description="The only node that it speaks for: node keys only.")] = None
    note: Annotated[str, Meta(max_length=200, description="What it is for.")] = ""
    expires_at: Annotated[
        Annotated[datetime, Meta(tz=True)] | None, Meta(description="When it stops to work; never if absent.")
    ] = None
