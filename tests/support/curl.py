"""What the pages in docs/ ask of curl, for machines without it: a program with the same options.

``curl.py [-s] [-X METHOD] [-H HEADER] [-F NAME=VALUE] [-F NAME=@FILE] [-d BODY] [-d @-] [-D -] [-o FILE] URL``
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import requests


def main() -> None:
    """Send one request and print what curl would print."""
    options = _options()
    response = requests.request(
        options.request or ("POST" if options.form or options.data else "GET"),
        options.url,
        headers=dict(header.split(": ", 1) for header in options.header),
        timeout=60,
        **_body(options),
    )
    if options.dump_header == "-":
        lines = [f"HTTP/1.1 {response.status_code} {response.reason}"]
        lines += [f"{name}: {value}" for name, value in response.headers.items()]
        sys.stdout.write("\r\n".join([*lines, "", ""]))
    if options.output is None:
        sys.stdout.flush()
        sys.stdout.buffer.write(response.content)
    else:
        Path(options.output).write_bytes(response.content)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("-s", "--silent", action="store_true")
    parser.add_argument("-X", "--request")
    parser.add_argument("-H", "--header", action="append", default=[])
    parser.add_argument("-F", "--form", action="append", default=[])
    parser.add_argument("-d", "--data")
    parser.add_argument("-D", "--dump-header", choices=["-"])
    parser.add_argument("-o", "--output")
    parser.add_argument("url")
    return parser.parse_args()


def _body(options: argparse.Namespace) -> dict[str, Any]:
    if options.data is not None:
        return {"data": sys.stdin.buffer.read() if options.data == "@-" else options.data.encode()}
    parts: dict[str, Any] = {}
    for field in options.form:
        name, _, value = field.partition("=")
        path = Path(value[1:])
        parts[name] = (path.name, path.read_bytes()) if value.startswith("@") else (None, value)
    return {"files": parts} if parts else {}


if __name__ == "__main__":
    main()
