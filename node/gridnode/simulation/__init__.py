"""Simulated phones: real data, real training, and the wire contract of 2020 against any node.

Nothing here knows the server but by that contract. :mod:`.device_client` speaks it, :mod:`.phone` is one device,
:mod:`.fleet` runs many.
"""
