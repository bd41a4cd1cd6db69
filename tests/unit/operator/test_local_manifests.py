"""Manifests as `gridnode up` reads them: as strictly as an API server, with errors that say where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from gridnode_operator.api import API_VERSION
from gridnode_operator.local.manifests import InvalidManifest, parse_manifests, read_manifests
from gridnode_operator.local.sources import Sources
from tests.support.gridnode_manifests import ALTERNATIVES, EVERYTHING
from tests.support.up import manifest

ROOT = Path(__file__).parents[3]


def text(*manifests: Any) -> str:
    return yaml.safe_dump_all(manifests)


def test_gridnodes_are_read_in_their_order_and_empty_documents_are_passed_over() -> None:
    documents = ["# nothing", text(manifest("b")), "", text(manifest("a", namespace="apps")), "---"]

    found = parse_manifests("\n---\n".join(documents), "grid.yaml")

    assert [each.key for each in found] == ["default/b", "apps/a"]
    assert found[0].spec.processes_per_pod == 1


@pytest.mark.parametrize("spec", [EVERYTHING, ALTERNATIVES])
def test_every_field_is_accepted(spec: dict[str, Any]) -> None:
    [found] = parse_manifests(text(manifest("all", spec)), "grid.yaml")

    assert found.spec.exposure.service.port == spec.get("exposure", {}).get("service", {}).get("port", 5000)


def test_example_is_a_gridnode_and_the_one_that_the_demo_runs() -> None:
    [example] = read_manifests(ROOT / "examples" / "gridnode.yaml")
    [demo] = read_manifests(ROOT / "node" / "gridnode" / "simulation" / "assets" / "gridnode.yaml")

    assert example == demo
    assert (example.key, example.spec.replicas, example.spec.exposure.service.port) == ("default/demo", 2, 5000)


def test_what_is_about_another_database_server_is_left_out() -> None:
    database = {
        "adminSecretRef": {"name": "shared", "key": "url"},
        "iamAuthentication": True,
        "tlsMode": "verify-full",
        "poolSize": 7,
    }

    [found] = parse_manifests(text(manifest("one", {"database": database})), "grid.yaml")

    assert found.spec.database.admin_secret_ref is None
    assert (found.spec.database.iam_authentication, found.spec.database.tls_mode) == (False, None)
    assert found.spec.database.pool_size == 7


def test_each_gridnode_has_an_identity_and_each_spec_a_generation() -> None:
    def read(name: str, **spec: Any) -> Any:
        [found] = parse_manifests(text(manifest(name, spec)), "grid.yaml")
        return found

    assert read("one").uid == read("one", replicas=2).uid != read("two").uid
    assert read("one").generation == read("two").generation != read("one", replicas=2).generation


def changed(**changes: Any) -> dict[str, Any]:
    return {**manifest("one"), **changes}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (changed(kind="Secret"), "document 1: kind is 'Secret'; without a cluster there is only GridNode"),
        (changed(kind=None), "document 1: kind is missing"),
        (changed(apiVersion="gridnode.io/v1"), f"apiVersion is 'gridnode.io/v1'; this release reads {API_VERSION}"),
        (changed(metadata=None), "document 1: metadata is missing"),
        (changed(metadata={}), "document 1: metadata.name is missing"),
        (changed(metadata={"name": "../one"}), "metadata.name is '../one'; accepted are lower-case letters"),
        (changed(metadata={"name": "a" * 254}), "metadata.name is"),
        (changed(metadata={"name": "one", "namespace": ".."}), "metadata.namespace is '..'"),
        (changed(metadata={"name": "one", "namespace": "a.b"}), "metadata.namespace is 'a.b'"),
        (changed(metadata={"name": "one", "annotations": {"a": 1}}), "metadata.annotations must hold texts"),
        (changed(spec=[]), None),
        (changed(spec=["a"]), "(GridNode default/one): spec must be an object"),
        (changed(spce={}), "(GridNode default/one): there is no field spce; did you mean spec?"),
        (manifest("one", {"replica": 1}), "there is no field spec.replica; did you mean replicas?"),
        (manifest("one", {"database": {"pool": 1}}), "there is no field spec.database.pool; did you mean poolSize?"),
        (manifest("one", {"replicas": 101}), "(GridNode default/one): spec.replicas: Expected `int` <= 100"),
        (manifest("one", {"replicas": "two"}), "spec.replicas: Expected `int`, got `str`"),
        (manifest("one", {"database": {"schema": "public"}}), "spec.database.schema: is a schema of PostgreSQL's own"),
        (
            manifest("one", {"podTemplate": {"env": [{"name": "GRIDNODE_HOST", "value": "::"}]}}),
            "spec.podTemplate.env: GRIDNODE_HOST is set by the operator",
        ),
        (
            manifest("one", {"podTemplate": {"env": [{"name": "A", "valeu": "b"}]}}),
            "there is no field spec.podTemplate.env[0].valeu; did you mean value?",
        ),
        ("just a text", "document 1: a manifest is expected"),
        ([manifest("one")], "document 1: a manifest is expected"),
    ],
)
def test_error_names_document_and_field(document: Any, message: str | None) -> None:
    if message is None:
        assert parse_manifests(text(document), "grid.yaml")
        return
    with pytest.raises(InvalidManifest) as raised:
        parse_manifests(text(document), "grid.yaml")

    assert raised.value.message.startswith("grid.yaml, document 1")
    assert message in raised.value.message


def test_error_names_the_second_document() -> None:
    with pytest.raises(InvalidManifest, match=r"grid\.yaml, document 2 \(GridNode apps/two\): spec\.replicas: "):
        parse_manifests(text(manifest("one"), manifest("two", {"replicas": -1}, namespace="apps")), "grid.yaml")


def test_same_gridnode_twice_is_refused() -> None:
    with pytest.raises(InvalidManifest, match="document 2: there is a GridNode default/one already"):
        parse_manifests(text(manifest("one"), manifest("one")), "grid.yaml")


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("a: [1", r"grid\.yaml, line 2, column 1: no YAML"),
        ("a: 1\nb: 2\na: 3\n", r"grid\.yaml, line 3, column 1: no YAML: a stands here twice"),
        ("spec: {replicas: 1, replicas: 2}", "replicas stands here twice"),
        ("a: !!python/object:os.system {}", r"grid\.yaml, line 1, column 4: no YAML"),
        ("a: \x00", "no YAML"),
        ("", r"grid\.yaml holds no GridNode"),
    ],
)
def test_text_that_is_no_manifest_is_refused_with_its_place(written: str, message: str) -> None:
    with pytest.raises(InvalidManifest, match=message):
        parse_manifests(written + "\n", "grid.yaml")


def test_file_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidManifest, match="can't be read: No such file or directory"):
        read_manifests(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(InvalidManifest, match="it is not UTF-8 text"):
        read_manifests(tmp_path / "latin.yaml")


def test_watched_file_is_news_once(tmp_path: Path) -> None:
    file, directory = tmp_path / "grid.yaml", tmp_path / "nodes"
    file.write_text(text(manifest("one")))
    sources = Sources(file, read_manifests(file), directory)
    assert sources.changed() is None

    file.write_text("# a comment\n" + text(manifest("one")))
    assert sources.changed() is None
    file.write_text(text(manifest("one"), manifest("two")))
    found = sources.changed()
    assert found is not None
    assert [each.name for each in found] == ["one", "two"]
    assert sources.changed() is None

    file.write_text("kind: [")
    with pytest.raises(InvalidManifest):
        sources.changed()
    assert sources.changed() is None
    file.unlink()
    assert sources.changed() is None


def test_gridnodes_of_the_directory_come_after_those_of_the_file(tmp_path: Path) -> None:
    file, directory = tmp_path / "grid.yaml", tmp_path / "nodes"
    directory.mkdir()
    file.write_text(text(manifest("one")))
    sources = Sources(file, read_manifests(file), directory)
    (directory / "made.yaml").write_text(text(manifest("made")))

    found = sources.changed()

    assert found is not None
    assert [each.name for each in found] == ["one", "made"]
    (directory / "again.yaml").write_text(text(manifest("one")))
    with pytest.raises(InvalidManifest, match="there are two GridNodes default/one"):
        sources.changed()
