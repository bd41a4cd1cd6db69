"""The gate without PyTorch: it reads archives and judges them by the recorded operators."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Mapping

import pytest

from gridnode.errors import InvalidRequest
from gridnode.plans.gate import TARGETS, check_plan, check_targets, require_targets
from gridnode.plans.gate.schemas import operators, parse_schema
from gridnode.plans.gate.torchscript import problems, read_archive
from gridnode.plans.plan import InvalidPlan
from tests.support.plan_builder import Action, Value, plan_of
from tests.support.recordings import DATA
from tests.support.syft_messages import parse

FORWARD = "class Plan(Module):\n  def forward(self: __torch__.Plan,\n    x: Tensor,\n    i: int) -> Tensor:\n"


def archive_of(body: str, version: int = 4, records: Mapping[str, bytes] | None = None) -> bytes:
    """An archive whose forward(x, i) has this body."""
    saved = io.BytesIO()
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    with zipfile.ZipFile(saved, "w") as archive:
        archive.writestr("archive/version" if version < 6 else "archive/.data/version", f"{version}\n")
        archive.writestr("archive/code/__torch__.py", FORWARD + lines)
        for name, content in (records or {}).items():
            archive.writestr(f"archive/{name}", content)
    return saved.getvalue()


def judge(body: str, digit: str = "6", version: int = 4) -> list[str]:
    return problems(read_archive(archive_of(body, version)), operators(digit), newest_version=5)


@pytest.mark.parametrize(
    "body",
    [
        "return torch.add(x, 1)",
        "_0 = torch.sum(x, [1], True, dtype=None)\nreturn torch.relu(torch.sub(x, torch.log(_0), alpha=1))",
        "return torch.to(torch.eq(torch.argmax(x, 1, False), x), 6, False, False, None)",
        "_0, _1, = torch.max(x, 1, True)\nreturn torch.gather(x, 1, _1)",
        "return torch.conv2d(x, x, None, [1, 1], [0, 0], [1, 1], 1)",
        "_0 = annotate(List[Tensor], [x, x])\nreturn torch.cat(_0, 0)",
        "if bool(torch.gt(i, 1)):\n  y = torch.neg(x)\nelse:\n  y = x\nreturn y",
        "return torch.clamp(x, -inf, inf)",
    ],
)
@pytest.mark.parametrize("digit", ["6", "7", "8"])
def test_calls_that_all_three_know_are_allowed(body: str, digit: str) -> None:
    assert judge(body, digit) == []


@pytest.mark.parametrize(
    ("body", "refused_by", "reason"),
    [
        ("return torch.frobnicate(x)", "678", "no operator aten::frobnicate"),
        ("return torch.maximum(x, x)", "6", "no operator aten::maximum"),
        ("return torch.amax(x, [1])", "6", "no operator aten::amax"),
        ('return torch.gelu(x, approximate="none")', "678", "does not take .*no argument approximate"),
        ("return torch.mul(x, x, 2)", "678", "does not take"),
        ("return torch.reshape(i, [1])", "678", "argument self is int, not Tensor"),
        ("return torch.clamp_min(x, torch.neg(x))", "678", "does not take"),
        ("return torch.where(torch.gt(x, 1), x, 0.5)", "678", "where"),
        ("return torch.angle(torch.neg(x))", "678", "0 for negative"),
        ("def inner():\n  return 1\nreturn x", "678", "FunctionDef, which can't be judged"),
    ],
)
def test_calls_that_a_runtime_does_not_know_are_refused_with_the_reason(
    body: str, refused_by: str, reason: str
) -> None:
    for digit in "678":
        found = judge(body, digit)
        assert bool(found) == (digit in refused_by), (digit, found)

    assert any(re.search(reason, problem) for problem in judge(body, refused_by[0]))


@pytest.mark.parametrize(("version", "allowed"), [(3, True), (5, True), (6, False), (10, False)])
def test_file_versions_after_5_are_refused(version: int, allowed: bool) -> None:
    found = judge("return x", version=version)

    assert (found == []) == allowed
    assert allowed or f"file version {version}" in found[0]


def test_debug_records_of_the_new_form_are_refused() -> None:
    data = archive_of("return x", records={"code/__torch__.py.debug_pkl": b"debug"})

    assert "would end the app" in problems(read_archive(data), operators("8"), 5)[0]


@pytest.mark.parametrize("depth", [150, 900, 100_000])
def test_deeply_nested_code_is_refused_not_fatal(depth: int) -> None:
    data = archive_of(f"return {'torch.neg(' * depth}x{')' * depth}")
    try:
        found = problems(read_archive(data), operators("8"), 5)
    except InvalidPlan as error:
        found = [error.message]

    assert found == [] if depth == 150 else found


def test_code_of_unusual_size_is_not_read() -> None:
    with pytest.raises(InvalidPlan, match="more than 1 MB of code"):
        read_archive(archive_of("y = torch.neg(x)\n" * 80_000 + "return x"))


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", archive_of("return x")[:-30], archive_of("return ((")])
def test_what_is_no_archive_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidPlan, match="not a readable TorchScript archive"):
        read_archive(data)


def test_schema_is_read() -> None:
    schema = parse_schema(
        "aten::pool(Tensor(a!) self, int[2] size, Scalar? top=None, *, Tensor? bias=None) -> (Tensor, Tensor values)"
    )

    assert [(each.name, each.type, each.has_default, each.by_name_only, each.spread) for each in schema.parameters] == [
        ("self", "Tensor", False, False, False),
        ("size", "int[]", False, False, True),
        ("top", "Scalar?", True, False, False),
        ("bias", "Tensor?", True, True, False),
    ]
    assert schema.returns == ("Tensor", "Tensor")
    assert schema.mismatch(["Tensor", "int"], {}) is None
    assert schema.mismatch(["Tensor", "int[]", "float"], {"bias": "None"}) is None
    assert schema.mismatch(["Tensor"], {}) == "argument size is missing"
    assert schema.mismatch(["Tensor", "int", "None", "Tensor"], {}) == "it takes 3 arguments by position, 4 are given"
    assert schema.mismatch(["Tensor", "int"], {"other": "int"}) == "it has no argument other"
    assert schema.mismatch(["Tensor", "float"], {}) == "argument size is float, not int[]"


@pytest.mark.parametrize("digit", ["6", "7", "8"])
def test_every_recorded_schema_is_read(digit: str) -> None:
    known = operators(digit)

    assert len(known) > 700
    assert all(schema.returns is not None for schemas in known.values() for schema in schemas)
    (relu,) = known["aten::relu"]
    assert relu.mismatch(["Tensor"], {}) is None


@pytest.mark.parametrize("model", ["tiny", "mlp"])
def test_recorded_plans_run_everywhere(model: str) -> None:
    table = check_plan((DATA / "models" / model / "training_plan.uploaded.bin").read_bytes())

    assert [verdict.target for verdict in table] == list(TARGETS)
    assert table.refused() == ()
    assert all("runs" in line for line in str(table).splitlines())


def test_each_runtime_says_what_it_misses() -> None:
    plan = plan_of([Action("lstsq_of_tomorrow", Value("in"))])
    table = check_plan(plan)

    assert table["kotlinsyft"].reason == "the plan has no TorchScript"
    assert table["pysyft-0.2.9"].reason == "PyTorch 1.4 has no Tensor.lstsq_of_tomorrow"
    assert "can't be translated" in table["syft.js-0.1.4"].reason
    assert "not known to the node" in table["simulator"].reason
    assert len(table.refused(["kotlinsyft", "simulator"])) == 2
    assert "<td>refused</td>" in table._repr_html_()


def test_broken_torchscript_is_a_verdict_no_error() -> None:
    message = parse("Plan", (DATA / "models" / "tiny" / "training_plan.uploaded.bin").read_bytes())
    message.torchscript = b"nothing"
    table = check_plan(message.SerializeToString())

    assert {verdict.target for verdict in table.refused()} >= {"swiftsyft-0.1.3", "swiftsyft-0.5", "kotlinsyft"}
    assert table["simulator"].runs


def test_unknown_target_is_refused_with_the_known_ones() -> None:
    check_targets(TARGETS, "server_config.targets")
    with pytest.raises(InvalidRequest, match=r"^server_config\.targets: 'android' is no phone runtime; .*kotlinsyft"):
        check_targets(["android"], "server_config.targets")


def test_plan_must_run_on_its_targets_only() -> None:
    plan = plan_of([Action("relu", Value("in"))])

    require_targets("training_plan", plan, [])
    require_targets("training_plan", plan, ["simulator", "pysyft-0.2.9"])
    with pytest.raises(
        InvalidPlan, match=r"plans\.training_plan .*targets: kotlinsyft .*: the plan has no TorchScript"
    ):
        require_targets("training_plan", plan, ["simulator", "kotlinsyft"])
