"""The master node: progress of all nodes of an environment, the app developers' API, and keys.

One package per subject, each with the rows it owns (:mod:`gridnode_operator.master.db.models`) behind functions that
take a session. Nothing below ``api`` and ``serving`` knows HTTP.
"""
