"""The gate and the real runtimes agree: what it refuses fails there, and what it allows loads, runs and is right."""

from __future__ import annotations

import numpy as np
import pytest

from gridnode.plans.gate.schemas import operators
from gridnode.plans.gate.torchscript import problems, read_archive
from tests.support.sdk.corpus import Graph, inputs, make_corpus
from tests.support.sdk.record import RECORDED, libtorch_lines
from tests.support.sdk.runtimes import VERSIONS, Runtime, runtime

pytestmark = [
    pytest.mark.runtimes,
    pytest.mark.torch,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(scope="module")
def corpus() -> list[Graph]:
    return make_corpus(chains=150)


def test_corpus_is_large_and_holds_what_old_runtimes_never_heard_of(corpus: list[Graph]) -> None:
    assert len(corpus) >= 1000
    assert len({graph.archive for graph in corpus}) > 900


def test_gate_and_runtime_agree_on_every_graph(corpus: list[Graph], phone: Runtime) -> None:
    known = operators(phone.version.split(".")[1])
    found = [problems(read_archive(graph.archive), known, newest_version=5) for graph in corpus]
    arguments = [tensor.numpy() for tensor in inputs()]
    ran = phone.run_each([graph.archive for graph in corpus], [arguments] * len(corpus))

    judged = list(zip([graph.source for graph in corpus], found, ran, strict=True))
    assert [(source, result) for source, refused, result in judged if not refused and isinstance(result, str)] == []
    assert [(source, refused) for source, refused, result in judged if refused and not isinstance(result, str)] == []
    assert 300 <= sum(not refused for refused in found) <= len(corpus) - 300
    for graph, result in zip(corpus, ran, strict=True):
        if not isinstance(result, str):
            for got, wanted in zip(result, graph.outputs, strict=True):
                assert got.dtype == wanted.dtype, graph.source
                np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5, err_msg=graph.source)


def test_recorded_operators_are_those_of_the_runtimes() -> None:
    lines = libtorch_lines({version: runtime(version).operators() for version in VERSIONS})

    assert (RECORDED / "libtorch.txt").read_text().splitlines() == lines
