"""``gridnode host``: upload a model, its plans and its configuration to a node."""

from __future__ import annotations

import json
import secrets
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import typer

from gridnode.commands.config import Output
from gridnode.commands.management_client import ManagementClient, ManagementFailed, ManagementUrl, transfer
from gridnode.errors import InvalidRequest

_CHUNK: Final = 1 << 18
_FILE: Final[dict[str, Any]] = {"exists": True, "dir_okay": False, "readable": True}


def host(
    model: Annotated[Path, typer.Option(help="File with the model's parameters (a State).", **_FILE)],
    plan: Annotated[list[str], typer.Option(metavar="NAME=FILE", help="A training plan; once for each.")],
    client_config: Annotated[
        str, typer.Option(metavar="JSON", help="What phones are told: a JSON file, '-' for standard input, or {...}.")
    ],
    server_config: Annotated[
        str, typer.Option(metavar="JSON", help="What the node is told: a JSON file, '-' for standard input, or {...}.")
    ],
    protocol: Annotated[
        list[str] | None, typer.Option(metavar="NAME=FILE", help="A protocol; once for each.", show_default=False)
    ] = None,
    averaging_plan: Annotated[
        Path | None, typer.Option(help="File with the averaging plan; the mean if not given.", **_FILE)
    ] = None,
    name: Annotated[str | None, typer.Option(help="Instead of client_config.name.")] = None,
    version: Annotated[str | None, typer.Option(help="Instead of client_config.version.")] = None,
    management_url: ManagementUrl = None,
    output: Annotated[Output, typer.Option("--output", "-o", help="Form of the result.")] = Output.TABLE,
) -> None:
    """Host a federated process: upload a model, its plans and its configuration to a node.

    The node checks everything before it stores anything; an error names the field.
    docs/configuration.md explains each key of client_config and server_config.

    Examples:

        gridnode host --model state.bin --plan training_plan=plan.bin --client-config client.json --server-config server.json

        gridnode host --model state.bin --plan training_plan=plan.bin --averaging-plan average.bin --client-config client.json --server-config '{"num_cycles": 10, "min_diffs": 5, "iterative_plan": true}'

        gridnode host --model state.bin --plan training_plan=plan.bin --client-config client.json --server-config server.json --version 1.1 --output json
    """  # noqa: E501 - an example must be one line to be pasted
    configs = {"client_config": client_config, "server_config": server_config}
    if list(configs.values()).count("-") > 1:
        raise InvalidRequest("only one of --client-config and --server-config can come from standard input")
    client, server = (_read_config(key, text) for key, text in configs.items())
    client |= {key: value for key, value in (("name", name), ("version", version)) if value is not None}
    files = {"model": model, **_named("plan", plan), **_named("protocol", protocol or [])}
    if averaging_plan is not None:
        files["averaging_plan"] = averaging_plan
    fields = {"client_config": client, "server_config": server}

    node = ManagementClient.open(management_url)
    _check_is_new(node, client)
    form = MultipartForm({key: json.dumps(value).encode() for key, value in fields.items()}, files)
    with transfer(f"uploading {model.name}", len(form), afterwards="the node checks it") as moved:
        form.sent = moved
        hosted = node.host(form)
    if output is Output.JSON:
        typer.echo(json.dumps(hosted, indent=2, ensure_ascii=False))
    else:
        # The commands that are suggested must find the same node.
        elsewhere = "" if management_url is None else f" --management-url {shlex.quote(management_url)}"
        _show(hosted, len(plan), elsewhere, averaging=averaging_plan is not None)


class MultipartForm:
    """A ``multipart/form-data`` body that reads its files while it is sent: a model is never in memory as a whole.

    Args:
        fields: JSON values by field name.
        files: by field name.
    """

    def __init__(self, fields: Mapping[str, bytes], files: Mapping[str, Path]) -> None:
        boundary = secrets.token_hex(16)
        self.content_type = f"multipart/form-data; boundary={boundary}"
        #: Called with the number of bytes that have just been handed over to be sent.
        self.sent: Callable[[int], None] = lambda count: None
        self._parts: list[bytes | Path] = []
        contents: dict[str, bytes | Path] = {**fields, **files}
        for name, content in contents.items():
            self._parts += [_part_header(boundary, name), content, b"\r\n"]
        self._parts.append(f"--{boundary}--\r\n".encode())
        self._length = sum(len(part) if isinstance(part, bytes) else part.stat().st_size for part in self._parts)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[bytes]:
        for part in self._parts:
            for chunk in [part] if isinstance(part, bytes) else _read_chunks(part):
                yield chunk
                self.sent(len(chunk))


def _part_header(boundary: str, name: str) -> bytes:
    # As browsers escape names (HTML Living Standard, multipart/form-data encoding algorithm).
    escaped = name.replace("\r", "%0D").replace("\n", "%0A").replace('"', "%22")
    # With a filename every part is a file, and files have no limit of their own on the node.
    return (
        f'--{boundary}\r\nContent-Disposition: form-data; name="{escaped}"; filename="upload"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode()


def _read_chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _read_config(key: str, text: str) -> dict[str, Any]:
    """A config from a file, standard input or the command line.

    Raises:
        InvalidRequest: it can't be read, is no JSON, or no object.
    """
    source = f"--{key.replace('_', '-')}"
    if text == "-":
        content = sys.stdin.read()
    elif text.lstrip().startswith("{"):
        content = text
    else:
        source += f" {text}"
        try:
            content = Path(text).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise InvalidRequest(f"{source} can't be read: {reason}") from None
    try:
        value = json.loads(content, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{source} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidRequest(f"{source} is not a JSON object, such as {{...}}")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _named(option: str, values: Sequence[str]) -> dict[str, Path]:
    """``NAME=FILE`` of several options as form fields.

    Raises:
        InvalidRequest: one has another form, names no file, or a name is there twice.
    """
    files: dict[str, Path] = {}
    for value in values:
        name, equals, path = value.partition("=")
        if not name or not equals:
            raise InvalidRequest(f"--{option} {value}: give it a name, as in --{option} training_plan=plan.bin")
        if not Path(path).is_file():
            raise InvalidRequest(f"--{option} {value}: there is no file {path!r}")
        field = f"{option}s.{name}"
        if field in files:
            raise InvalidRequest(f"--{option} {name} is given twice: names must differ")
        files[field] = Path(path)
    return files


def _check_is_new(node: ManagementClient, client_config: Mapping[str, Any]) -> None:
    """Find out before a long upload whether the node answers, lets us in, and has nothing else of that name.

    With the same ``client_config`` it may be an upload whose answer was lost: the node compares the rest.

    Raises:
        ManagementFailed: one of these is not so.
    """
    name, version = client_config.get("name"), client_config.get("version")
    if not (isinstance(name, str) and name and isinstance(version, str) and version):
        return  # the node says what is wrong with them
    if any(process["client_config"] != client_config for process in node.processes(name, version)):
        raise ManagementFailed(
            f"{name} {version} is hosted already: choose another --version, or delete it first with "
            f"`gridnode processes delete {shlex.join([name, version])}`."
        )


def _show(hosted: Mapping[str, Any], plans: int, elsewhere: str, *, averaging: bool) -> None:
    name, version = hosted["name"], hosted["version"]
    averaged = "an averaging plan" if averaging else "averaged by the node"
    quoted = shlex.join([name, version])
    typer.echo(
        f"Hosted {name} {version} as process {hosted['process_id']}: a model, "
        f"{plans} training plan{'' if plans == 1 else 's'}, {averaged}.\n\n"
        "Next:\n"
        f"  gridnode simulate --model {shlex.quote(name)} --version {shlex.quote(version)} --phones 10\n"
        f"  gridnode processes show {quoted}{elsewhere}"
    )
