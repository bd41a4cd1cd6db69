"""Everything that requests are answered with, put together once per process."""

from __future__ import annotations

from dataclasses import dataclass

from gridnode.db.session import Database
from gridnode_operator.master.datasets.service import DatasetNodes
from gridnode_operator.master.finished.service import FinishedModels
from gridnode_operator.master.keys.service import Keys
from gridnode_operator.master.live.viewers import Viewers
from gridnode_operator.master.models.checkpoints import NodeCheckpoints
from gridnode_operator.master.models.intake import EventIntake
from gridnode_operator.master.nodes.queries import Patience
from gridnode_operator.master.settings import MasterSettings


@dataclass(frozen=True, slots=True)
class Services:
    """What the edge calls."""

    settings: MasterSettings
    database: Database
    keys: Keys
    intake: EventIntake
    dataset_nodes: DatasetNodes
    finished: FinishedModels
    checkpoints: NodeCheckpoints
    viewers: Viewers
    patience: Patience
