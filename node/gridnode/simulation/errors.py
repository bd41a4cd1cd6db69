"""Errors that several modules of the simulation raise."""

from __future__ import annotations

from gridnode.errors import InvalidRequest


class InvalidDataset(InvalidRequest):
    """The data can't be used; the message says why and what is expected."""
