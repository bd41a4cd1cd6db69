"""All tests here need PyTorch: without it they are not collected, whatever markers are asked for."""

from __future__ import annotations

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("torch") else ["test_*.py"]
