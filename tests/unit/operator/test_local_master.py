"""The environment of the master node of ``gridnode up``."""

from __future__ import annotations

from gridnode_operator.local.master import master_environment

SETTINGS = {"PORT": "5002", "ADMIN_TOKEN_FILE": "/data/master/admin-key", "NODES_DIR": "/data/nodes"}


def test_settings_of_a_person_hold_but_for_those_that_make_it_part_of_this_run() -> None:
    theirs = {
        "HOME": "/home/ada",
        "GRIDNODE_MASTER_STORAGE_URL": "s3://models",
        "GRIDNODE_MASTER_OBSERVE_INTERVAL": "30",
        "GRIDNODE_MASTER_PORT": "1",
        "GRIDNODE_MASTER_PORT_FILE": "/elsewhere",
        "GRIDNODE_MASTER_ADMIN_TOKEN": "x" * 32,
    }
    assert master_environment(SETTINGS, theirs) == {
        "HOME": "/home/ada",
        "GRIDNODE_MASTER_STORAGE_URL": "s3://models",
        "GRIDNODE_MASTER_OBSERVE_INTERVAL": "30",
        "GRIDNODE_MASTER_FETCH_INTERVAL": "1",
        "GRIDNODE_MASTER_DRAIN_TIMEOUT": "2",
        "GRIDNODE_MASTER_PORT": "5002",
        "GRIDNODE_MASTER_ADMIN_TOKEN_FILE": "/data/master/admin-key",
        "GRIDNODE_MASTER_NODES_DIR": "/data/nodes",
    }
