"""GridNode: a federated-learning server for phones, browsers and notebooks."""

__version__ = "0.1.0"
