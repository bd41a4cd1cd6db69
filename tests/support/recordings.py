"""Recorded trainings and conversations of real clients, as the tests read them (``tests/data``)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent.parent / "data"

# The run of syft.js was recorded without its summary. What it hosted was the tiny model with the iterative plan.
_WITHOUT_SUMMARY: Mapping[str, Any] = {
    "name": "syftjs-tiny",
    "version": "1.0",
    "client_config": {"name": "syftjs-tiny", "version": "1.0", "batch_size": 3, "lr": 0.1, "max_updates": 1},
    "server_config": {
        "min_workers": 2,
        "max_workers": 2,
        "pool_selection": "random",
        "do_not_reuse_workers_until_cycle": 6,
        "cycle_length": 28800,
        "num_cycles": 1,
        "max_diffs": 2,
        "iterative_plan": True,
    },
}


@dataclass(frozen=True, slots=True)
class Hosting:
    """Everything a model author hosts; plans and protocols by name, an empty averaging plan is the plain mean."""

    model: bytes
    plans: Mapping[str, bytes]
    averaging_plan: bytes
    client_config: Mapping[str, Any]
    server_config: Mapping[str, Any]
    protocols: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def name(self) -> str:
        name: str = self.client_config["name"]
        return name

    def named(self, name: str, version: str = "1.0", **server_config: Any) -> Hosting:
        """The same under another name, with some keys of server_config changed (None removes a key)."""
        changed = {**self.server_config, **server_config}
        return Hosting(
            self.model,
            self.plans,
            self.averaging_plan,
            {**self.client_config, "name": name, "version": version},
            {key: value for key, value in changed.items() if value is not None},
            self.protocols,
        )


@dataclass(frozen=True, slots=True)
class Run:
    """A recorded training: what was hosted, what each phone reported by cycle, and what came out."""

    name: str
    hosting: Hosting
    diffs: tuple[tuple[bytes, ...], ...]
    checkpoints: tuple[bytes, ...]


def run_names() -> list[str]:
    """The names of all recorded runs."""
    return sorted(path.name for path in (DATA / "runs").iterdir() if path.is_dir())


def load_run(name: str) -> Run:
    """Read one recorded run."""
    folder = DATA / "runs" / name
    recorded = (folder / "summary.json").exists()
    summary = json.loads((folder / "summary.json").read_text()) if recorded else _WITHOUT_SUMMARY
    hosting = Hosting(
        model=(folder / ("hosted.model.bin" if recorded else "checkpoint_1.bin")).read_bytes(),
        plans={"training_plan": _recorded_plan(folder, recorded, "hosted.training_plan.bin", "training_plan.uploaded")},
        averaging_plan=_recorded_plan(folder, recorded, "hosted.averaging_plan.bin", "avg_plan.iterative"),
        client_config=summary["client_config"],
        server_config=summary["server_config"],
    )
    checkpoints = tuple(path.read_bytes() for path in _numbered(folder, "checkpoint_{}.bin", 1))
    diffs = tuple(
        tuple(path.read_bytes() for path in _numbered(folder, f"cycle{cycle}_diff{{}}.bin", 0))
        for cycle in range(1, len(checkpoints))
    )
    return Run(name, hosting, diffs, checkpoints)


def load_model(name: str) -> Hosting:
    """The recorded model ``tiny`` or ``mlp`` with its plans, to be hosted under another name."""
    folder = DATA / "models" / name
    return Hosting(
        model=(folder / "state.bin").read_bytes(),
        plans={"training_plan": (folder / "training_plan.uploaded.bin").read_bytes()},
        averaging_plan=(folder / "avg_plan.iterative.bin").read_bytes(),
        client_config={"name": name, "version": "1.0", "batch_size": 3, "lr": 0.1, "max_updates": 1},
        server_config={"min_workers": 1, "max_workers": 100, "num_cycles": 1, "max_diffs": 2, "iterative_plan": True},
    )


def served_plan(model: str, variant: str) -> bytes:
    """A training plan as the historical node served it; variant is list, torchscript or tfjs."""
    return (DATA / "models" / model / f"training_plan.served.{variant}.bin").read_bytes()


def transcript_names() -> list[str]:
    """The names of all recorded conversations, such as ``train/tiny-iter``."""
    folder = DATA / "transcripts"
    return sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.glob("*/*.json"))


def load_transcript(name: str) -> list[dict[str, Any]]:
    """The events of one recorded conversation, in time order."""
    events: list[dict[str, Any]] = json.loads((DATA / "transcripts" / f"{name}.json").read_text())["events"]
    return events


def recorded_token() -> str:
    """The token that a phone showed in the recorded run ``jwt-secret``."""
    for event in load_transcript("train/jwt-secret"):
        if event["kind"] == "http" and event["request"]["path"].endswith("/authenticate"):
            token: str = event["request"]["body"]["json"]["auth_token"]
            return token
    raise LookupError("no phone authenticates over HTTP in train/jwt-secret")


def _recorded_plan(folder: Path, recorded: bool, hosted: str, model_file: str) -> bytes:
    return (folder / hosted if recorded else DATA / "models" / "tiny" / f"{model_file}.bin").read_bytes()


def _numbered(folder: Path, pattern: str, first: int) -> list[Path]:
    paths: list[Path] = []
    while (path := folder / pattern.format(first + len(paths))).exists():
        paths.append(path)
    return paths
