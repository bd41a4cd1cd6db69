"""How operators of today's PyTorch are computed by those that runtimes of 2020 have."""

from gridnode.sdk.decompositions.table import Table, decompositions

__all__ = ["Table", "decompositions"]
