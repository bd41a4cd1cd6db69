"""What can go wrong while a model is made ready for phones."""

from __future__ import annotations

from gridnode.errors import GridNodeError


class PlanNotBuilt(GridNodeError):
    """The step can't be made a plan; the message says which part of it, and what to write instead."""


class ExtraMissing(GridNodeError):
    """A package is needed that only an extra installs."""


def torch_is_missing() -> ExtraMissing:
    """The error where PyTorch is needed and not installed."""
    return ExtraMissing("building plans needs PyTorch: pip install 'gridnode[torch]'")
