"""The PyTorch operations a plan may hold, in NumPy.

Names, argument names and meaning are PyTorch's. Operations never change an array they are given, so views and copies
need not be told apart; :func:`find_operation` makes the in-place forms of them.
"""

from gridnode.plans.operations.table import OPERATIONS, find_operation

__all__ = ["OPERATIONS", "find_operation"]
