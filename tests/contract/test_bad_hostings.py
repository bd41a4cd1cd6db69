"""Hosting requests with something wrong in them: refused with the reason, and nothing is stored."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from tests.support.damage import MIB, nested_plan, pickled, with_bomb, with_nan
from tests.support.device import PREFIX, HttpDevice
from tests.support.node import hosting_json
from tests.support.target import BOUND, Target

pytestmark = pytest.mark.integration

# Made of the JSON body of a hosting that is right.
HOSTINGS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "nothing": lambda good: {},
    "null": lambda good: None,
    "list": lambda good: [],
    "model is a number": lambda good: {**good, "model": 7},
    "model is not base64": lambda good: {**good, "model": "***"},
    "model is empty": lambda good: {**good, "model": ""},
    "model with NaN": lambda good: {**good, "model": encoded(with_nan(decoded(good["model"])))},
    "model of pickles": lambda good: {**good, "model": encoded(pickled(decoded(good["model"])))},
    "plans is a list": lambda good: {**good, "plans": []},
    "no plans": lambda good: {**good, "plans": {}},
    "plan is a number": lambda good: with_plan(good, 1),
    "plan with a zip bomb": lambda good: with_plan(good, encoded(with_bomb(decoded(good["plans"]["training_plan"])))),
    "plan, nested": lambda good: with_plan(good, encoded(nested_plan(5000))),
    "plan is empty": lambda good: with_plan(good, ""),
    "plan is a State": lambda good: with_plan(good, good["model"]),
    "plan name with NUL": lambda good: {**good, "plans": {"a\0b": good["plans"]["training_plan"]}},
    "averaging plan is a State": lambda good: {**good, "averaging_plan": good["model"]},
    "name is missing": lambda good: {**good, "client_config": {"version": "1.0"}},
    "name with NUL": lambda good: with_client(good, name="a\0b"),
    "name of a megabyte": lambda good: with_client(good, name="n" * MIB),
    "lr is text": lambda good: with_client(good, lr="fast"),
    "value with NUL": lambda good: with_client(good, note="a\0b"),
    "min above max": lambda good: with_server(good, min_diffs=9, max_diffs=3),
    "negative cycle": lambda good: with_server(good, cycle_length=-5),
    "cycles beyond 64 bits": lambda good: with_server(good, num_cycles=2**70),
    "cycles is true": lambda good: with_server(good, num_cycles=True),
    "misspelt key": lambda good: with_server(good, max_difs=3),
    "unknown strategy": lambda good: {
        **with_server(good, aggregation={"strategy": "median"}, iterative_plan=False),
        "averaging_plan": "",
    },
}


@pytest.mark.parametrize("what", HOSTINGS)
def test_hosting_that_is_no_hosting(target: Target, what: str) -> None:
    name = f"never-hosted-{list(HOSTINGS).index(what)}"
    body = HOSTINGS[what](hosting_json(target.hosting.named(name)))
    started = time.monotonic()
    headers = {"Authorization": f"Bearer {target.node.management.token}"}
    with closing(HttpDevice(target.node.management_port)) as device:
        answer = device.request("POST", PREFIX + "host-training", body=json.dumps(body), headers=headers)
    assert time.monotonic() - started < 2 * BOUND
    assert 400 <= answer.status < 500, f"{answer.status} {answer.body[:300]!r}"
    assert len(answer.json()["error"]) > 5
    assert target.node.management.retrieve(name).status == 404


def with_plan(good: dict[str, Any], plan: object) -> dict[str, Any]:
    return {**good, "plans": {"training_plan": plan}}


def with_client(good: dict[str, Any], **values: object) -> dict[str, Any]:
    return {**good, "client_config": {**good["client_config"], **values}}


def with_server(good: dict[str, Any], **values: object) -> dict[str, Any]:
    return {**good, "server_config": {**good["server_config"], **values}}


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def decoded(text: str) -> bytes:
    return base64.b64decode(text)


@pytest.mark.parametrize("disposition", ["form-data", 'form-data; filename="x"', 'form-data; name="models"'])
def test_form_with_a_part_that_is_no_field(target: Target, disposition: str) -> None:
    form = f"--x\r\nContent-Disposition: {disposition}\r\n\r\n1\r\n--x--\r\n".encode()
    headers = {
        "Authorization": f"Bearer {target.node.management.token}",
        "Content-Type": "multipart/form-data; boundary=x",
    }
    with closing(HttpDevice(target.node.management_port)) as management:
        answer = management.request("POST", f"{PREFIX}host-training", body=form, headers=headers)
    assert answer.status == 400
    assert "is not a field of this form" in json.loads(answer.body)["error"]
