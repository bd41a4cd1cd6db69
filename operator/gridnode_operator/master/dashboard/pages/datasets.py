"""Datasets."""

from __future__ import annotations

from typing import Final

from flask import Blueprint, Response

from gridnode_operator.master.api.requests import whole
from gridnode_operator.master.dashboard.site import Site, signed_in
from gridnode_operator.master.datasets.service import list_datasets

_PAGE: Final = 50
_LARGEST: Final = 2**63 - 1


def add_dataset_pages(blueprint: Blueprint, site: Site) -> None:
    """The page of datasets."""

    @blueprint.get("/datasets")
    def datasets() -> Response:
        caller, after = signed_in().principal, whole("after", 0, _LARGEST)
        found = site.services.database.transaction(
            lambda session: list_datasets(session, caller, after=after, limit=_PAGE + 1)
        )
        return site.page(
            "datasets.html",
            title="Datasets",
            current="datasets",
            stream="",
            datasets=found[:_PAGE],
            following=found[_PAGE - 1].id if len(found) > _PAGE else None,
            is_first=after == 0,
        )
