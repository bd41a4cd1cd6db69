"""What was made for a moment serves all who ask meanwhile."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from gridnode_operator.master.dashboard.recent import Recent


def test_value_is_made_anew_once_it_is_too_old() -> None:
    clock = [0.0]
    made: list[int] = []
    recent: Recent[int] = Recent(2, now=lambda: clock[0])

    def make() -> int:
        made.append(len(made))
        return made[-1]

    assert [recent.get("k", make), recent.get("k", make)] == [0, 0]
    clock[0] = 1.9
    assert recent.get("k", make) == 0
    clock[0] = 2.0
    assert recent.get("k", make) == 1
    assert recent.get("other", make) == 2


def test_many_who_ask_at_once_have_it_made_once() -> None:
    recent: Recent[int] = Recent(60)
    made = []
    lock = threading.Lock()

    def make() -> int:
        time.sleep(0.05)
        with lock:
            made.append(1)
        return len(made)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: recent.get("k", make), range(32))) == {1}
    assert len(made) == 1


def test_failure_is_not_kept() -> None:
    recent: Recent[int] = Recent(60)
    with pytest.raises(ZeroDivisionError):
        recent.get("k", lambda: 1 // 0)
    assert recent.get("k", lambda: 7) == 7


def test_keys_are_bounded() -> None:
    recent: Recent[int] = Recent(60, most=3)
    for key in range(100):
        recent.get(key, lambda key=key: key)  # type: ignore[misc]
    assert len(recent._entries) <= 3
