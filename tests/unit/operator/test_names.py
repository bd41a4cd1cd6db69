"""Names of children and of database objects: valid, the same for ever, and never another GridNode's."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridnode_operator.desired.names import ChildNames, child_names, database_names

DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?", re.ASCII)
POSTGRES = re.compile(r"[a-z_][a-z0-9_]*", re.ASCII)

#: What the API server accepts as the name of a GridNode.
NAMES = st.from_regex(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", fullmatch=True)
HOSTILE = [
    "a", "a-b", "ab", "a.b", "a-b-", "0", "0a", "a0", "-", "", "x" * 52, "x" * 53, "x" * 63, "x" * 64, "x" * 253,
    "a-database", "a-management", "a-master", "a-management-management", "demo-" + "0" * 20, "a\n", "a\nb",
    "ä", "日本語", 'x"; DROP SCHEMA public; --', "$(rm -rf /)", "{{ name }}", "a: b", "..", "a/b", "%00", "\0", "A",
    "GridNode",
]  # fmt: skip


def all_names(names: ChildNames) -> dict[str, str]:
    """Child names by kind and role: two GridNodes must differ in each kind."""
    return {
        "Deployment/": names.base,
        "Service/device": names.base,
        "Service/management": names.management_service,
        "Secret/database": names.database_secret,
        "Secret/management": names.management_secret,
        "Secret/master": names.master_secret,
        "Job/": names.migration_job("0001", {"image": "x", "gridnode": names.base}),
    }


def assert_valid(names: ChildNames) -> None:
    for name in all_names(names).values():
        assert DNS_1035.fullmatch(name), name
        assert len(name) <= 63, name


@given(NAMES)
def test_names_of_children_are_valid_and_always_the_same(name: str) -> None:
    assert_valid(child_names(name))
    assert child_names(name) == child_names(name)


@pytest.mark.parametrize("name", HOSTILE)
def test_names_of_children_are_valid_whatever_the_name(name: str) -> None:
    assert_valid(child_names(name))


def test_children_bear_the_name_itself_where_it_fits() -> None:
    assert all_names(child_names("demo")) == {
        "Deployment/": "demo",
        "Service/device": "demo",
        "Service/management": "demo-management",
        "Secret/database": "demo-database",
        "Secret/management": "demo-management",
        "Secret/master": "demo-master",
        "Job/": child_names("demo").migration_job("0001", {"image": "x", "gridnode": "demo"}),
    }
    assert re.fullmatch(r"demo-migrate-0001-[0-9a-f]{10}", child_names("demo").migration_job("0001", "x"))


def test_names_stay_what_they_are() -> None:
    """A release that gave other names would leave every node's children, and its data, behind."""
    assert child_names("x" * 253).base == "x" * 31 + "-50484437e3edf75f8afb"
    assert child_names("0.demo").base.startswith("gridnode-0-demo-")
    assert child_names("demo").migration_job("0001", {"image": "a"}) == "demo-migrate-0001-49d3aa20cc"
    assert database_names("apps", "demo").schema == "gn_apps_demo_15fe50a43229d728af650718"


@given(st.lists(NAMES | st.sampled_from(HOSTILE), unique=True, min_size=2, max_size=20))
def test_no_two_gridnodes_of_a_namespace_share_a_child(names: list[str]) -> None:
    assert_no_collisions(names)


def test_names_made_to_collide_do_not() -> None:
    long = "x" * 253
    base = child_names(long).base
    assert_no_collisions(
        [*HOSTILE, long, base, long[:-1], f"{base}-management", base.removesuffix("-")]
        + ["".join(parts) for parts in product(["a", "a-b"], ["", "-management", "-database"], ["", "-management"])]
        + [child_names("a").migration_job("0001", "x")]
    )


def assert_no_collisions(names: list[str]) -> None:
    taken: Counter[tuple[str, str]] = Counter()
    for name in sorted(set(names)):
        taken.update({(kind.split("/")[0], child) for kind, child in all_names(child_names(name)).items()})
    assert [child for child, count in taken.items() if count > 1] == []


def test_a_migration_has_a_name_of_its_own_for_each_revision_and_input() -> None:
    for name in ("demo", "x" * 253, "y" * 52):
        names = child_names(name)
        jobs = [names.migration_job(revision, inputs) for revision in ("1", "2") for inputs in ("a", "b", ["a"])]
        assert len(set(jobs)) == 6
        assert jobs[0] == names.migration_job("1", "a")


@pytest.mark.parametrize("revision", ["", "0001", "1975ea83b712_add_index", "A.B/C", "x" * 300, "-", "ü"])
def test_any_revision_can_be_in_the_name_of_a_migration(revision: str) -> None:
    for name in ("demo", "x" * 253, "y" * 52):
        job = child_names(name).migration_job(revision, "x")
        assert DNS_1035.fullmatch(job)
        assert len(job) <= 63


NAMESPACES = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True)


@given(NAMESPACES, NAMES)
def test_database_names_need_no_quoting_and_are_not_cut(namespace: str, name: str) -> None:
    names = database_names(namespace, name)
    identifiers = [names.schema, names.owner, *names.logins]
    for identifier in identifiers:
        assert POSTGRES.fullmatch(identifier), identifier
        assert len(identifier.encode()) <= 63
        assert not identifier.startswith("pg_")
    assert names.owner not in names.logins
    assert len(set(names.logins)) == 2
    assert names == database_names(namespace, name)


@pytest.mark.parametrize("name", HOSTILE)
def test_database_names_need_no_quoting_whatever_the_name(name: str) -> None:
    names = database_names(name, name, installation=name)
    for identifier in (names.schema, names.owner, *names.logins):
        assert POSTGRES.fullmatch(identifier), identifier
        assert len(identifier.encode()) <= 63


def test_no_two_gridnodes_share_a_schema_or_role() -> None:
    keys = [
        ("apps", "a-b"), ("apps", "a_b"), ("apps", "ab"), ("apps", "a.b"), ("apps-a", "b"), ("apps", "a-b-"),
        ("other", "a-b"), ("apps-a-b", ""), ("x" * 63, "y" * 253), ("x" * 63, "y" * 252), ("x" * 63, "y" * 253 + "z"),
    ]  # fmt: skip
    found = [database_names(namespace, name) for namespace, name in keys]
    found += [database_names(namespace, name, installation="second") for namespace, name in keys]
    identifiers = [identifier for names in found for identifier in (names.owner, *names.logins)]
    assert len(set(identifiers)) == len(identifiers)
    assert len({names.schema for names in found}) == len(found)
    assert len({names.gridnode for names in found}) == len(found)


def test_a_schema_that_is_named_is_used_with_roles_of_the_gridnodes_own() -> None:
    derived, named = database_names("apps", "demo"), database_names("apps", "demo", schema="my_models")
    assert named.schema == "my_models"
    assert (named.owner, named.logins) == (derived.owner, derived.logins)
    assert database_names("apps", "other", schema="my_models").owner != named.owner


def test_hashes_don_t_depend_on_the_process() -> None:
    names = [f"{'n' * length}" for length in range(50, 70)]
    bases = [child_names(name).base for name in names]
    assert all(first != second for first, second in pairwise(bases))
    assert len(set(bases)) == len(bases)
