"""Hosting and retrieving at the edge: JSON with base64, multipart, and PySyft's hex over WebSocket."""

from __future__ import annotations

import binascii
import logging
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from gridnode.averaging.hosted_plan import SandboxLimits
from gridnode.cycles.intake import utc_now
from gridnode.db.session import Database
from gridnode.errors import InvalidRequest
from gridnode.processes.catalog import Catalog
from gridnode.processes.hosting import Upload, check_upload, store_process
from gridnode.processes.management import retrieve
from gridnode.protocol import messages
from gridnode.protocol.messages import Answer

log = logging.getLogger(__name__)

_FIELDS = ("model", "plans", "protocols", "averaging_plan", "client_config", "server_config")

Decode = Callable[[str, str], bytes]


class HostingEndpoints:
    """Host a process, retrieve a checkpoint."""

    def __init__(self, database: Database, catalog: Catalog, limits: SandboxLimits) -> None:
        self._database = database
        self._catalog = catalog
        self._limits = limits

    def host_json(self, data: Mapping[str, Any]) -> Answer:
        """Host from a JSON object whose binary fields are base64."""
        return self._host(_upload(data, messages.decode_base64))

    def host_hex(self, data: Mapping[str, Any]) -> Answer:
        """Host from a JSON object whose binary fields are hex, as PySyft 0.2.9 sends it."""
        answer = self._host(_upload(data, _decode_hex))
        return {"status": answer["status"]}

    def host_multipart(self, fields: Mapping[str, str], files: Mapping[str, bytes]) -> Answer:
        """Host from a form: files model, averaging_plan, plans.NAME and protocols.NAME; configs as JSON."""
        configs = {name: _json_field(name, fields, files) for name in ("client_config", "server_config")}
        unknown = [
            name for name in (*fields, *files) if name not in _FIELDS and not name.startswith(("plans.", "protocols."))
        ]
        if unknown:
            raise InvalidRequest(f"{unknown[0]} is not a field of this form: send {', '.join(_FIELDS)}")
        return self._host(
            Upload(
                model=files.get("model", b""),
                plans=_named(files, "plans."),
                protocols=_named(files, "protocols."),
                averaging_plan=files.get("averaging_plan", b""),
                client_config=configs["client_config"],
                server_config=configs["server_config"],
            )
        )

    def retrieve(self, query: Mapping[str, str]) -> tuple[int, bytes]:
        """Number and State of a checkpoint."""
        name = query.get("name") or ""
        if not name:
            raise InvalidRequest("name is missing")
        if "\x00" in name or "\x00" in (query.get("version") or ""):
            raise InvalidRequest("name and version can't hold NUL characters")
        return self._database.transaction(
            lambda session: retrieve(session, name, query.get("version") or None, query.get("checkpoint"))
        )

    def _host(self, upload: Upload) -> Answer:
        checked = check_upload(upload, self._limits)
        process_id = self._database.transaction(lambda session: store_process(session, checked, utc_now()), deadline=60)
        self._catalog.forget()
        config = checked.client_config
        log.info("process hosted", extra={"model": config.name, "version": config.version, "process_id": process_id})
        return {"status": "success", "process_id": process_id, "name": config.name, "version": config.version}


def _upload(data: Mapping[str, Any], decode: Decode) -> Upload:
    for key in data:
        if key not in _FIELDS:
            raise InvalidRequest(f"{key} is not a field of a hosting request: send {', '.join(_FIELDS)}")
    return Upload(
        model=_binary(data.get("model"), "model", decode),
        plans=_binaries(data.get("plans"), "plans", decode),
        protocols=_binaries(data.get("protocols"), "protocols", decode),
        averaging_plan=_binary(data.get("averaging_plan"), "averaging_plan", decode),
        client_config=data.get("client_config"),
        server_config=data.get("server_config"),
    )


def _binary(value: object, field: str, decode: Decode) -> bytes:
    if value is None or value == "":
        return b""
    if not isinstance(value, str):
        raise InvalidRequest(f"{field}: expected a string, got {type(value).__name__}")
    return decode(value, field)


def _binaries(value: object, field: str, decode: Decode) -> dict[str, bytes]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidRequest(f"{field}: expected an object of names, got {type(value).__name__}")
    return {name: _binary(item, f"{field}.{name}", decode) for name, item in value.items()}


def _decode_hex(text: str, field: str) -> bytes:
    try:
        return binascii.unhexlify(text)
    except ValueError:
        raise InvalidRequest(f"{field} is not hex") from None


def _json_field(name: str, fields: Mapping[str, str], files: Mapping[str, bytes]) -> object:
    raw = files[name] if name in files else fields.get(name, "").encode()
    if not raw:
        return None
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidRequest(f"{name} is not JSON") from None


def _named(files: Mapping[str, bytes], prefix: str) -> dict[str, bytes]:
    return {name[len(prefix) :]: value for name, value in files.items() if name.startswith(prefix)}
