"""``python -m gridnode_operator`` is ``gridnode-operator``."""

from __future__ import annotations

from gridnode_operator.main import main

main()
