"""The operator's rights: as few as possible, and none on the whole cluster where it need not."""

from __future__ import annotations

from gridnode_operator import rbac

_ALL = rbac.manifests("operator", "gridnode-system")
_SOME = rbac.manifests("operator", "gridnode-system", ["apps", "more-apps"])


def test_nothing_is_granted_by_wildcard() -> None:
    for manifest in [*_ALL, *_SOME]:
        for rule in manifest.get("rules", []):
            assert not any("*" in value for values in rule.values() for value in values), rule


def test_install_for_some_namespaces_has_no_right_on_the_cluster() -> None:
    assert {each["kind"] for each in _SOME} == {"Role", "RoleBinding"}
    granted = {(each["metadata"]["namespace"], each["metadata"]["name"]) for each in _SOME}
    assert granted == {
        ("apps", "gridnode-operator"),
        ("more-apps", "gridnode-operator"),
        ("gridnode-system", "gridnode-operator-own"),
    }


def test_operator_can_look_after_its_own_namespace() -> None:
    manifests = rbac.manifests("operator", "gridnode-system", ["gridnode-system"])
    names = [(each["kind"], each["metadata"]["namespace"], each["metadata"]["name"]) for each in manifests]
    assert len(names) == len(set(names))


def test_every_binding_is_to_a_role_that_is_there() -> None:
    for manifests in (_ALL, _SOME):
        roles = {(each["kind"], each["metadata"]["name"]) for each in manifests if "rules" in each}
        bindings = [each for each in manifests if "roleRef" in each]
        assert {(each["roleRef"]["kind"], each["roleRef"]["name"]) for each in bindings} == roles
        for each in bindings:
            assert each["subjects"] == [
                {"kind": "ServiceAccount", "name": "operator", "namespace": "gridnode-system"}
            ]  # fmt: skip


def test_no_one_can_be_made_more_powerful() -> None:
    for manifest in [*_ALL, *_SOME]:
        for rule in manifest.get("rules", []):
            assert "rbac.authorization.k8s.io" not in rule["apiGroups"]
            assert not {"escalate", "bind", "impersonate", "deletecollection"} & set(rule["verbs"])
            assert not {"pods/exec", "serviceaccounts/token", "nodes"} & set(rule["resources"])
