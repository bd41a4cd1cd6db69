"""The master node's settings: sources, and what is refused."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from gridnode.declared_settings import InvalidSetting
from gridnode_operator.master.settings import (
    MasterSettings,
    load_master_settings,
    master_setting_specs,
    secret_values,
)

PREFIX = "GRIDNODE_MASTER_"


def test_defaults() -> None:
    settings = load_master_settings({})
    assert (settings.port, settings.provider, settings.legacy_access) == (5001, "none", False)
    assert settings.storage == (settings.data_dir / "finished").as_uri()


def test_flag_wins_over_variable() -> None:
    environ = {f"{PREFIX}PORT": "6001", f"{PREFIX}LEGACY_ACCESS": "yes"}
    assert load_master_settings(environ).port == 6001
    assert load_master_settings(environ).legacy_access is True
    assert load_master_settings(environ, {"port": "7001", "legacy_access": False}).port == 7001
    assert load_master_settings(environ, {"legacy_access": False}).legacy_access is False


def test_secret_from_a_file(tmp_path: Path) -> None:
    token = "t" * 40
    (tmp_path / "token").write_text(f"{token}\n")
    settings = load_master_settings({f"{PREFIX}ADMIN_TOKEN_FILE": str(tmp_path / "token")})
    assert settings.admin_token == token
    assert secret_values(settings) == (token,)
    assert token not in repr(settings)


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"PORT": "x"}, "GRIDNODE_MASTER_PORT is 'x'; accepted is a port"),
        ({"ADMIN_TOKEN": "short"}, "GRIDNODE_MASTER_ADMIN_TOKEN has a value (not shown) that can't be used"),
        ({"ADMIN_TOKEN": "t" * 40, "ADMIN_TOKEN_FILE": "/f"}, "are both set"),
        ({"ADMIN_TOKEN_FILE": "/nothing/there"}, "No such file"),
        ({"PROVIDER": "cloud"}, "one of none, static, local, kubernetes"),
        ({"PROVIDER": "static"}, "needs GRIDNODE_MASTER_NODES_FILE"),
        ({"PROVIDER": "local"}, "needs GRIDNODE_MASTER_NODES_DIR"),
        ({"DATABASE_URL": "mysql://x"}, "PostgreSQL only"),
    ],
)
def test_refused(environ: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidSetting) as refused:
        load_master_settings({f"{PREFIX}{name}": value for name, value in environ.items()})
    assert message in refused.value.message
    assert "short" not in refused.value.message


def test_service_link_is_no_port() -> None:
    assert load_master_settings({f"{PREFIX}PORT": "tcp://10.0.0.7:5001"}).port == 5001


def test_each_setting_is_described() -> None:
    specs = list(master_setting_specs())
    assert [spec.name for spec in specs] == [each.name for each in fields(MasterSettings)]
    assert all(spec.description.endswith(".") for spec in specs)


OIDC = {
    "OIDC_ISSUER": "https://login.example.org/",
    "OIDC_CLIENT_ID": "gridnode",
    "OIDC_CLIENT_SECRET": "secret-of-the-client",
    "OIDC_EMAILS": "ann@example.org, @staff.example.org,",
    "PUBLIC_URL": "https://grid.example.org/",
}


def test_openid_connect() -> None:
    settings = load_master_settings({f"{PREFIX}{name}": value for name, value in OIDC.items()})
    assert settings.oidc_issuer == "https://login.example.org"
    assert settings.oidc_emails == ("ann@example.org", "@staff.example.org")
    assert settings.public_url == "https://grid.example.org"
    assert "secret-of-the-client" not in repr(settings)
    assert "secret-of-the-client" in secret_values(settings)


@pytest.mark.parametrize("missing", ["OIDC_CLIENT_ID", "OIDC_CLIENT_SECRET", "OIDC_EMAILS", "PUBLIC_URL"])
def test_openid_connect_by_halves_is_refused(missing: str) -> None:
    with pytest.raises(InvalidSetting) as refused:
        load_master_settings({f"{PREFIX}{name}": value for name, value in OIDC.items() if name != missing})
    assert f"{PREFIX}{missing}" in refused.value.message
