"""Record what the chart makes of its defaults: ``python -m tests.chart.record``."""

from __future__ import annotations

from tests.chart.test_render import SNAPSHOT, snapshot

if __name__ == "__main__":
    SNAPSHOT.write_text(snapshot(), encoding="utf-8")
