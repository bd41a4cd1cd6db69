"""The bench: a load generator, the bare cost beside it, and the goals they are held against.

``python -m bench.run`` runs everything, ``python -m bench.run tiny mlp --quick`` a part of it for a few seconds each,
and ``python -m bench.servers`` compares web servers. Nothing here is imported by the node.
"""
