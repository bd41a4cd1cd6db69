"""Where the commands find a node's management, and the form that ``gridnode host`` sends."""

from __future__ import annotations

import http.server
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from werkzeug.formparser import parse_form_data

from gridnode.commands.host import MultipartForm
from gridnode.commands.management_client import DEFAULT_URL, ManagementClient, ManagementFailed
from gridnode.declared_settings import InvalidSetting
from gridnode.settings import load_settings

TOKEN = "a token of 16 or more"
ANSWERS = {
    "/node/processes": (200, b'{"processes": []}'),
    "/html/processes": (200, b"<html>hello</html>"),
    "/list/processes": (200, b"[]"),
    "/other/processes": (200, b'{"status": "ok"}'),
    "/missing/processes": (404, b"not here"),
    "/broken/processes": (500, b'{"error": "the node failed to handle this request"}'),
    "/away/processes": (503, b'{"error": "the database is unavailable"}'),
}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Something that answers, and redirects everywhere else."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = ANSWERS.get(self.path.partition("?")[0], (302, b""))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Retry-After", "7")
            self.send_header("X-Request-Id", "request-1")
            self.send_header("Location", "/node/processes")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{listener.server_address[1]}"
        listener.shutdown()
        thread.join()


def test_address_is_the_flag_else_the_environment_else_this_machine() -> None:
    environ = {"GRIDNODE_MANAGEMENT_URL": "http://node:5050/"}
    assert ManagementClient.open("http://other:1", environ).url == "http://other:1"
    assert ManagementClient.open(None, environ).url == "http://node:5050"
    assert ManagementClient.open(None, {}).url == DEFAULT_URL


@pytest.mark.parametrize("address", ["node:5050", "localhost", "ftp://node", "http://node:99999", "http://"])
def test_address_that_is_no_url_is_refused(address: str) -> None:
    with pytest.raises(ManagementFailed, match="is no management address"):
        ManagementClient.open(address, {})


def test_token_obeys_the_rules_of_the_setting(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    both = {"GRIDNODE_MANAGEMENT_TOKEN": TOKEN, "GRIDNODE_MANAGEMENT_TOKEN_FILE": str(tmp_path / "token")}
    with pytest.raises(InvalidSetting, match="both set"):
        ManagementClient.open(None, both)
    with pytest.raises(InvalidSetting, match="can't be read"):
        ManagementClient.open(None, {"GRIDNODE_MANAGEMENT_TOKEN_FILE": str(tmp_path / "missing")})
    # What a node on the same machine is told does not matter to a client.
    ManagementClient.open(None, {"GRIDNODE_MANAGEMENT_TOKEN": TOKEN, "GRIDNODE_DEVICE_PORT": "no port"})


def test_variable_of_the_commands_is_no_unknown_setting() -> None:
    settings = load_settings({"GRIDNODE_MANAGEMENT_URL": "http://node:5050", "GRIDNODE_MANAGEMENT_URI": "x"})
    (warning,) = settings.warnings
    assert warning.startswith("GRIDNODE_MANAGEMENT_URI is not a setting")


def test_node_is_listed(server: str) -> None:
    assert ManagementClient(f"{server}/node", None).processes() == []


@pytest.mark.parametrize("path", ["html", "list", "other", "missing", "elsewhere"])
def test_what_is_no_node_is_called_so(server: str, path: str) -> None:
    with pytest.raises(ManagementFailed, match="is no GridNode"):
        ManagementClient(f"{server}/{path}", None).processes()


def test_failure_of_the_node_names_the_request_for_its_log(server: str) -> None:
    with pytest.raises(ManagementFailed, match=r"failed to handle this request \(request-1\)"):
        ManagementClient(f"{server}/broken", None).processes()


def test_node_without_its_database_says_when_to_come_back(server: str) -> None:
    with pytest.raises(ManagementFailed, match=r"unavailable \(try again in 7 s\)"):
        ManagementClient(f"{server}/away", None).processes()


def test_form_is_what_a_form_parser_reads(tmp_path: Path) -> None:
    large = tmp_path / "model.bin"
    large.write_bytes(bytes(range(256)) * 4000 + b"\r\n--")
    (tmp_path / "empty.bin").write_bytes(b"")
    files = {"model": large, 'plans.a "quoted"; plän=1': large, "protocols.empty": tmp_path / "empty.bin"}
    form = MultipartForm({"client_config": json.dumps({"name": "ä"}).encode()}, files)
    sent: list[int] = []
    form.sent = sent.append
    body = b"".join(form)
    assert len(body) == len(form) == sum(sent)

    environ = {
        "REQUEST_METHOD": "POST", "CONTENT_TYPE": form.content_type, "CONTENT_LENGTH": str(len(form)),
        "wsgi.input": io.BytesIO(body),
    }  # fmt: skip
    _, fields, parsed = parse_form_data(environ, silent=False)
    contents = {}
    for name, file in parsed.items():
        with file.stream as stream:
            contents[name] = stream.read()
    hosted = {name: path.read_bytes() for name, path in files.items()}
    assert contents == {"client_config": b'{"name": "\\u00e4"}', **hosted}
    assert not fields


def test_form_is_read_in_pieces(tmp_path: Path) -> None:
    large = tmp_path / "model.bin"
    large.write_bytes(bytes(3_000_000))
    assert max(map(len, MultipartForm({}, {"model": large}))) <= 1 << 18
