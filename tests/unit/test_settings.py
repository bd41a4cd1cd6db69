"""Settings: where each comes from, what is accepted, what is never shown."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridnode.declared_settings import InvalidSetting, SettingSpec
from gridnode.settings import (
    Settings,
    check_database,
    check_listeners,
    describe,
    load_settings,
    secret_values,
    setting_specs,
)

DATABASE_URL = "postgresql://node:opensesame@db.example:5432/nodes"
TOKEN = "a-token-of-sixteen-or-more"


@pytest.fixture
def write_secret(tmp_path: Path) -> Callable[[str], str]:
    def write(content: str) -> str:
        file = tmp_path / "secret"
        file.write_text(content)
        return str(file)

    return write


def test_defaults_are_used_when_nothing_is_set() -> None:
    settings = load_settings({})
    assert settings == Settings()
    assert (settings.device_port, settings.management_port, settings.management_host) == (5000, 5050, "127.0.0.1")
    assert settings.database_url is None
    assert settings.body_limit == 256 * 1024 * 1024
    assert {row.source for row in describe(settings)} == {"default"}


def test_every_setting_has_a_description_and_a_default_that_its_own_kind_accepts() -> None:
    defaults = load_settings({})
    specs = list(setting_specs())
    assert len(specs) > 30
    for spec in specs:
        assert spec.description.endswith("."), spec.name
        value = getattr(defaults, spec.name)
        if value is not None:
            assert spec.kind.read(spec.kind.show(value)) == value, spec.name


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        load_settings({}).device_port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("variable", "text", "name", "value"),
    [
        ("GRIDNODE_DEVICE_PORT", "8080", "device_port", 8080),
        ("GRIDNODE_DEVICE_PORT", " 8080\n", "device_port", 8080),
        ("GRIDNODE_DATABASE_DEADLINE", "2.5", "database_deadline", 2.5),
        ("GRIDNODE_DRAIN_TIMEOUT", "0", "drain_timeout", 0.0),
        ("GRIDNODE_LEGACY_HOSTING", "On", "legacy_hosting", True),
        ("GRIDNODE_LEGACY_HOSTING", "0", "legacy_hosting", False),
        ("GRIDNODE_LOG_LEVEL", "WARNING", "log_level", "warning"),
        ("GRIDNODE_CHECKPOINT_RETENTION", "all", "checkpoint_retention", None),
        ("GRIDNODE_CHECKPOINT_RETENTION", "5", "checkpoint_retention", 5),
        ("GRIDNODE_DATA_DIR", "/var/lib/gridnode", "data_dir", Path("/var/lib/gridnode")),
        ("GRIDNODE_HOST", "::1", "host", "::1"),
        ("GRIDNODE_MASTER_URL", "https://master.example:5001/", "master_url", "https://master.example:5001"),
        ("GRIDNODE_DATABASE_URL", "postgres://n@db/x", "database_url", "postgresql+psycopg2://n@db/x"),
        (
            "GRIDNODE_TRUSTED_PROXIES",
            "10.0.0.0/8, ::1",
            "trusted_proxies",
            (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("::1/128")),
        ),
    ],
)
def test_environment_sets(variable: str, text: str, name: str, value: object) -> None:
    settings = load_settings({variable: text})
    assert getattr(settings, name) == value
    assert settings.sources == {name: "environment"}


def test_home_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/author")
    assert load_settings({"GRIDNODE_DATA_DIR": "~/nodes"}).data_dir == Path("/home/author/nodes")


def test_data_is_kept_where_xdg_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert load_settings({}).data_dir == Path("/data/gridnode")
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/author")
    assert load_settings({}).data_dir == Path("/home/author/.local/share/gridnode")


def test_empty_variable_counts_as_not_set() -> None:
    settings = load_settings({"GRIDNODE_DATABASE_URL": "", "GRIDNODE_DEVICE_PORT": ""})
    assert settings == Settings()
    assert settings.sources == {}


def test_flag_wins_over_environment() -> None:
    settings = load_settings({"GRIDNODE_DEVICE_PORT": "8080"}, {"device_port": "9090", "management_port": None})
    assert settings.device_port == 9090
    assert settings.management_port == 5050
    assert settings.sources == {"device_port": "flag"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("legacy_hosting", True),
        ("device_port", 8080),
        ("sweep_interval", 0.25),
        ("data_dir", Path("/srv")),
        ("trusted_proxies", (ipaddress.ip_network("10.0.0.0/8"),)),
    ],
)
def test_flag_may_be_typed(name: str, value: object) -> None:
    assert getattr(load_settings({}, {name: value}), name) == value


def test_flag_is_checked_like_a_variable_and_named_as_a_flag() -> None:
    with pytest.raises(InvalidSetting, match=r"^--device-port is '99999'; accepted is a port from 1 to 65535"):
        load_settings({}, {"device_port": 99999})


def test_flag_that_is_no_setting_is_a_programming_error() -> None:
    with pytest.raises(TypeError, match="device_prot"):
        load_settings({}, {"device_prot": 1})


@pytest.mark.parametrize(
    ("variable", "text", "accepted"),
    [
        ("GRIDNODE_DEVICE_PORT", "65536", "a port from 1 to 65535"),
        ("GRIDNODE_DEVICE_PORT", "-1", "a port"),
        ("GRIDNODE_WORKER_PROCESSES", "0", "a whole number of processes from 1 to 256"),
        ("GRIDNODE_WORKER_PROCESSES", "2.0", "a whole number"),
        ("GRIDNODE_WORKER_PROCESSES", "1_0", "a whole number"),
        ("GRIDNODE_WORKER_PROCESSES", "٣", "a whole number"),
        ("GRIDNODE_BODY_LIMIT", "256MiB", "a whole number of bytes of at least 1024"),
        ("GRIDNODE_BODY_LIMIT", "9" * 5000, "a whole number of bytes"),
        ("GRIDNODE_DATABASE_DEADLINE", "0", "a number of seconds greater than 0"),
        ("GRIDNODE_DATABASE_DEADLINE", "nan", "a number of seconds"),
        ("GRIDNODE_DATABASE_DEADLINE", "1e999", "a number of seconds"),
        ("GRIDNODE_DATABASE_DEADLINE", "5s", "a number of seconds"),
        ("GRIDNODE_LEGACY_HOSTING", "maybe", "true or false"),
        ("GRIDNODE_LOG_FORMAT", "xml", "one of auto, json, text"),
        ("GRIDNODE_HOST", "0.0.0", "an IP address or a host name"),
        ("GRIDNODE_HOST", "localhost:5000", "an IP address or a host name"),
        ("GRIDNODE_MASTER_URL", "master.example", "a URL such as http://"),
        ("GRIDNODE_MASTER_URL", "http://master.example:99999", "a URL such as http://"),
        ("GRIDNODE_DATABASE_SCHEMA", "pg_toast", "a schema name"),
        ("GRIDNODE_DATABASE_SCHEMA", "a" * 64, "a schema name"),
        ("GRIDNODE_DATABASE_SCHEMA", 'x"; DROP TABLE y', "a schema name"),
        ("GRIDNODE_TRUSTED_PROXIES", "10.0.0.1/8", "no host bits set"),
        ("GRIDNODE_CHECKPOINT_RETENTION", "0", "'all', or how many"),
    ],
)
def test_bad_value_is_named_with_what_is_accepted(variable: str, text: str, accepted: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        load_settings({variable: text})
    assert caught.value.message.startswith(f"{variable} is {text!r}; accepted is ")
    assert accepted in caught.value.message


@pytest.mark.parametrize("text", ["mysql://node:opensesame@db/x", "node:opensesame@db", "postgresql://"])
def test_bad_database_url_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(InvalidSetting, match="PostgreSQL only") as caught:
        load_settings({"GRIDNODE_DATABASE_URL": text})
    assert "opensesame" not in caught.value.message


def test_short_management_token_is_refused_without_showing_it() -> None:
    with pytest.raises(InvalidSetting, match=r"GRIDNODE_MANAGEMENT_TOKEN .*at least 16") as caught:
        load_settings({"GRIDNODE_MANAGEMENT_TOKEN": "opensesame"})
    assert "opensesame" not in caught.value.message


@given(st.sampled_from(list(setting_specs())), st.text(max_size=40))
def test_any_text_is_taken_or_refused_by_name(spec: SettingSpec, text: str) -> None:
    variable = spec.variable
    try:
        load_settings({variable: text})
    except InvalidSetting as error:
        assert error.message.startswith(variable)  # noqa: PT017, both outcomes are right


def test_secret_is_read_from_a_file(write_secret: Callable[[str], str]) -> None:
    settings = load_settings({"GRIDNODE_MANAGEMENT_TOKEN_FILE": write_secret(f"{TOKEN}\n")})
    assert settings.management_token == TOKEN
    assert settings.sources == {"management_token": "file"}
    assert settings.warnings == ()


def test_secret_given_twice_is_refused(write_secret: Callable[[str], str]) -> None:
    environ = {"GRIDNODE_MASTER_KEY": "one", "GRIDNODE_MASTER_KEY_FILE": write_secret("two")}
    with pytest.raises(InvalidSetting, match="GRIDNODE_MASTER_KEY and GRIDNODE_MASTER_KEY_FILE are both set"):
        load_settings(environ)


def test_missing_secret_file_is_named() -> None:
    with pytest.raises(InvalidSetting, match=r"GRIDNODE_MASTER_KEY_FILE is '/no/such', .*No such file"):
        load_settings({"GRIDNODE_MASTER_KEY_FILE": "/no/such"})


@pytest.mark.parametrize("content", ["", " \n"])
def test_empty_secret_file_is_refused(write_secret: Callable[[str], str], content: str) -> None:
    with pytest.raises(InvalidSetting, match="which is empty"):
        load_settings({"GRIDNODE_MASTER_KEY_FILE": write_secret(content)})


def test_secret_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidSetting, match="not UTF-8"):
        load_settings({"GRIDNODE_MASTER_KEY_FILE": str(tmp_path / "secret")})


def test_bad_value_in_a_secret_file_names_the_file_variable(write_secret: Callable[[str], str]) -> None:
    with pytest.raises(InvalidSetting, match=r"^the file of GRIDNODE_DATABASE_URL_FILE has a value"):
        load_settings({"GRIDNODE_DATABASE_URL_FILE": write_secret("mysql://x")})


def test_no_secret_is_described_or_printed() -> None:
    settings = load_settings(
        {"GRIDNODE_DATABASE_URL": DATABASE_URL, "GRIDNODE_MANAGEMENT_TOKEN": TOKEN, "GRIDNODE_MASTER_KEY": "the-key"}
    )
    shown = repr(describe(settings)) + repr(settings)
    for secret in ("opensesame", TOKEN, "the-key"):
        assert secret not in shown
    values = {row.name: row.value for row in describe(settings)}
    assert values["database_url"] == "postgresql+psycopg2://node:***@db.example:5432/nodes"
    assert values["management_token"] == "***"
    assert set(secret_values(settings)) == {settings.database_url, TOKEN, "the-key"}


def test_description_tells_where_each_value_came_from(write_secret: Callable[[str], str]) -> None:
    environ = {"GRIDNODE_MASTER_KEY_FILE": write_secret("key"), "GRIDNODE_LOG_LEVEL": "debug"}
    rows = {row.name: row for row in describe(load_settings(environ, {"device_port": 1}))}
    assert rows["master_key"].source == "file"
    assert rows["log_level"].source == "environment"
    assert rows["device_port"].source == "flag"
    assert rows["host"].source == "default"
    assert rows["checkpoint_retention"].value == "all"
    assert rows["device_port"].variable == "GRIDNODE_DEVICE_PORT"


def test_unknown_variable_is_warned_of_with_close_matches() -> None:
    (warning,) = load_settings({"GRIDNODE_DEVICE_PRT": "1", "OTHER": "x"}).warnings
    assert "GRIDNODE_DEVICE_PRT is not a setting" in warning
    assert "GRIDNODE_DEVICE_PORT" in warning


def test_unknown_variable_without_close_match_is_warned_of() -> None:
    (warning,) = load_settings({"GRIDNODE_ZZZZZZ": "1"}).warnings
    assert "Did you mean" not in warning


@pytest.mark.parametrize(
    "variable", ["GRIDNODE_MASTER_ADMIN_TOKEN_FILE", "GRIDNODE_MASTER_API_KEY", "GRIDNODE_OPERATOR_IMAGE"]
)
def test_settings_of_the_other_programs_are_not_warned_of(variable: str) -> None:
    settings = load_settings({variable: "x", "GRIDNODE_MASTER_URL": "http://127.0.0.1:5001"})
    assert (settings.warnings, settings.master_url) == ((), "http://127.0.0.1:5001")


def test_file_variable_of_a_setting_that_is_no_secret_is_explained() -> None:
    (warning,) = load_settings({"GRIDNODE_HOST_FILE": "x"}).warnings
    assert "only secrets are read from files" in warning


def test_kubernetes_service_links_are_no_settings() -> None:
    settings = load_settings(
        {
            "GRIDNODE_SERVICE_HOST": "10.0.0.7",
            "GRIDNODE_SERVICE_PORT": "5000",
            "GRIDNODE_PORT_5000_TCP_ADDR": "10.0.0.7",
            "GRIDNODE_PORT": "tcp://10.0.0.7:5000",
        }
    )
    assert settings.warnings == ()
    assert settings == Settings()


def test_service_link_in_place_of_a_setting_is_ignored_with_a_warning() -> None:
    settings = load_settings({"GRIDNODE_DEVICE_PORT": "tcp://10.0.0.7:5000"})
    assert settings.device_port == 5000
    assert "enableServiceLinks" in settings.warnings[0]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "node.example"])
def test_management_is_not_opened_without_a_token(host: str) -> None:
    settings = replace(Settings(), management_host=host)
    with pytest.raises(InvalidSetting, match="GRIDNODE_MANAGEMENT_TOKEN"):
        check_listeners(settings)
    check_listeners(replace(settings, management_token=TOKEN))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_management_on_loopback_needs_no_token(host: str) -> None:
    check_listeners(replace(Settings(), management_host=host))


def test_login_by_iam_needs_a_database_to_log_in_to() -> None:
    settings = replace(Settings(), database_iam_authentication=True)
    with pytest.raises(
        InvalidSetting, match="GRIDNODE_DATABASE_IAM_AUTHENTICATION is on without GRIDNODE_DATABASE_URL"
    ):
        check_database(settings)
    check_database(replace(settings, database_url="postgresql+psycopg2://node@db.example/grid"))


def test_statements_may_take_as_long_as_a_request_waits_for_them() -> None:
    with pytest.raises(InvalidSetting, match=r"GRIDNODE_DATABASE_STATEMENT_TIMEOUT is 4, below .* \(5\)"):
        check_database(replace(Settings(), database_statement_timeout=4.0))
    check_database(replace(Settings(), database_statement_timeout=5.0))


def test_listeners_need_two_ports() -> None:
    with pytest.raises(InvalidSetting, match="both 5000"):
        check_listeners(replace(Settings(), management_port=5000))
    check_listeners(replace(Settings(), device_port=0, management_port=0))
