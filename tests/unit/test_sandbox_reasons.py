"""Texts of a plan's process, as they may be shown."""

from __future__ import annotations

import pytest

from gridnode.averaging.sandbox_reasons import one_line

TORCHSCRIPT_ERROR = """The following operation failed in the TorchScript interpreter.
Traceback of TorchScript, serialized code (most recent call last):
  File "code/__torch__.py", line 9, in forward
    _0, _1, = argument_1
     ~~~~~~ <--- HERE
RuntimeError: Provided list has 3 elements, 2 are needed
"""


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("shapes (2,3) and (7,7) not aligned", "shapes (2,3) and (7,7) not aligned"),
        ("weight a/b is not known", "weight a/b is not known"),
        ("no such file: '/srv/node/secrets/token.txt'", "no such file: '…'"),
        (
            "open file failed because of errno 2 on ~/x/y: relative ../x/y",
            "open file failed because of errno 2 on …: relative …",
        ),
        ("C:\\Users\\node\\plan.pt is missing", "… is missing"),
        ("first line\n  at somewhere\n  at else", "first line"),
        ("\n  \n bell\x07 and\x1b[31m red", "bell  and [31m red"),
        (TORCHSCRIPT_ERROR, "RuntimeError: Provided list has 3 elements, 2 are needed"),
        ("", ""),
    ],
)
def test_reason_is_one_clean_line(text: str, line: str) -> None:
    assert one_line(text) == line


def test_long_reason_is_cut() -> None:
    assert one_line("x" * 10_000) == "x" * 299 + "…"
