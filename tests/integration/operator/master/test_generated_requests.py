"""Requests generated from the description of ``/api/v1``: none is a server error, and answers are as described."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.master_process import ADMIN, MasterProcess

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

CHECKS = "not_a_server_error,response_schema_conformance,status_code_conformance,content_type_conformance"


def test_generated_requests(empty_database_url: str, tmp_path: Path) -> None:
    with MasterProcess(empty_database_url, tmp_path, provider="local", nodes_dir=tmp_path / "nodes") as master:
        event = {"percent_complete": 100, "model_id": "m", "node_id": "n", "cycle": 1, "cycles": 1, "reports": 2}
        master.admin.post("/model_progress", event)
        command = [
            sys.executable, "-m", "schemathesis.cli", "run", f"{master.url}/api/v1/openapi.json",
            "--header", f"Authorization: Bearer {ADMIN}", "--exclude-path-regex", "stream", "--max-examples", "10",
            "--checks", CHECKS, "--phases", "coverage,fuzzing", "--no-color", "--seed", "7",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
        assert "23 passed" in done.stdout
        assert "Traceback" not in master.log()
