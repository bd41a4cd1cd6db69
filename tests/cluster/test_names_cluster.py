"""Names and texts that nobody expects: children can't collide, and a text is nothing but a text, wherever it goes."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from gridnode_operator.api import InvalidSpec, parse_spec
from gridnode_operator.desired.names import child_names, database_names
from tests.support.cluster import ControlPlane
from tests.support.control_plane.namespaces import create_namespace, delete_namespace
from tests.support.gridnode_manifests import leaves
from tests.support.kubelet import Kubelet
from tests.support.one_gridnode import OneGridNode, one_gridnode
from tests.support.operator_faults import log_in, quick_migration, url_in_secret
from tests.support.operator_process import GROUP_PATH
from tests.support.optional_apis import optional_apis
from tests.support.shared_database import SharedDatabase
from tests.support.spec_fields import FIELDS, Field, Look

pytestmark = [pytest.mark.cluster]

BODY = {"apiVersion": "gridnode.io/v1alpha1", "kind": "GridNode", "metadata": {"name": "other"}}

LONG = "long-" * 50 + "xyz"
HOSTILE = [
    '\'; DROP SCHEMA public CASCADE; DROP ROLE "postgres"; --',
    "a: b # c\n- d: &e *f !!python/object:os.system\n\u202e 日本語 🦜",
    "{{ .Values.secret }} $(GRIDNODE_DATABASE_URL) %s ${x} `id` \\u0000",
    " ",
    "yes",
    "x" * 300,
]
#: Of the texts that a place accepts, how many go all the way to the children.
TRIED_ON_CHILDREN = 2


def is_gone(one: OneGridNode) -> bool:
    return one.gridnodes.get(f"{GROUP_PATH}/gridnodes", one.name) is None


def catalog(shared: SharedDatabase) -> dict[str, list[str]]:
    """All schemas and roles of the server, but for those of GridNodes."""
    schemas = shared.execute("SELECT nspname FROM pg_namespace WHERE nspname !~ '^(pg_temp|pg_toast_temp|gn_)'")
    roles = shared.execute("SELECT rolname, rolsuper, rolcreaterole FROM pg_roles WHERE rolname !~ '^gn_'")
    return {"schemas": sorted(map(str, schemas)), "roles": sorted(map(str, roles))}


@pytest.mark.parametrize(
    "names",
    [
        ["a-b", "ab", "a", "a-b-0", "a.b"],
        [f"{LONG[:-1]}{end}" for end in "abc"],
        ["0", "0.0", "0-0", "9" * 63, "9" * 64],
        ["demo", "demo-database", "demo-management", "demo-master", child_names("x" * 60).base],
    ],
    ids=["similar", "same beginning", "digits", "like children"],
)
def test_names_beside_each_other(
    control_plane: ControlPlane, namespace: str, shared: SharedDatabase, names: list[str]
) -> None:
    before = catalog(shared)
    ones = [OneGridNode(control_plane, namespace, shared.admin_url, name) for name in names]
    with Kubelet(control_plane, quick_migration):
        for one in ones:
            one.create({"replicas": 1})
        for one in ones:
            one.until_ready()
    children = [set(one.children()) for one in ones]
    assert all(len(each) == 8 for each in children), children
    assert len(set().union(*children)) == 8 * len(ones)
    assert all(len(name.partition("/")[2]) <= 63 for each in children for name in each)
    urls = [url_in_secret(one.gridnodes, one.name) for one in ones]
    schemas = [log_in(url, "SELECT current_schema(), session_user") for url in urls]
    assert len(set(map(str, schemas))) == len(ones)
    for one in ones:
        # What one GridNode does to its children is nothing to the others.
        assert one.changes() == []
        assert one.gridnodes.status(one.name)["database"]["schema"] == database_names(namespace, one.name).schema
    assert catalog(shared) == before


def test_name_of_253_characters(control_plane: ControlPlane, namespace: str, shared: SharedDatabase) -> None:
    with one_gridnode(control_plane, namespace, shared, name=LONG) as one:
        assert len(LONG) == 253
        one.create({"autoscaling": {"maxReplicas": 2}, "exposure": {"ingress": {"host": "demo.example"}}})
        one.until_ready()
        one.set_spec({"image": "registry.example/gridnode:2"})
        one.until_ready()
        assert all(len(name.partition("/")[2]) <= 63 for name in one.children())
        deployment = one.child("Deployment")
        assert deployment is not None
        pods = one.gridnodes.all("/api/v1/pods")
        assert all(len(value) <= 63 for pod in pods for value in pod["metadata"]["labels"].values())
        one.gridnodes.delete(LONG)
        one.until(lambda: is_gone(one))


def test_one_name_in_two_namespaces(control_plane: ControlPlane, namespace: str, shared: SharedDatabase) -> None:
    """Names that would be one if they were only put together: a-b in one, and b in one-a."""
    longer = f"{namespace}-a"
    control_plane.expect("POST", "/api/v1/namespaces", {"metadata": {"name": longer}})
    other = create_namespace(control_plane)
    places = [(namespace, "a-b"), (longer, "b"), (namespace, "b"), (other, "b")]
    try:
        with Kubelet(control_plane, quick_migration):
            ones = [OneGridNode(control_plane, place, shared.admin_url, name) for place, name in places]
            for one in ones:
                one.create()
            for one in ones:
                one.until_ready()
            schemas = {
                str(log_in(url_in_secret(one.gridnodes, one.name), "SELECT current_schema(), session_user"))
                for one in ones
            }
            assert len(schemas) == len(ones)
            ones[2].gridnodes.delete("b")
            ones[2].until(lambda: is_gone(ones[2]))
            for one in (ones[0], ones[1], ones[3]):
                assert one.changes() == []
                assert log_in(url_in_secret(one.gridnodes, one.name), "SELECT count(*) FROM alembic_version") == [(1,)]
    finally:
        delete_namespace(control_plane, longer)
        delete_namespace(control_plane, other)


@pytest.mark.parametrize("name", ["", "A", "a_b", "-a", "a-", "a..b", "a/b", "ä", "a b", "..", "a'b", "a" * 254])
def test_names_that_are_none(control_plane: ControlPlane, namespace: str, name: str) -> None:
    path = f"{GROUP_PATH}/namespaces/{namespace}/gridnodes"
    assert control_plane.request("POST", path, {**BODY, "metadata": {"name": name}}).status in (400, 422)


def test_labels_and_annotations_of_the_gridnode_itself_do_no_harm(
    control_plane: ControlPlane, namespace: str, shared: SharedDatabase
) -> None:
    with one_gridnode(control_plane, namespace, shared) as one:
        annotations = {f"x.example/{number}": text for number, text in enumerate(HOSTILE)}
        annotations |= {"gridnode.io/rotate": HOSTILE[0], "gridnode.io/adopt": "TRUE; --"}
        one.create({}, labels={"a": "b", "x.example/y": ""}, annotations=annotations)
        one.until_ready()
        assert one.changes() == []
        assert not any("DROP" in str(value) for each in one.children().values() for _, value in leaves(each))


@pytest.fixture(scope="module")
def victim(control_plane: ControlPlane, shared_server: Any) -> Iterator[tuple[OneGridNode, SharedDatabase]]:
    """A GridNode whose spec gets every hostile text in every place."""
    place = create_namespace(control_plane)
    with optional_apis(control_plane), shared_server.database() as shared:
        with one_gridnode(control_plane, place, shared) as one:
            one.create_secret("first", {"one": "a-token-of-sixteen-or-more"})
            one.create_secret("second", {"two": "another-token-of-sixteen-or-more"})
            for account in ("other-account", "yes"):
                body = {"metadata": {"name": account}}
                control_plane.expect("POST", one.gridnodes.path("/api/v1/serviceaccounts"), body)
            one.create()
            one.until_ready()
            yield one, shared
        delete_namespace(control_plane, place)


def texts(value: Any) -> list[tuple[str | int, ...]]:
    """Where in a value there are texts."""
    return [path for path, leaf in leaves(value) if isinstance(leaf, str)]


def replaced(value: Any, path: tuple[str | int, ...], text: str) -> Any:
    """The value with another text at a path."""
    if not path:
        return text
    changed = copy.copy(value)
    changed[path[0]] = replaced(value[path[0]], path[1:], text)
    return changed


def places(field: Field) -> Iterator[list[Any]]:
    """For each text in a value of a field, and the keys of a map: that value with each hostile text in its place."""
    value = field.values[-1]
    for path in texts(value):
        yield [replaced(value, path, text) for text in HOSTILE]
    if field.path.endswith(("abels", "nnotations", "Selector", "requests", "limits")):
        yield [{**value, text: "x"} for text in HOSTILE]


@pytest.mark.parametrize("field", [field for field in FIELDS if texts(field.values[-1])], ids=lambda field: field.path)
def test_hostile_texts_are_refused_or_arrive_as_they_are(
    victim: tuple[OneGridNode, SharedDatabase], field: Field
) -> None:
    """Refused by the API server when the GridNode is written, by a child's own rules with a word in the status, or
    taken over verbatim. Nothing in between."""
    one, shared = victim
    before = catalog(shared)
    found: Counter[str] = Counter()
    for place in places(field):
        accepted = [value for value in place if is_accepted(one, field.spec(value))]
        found["refused"] += len(place) - len(accepted)
        for value in accepted[:TRIED_ON_CHILDREN]:
            found[what_becomes_of(one, field, value)] += 1
    print(field.path, dict(found))
    assert sum(found.values()) > 0
    assert catalog(shared) == before
    one.set_spec({})
    one.until(lambda: one.condition("Degraded")[0] == "False" and not one.changes())


def what_becomes_of(one: OneGridNode, field: Field, value: Any) -> str:
    """Reconcile a GridNode whose field has this value, until it is plain what has come of it."""
    one.set_spec(field.spec(value))
    what = one.gridnodes.get(f"{GROUP_PATH}/gridnodes", "demo")
    assert what is not None
    try:
        parse_spec(what["spec"])
    except InvalidSpec:
        one.reconcile()
        assert one.condition("Ready")[:2] == ("False", "InvalidSpec")
        return "invalid"
    generation = what["metadata"]["generation"]
    one.until(lambda: settled(one, field, value, generation), lambda: (value, field.see(Look(one))))
    return "arrived" if field.see(Look(one)) == field.shown(value) else "explained"


def is_accepted(one: OneGridNode, spec: dict[str, Any]) -> bool:
    """Whether the API server would store a GridNode with this spec."""
    path = one.gridnodes.path(f"{GROUP_PATH}/gridnodes")
    answer = one.control_plane.request("POST", f"{path}?dryRun=All", {**BODY, "spec": spec})
    assert answer.status in (201, 400, 422), answer.body
    return answer.status == 201


def settled(one: OneGridNode, field: Field, value: Any, generation: int) -> bool:
    """Whether a spec has been dealt with: its children show it, or its status says why they can't."""
    if field.see(Look(one)) == field.shown(value):
        return True
    status = one.gridnodes.status("demo")
    degraded = next(each for each in status["conditions"] if each["type"] == "Degraded")
    return (
        status["observedGeneration"] == generation
        and degraded["status"] == "True"
        and degraded["reason"] in ("NotApplied", "SecretMissing")
    )


def test_hostile_texts_in_the_database_part(victim: tuple[OneGridNode, SharedDatabase]) -> None:
    """Texts that are meant for the database server, or lead to it."""
    one, shared = victim
    before = catalog(shared)
    accepted = []
    for text in HOSTILE:
        for database in (
            {"schema": text},
            {"adminSecretRef": {"name": text, "key": "url"}},
            {"adminSecretRef": {"name": "first", "key": text}},
            {"reclaimPolicy": text},
            {"tlsMode": text},
        ):
            if is_accepted(one, {"database": database}):
                accepted.append(text)
    # One of the texts is a name like any other.
    assert accepted == ["yes", "yes", "yes"]
    for text in HOSTILE[:2]:
        url = url_in_secret(one.gridnodes)
        one.set_spec({"database": {"rotate": text}})
        one.until(lambda: url_in_secret(one.gridnodes) != url)  # noqa: B023
        one.until_ready()
        assert log_in(url_in_secret(one.gridnodes), "SELECT 1") == [(1,)]
    assert catalog(shared) == before


def test_most_quotable_schema_name(control_plane: ControlPlane, namespace: str, shared: SharedDatabase) -> None:
    """What a schema's name may be is narrow; the oddest of those, a reserved word among them, are quoted."""
    with Kubelet(control_plane, quick_migration):
        for number, schema in enumerate(["select", "_", "a-b", "x" * 63, "_-_", "user"]):
            one = OneGridNode(control_plane, namespace, shared.admin_url, f"demo-{number}")
            one.create({"database": {"schema": schema, "reclaimPolicy": "Delete"}})
            one.until_ready()
            assert log_in(url_in_secret(one.gridnodes, one.name), "SELECT current_schema()") == [(schema,)]
            one.gridnodes.delete(one.name)
            one.until(lambda: is_gone(one))  # noqa: B023
            assert shared.execute(f"SELECT 1 FROM pg_namespace WHERE nspname = '{schema}'") == []
