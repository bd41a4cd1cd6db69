"""As much of S3 as storing whole objects needs, over HTTP and in memory: nobody is asked who they are."""

from __future__ import annotations

import hashlib
import itertools
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape, unescape

_STARTED = "<InitiateMultipartUploadResult><UploadId>{}</UploadId></InitiateMultipartUploadResult>"
_COMPLETED = "<CompleteMultipartUploadResult><ETag>{}</ETag></CompleteMultipartUploadResult>"


class ObjectStore:
    """Serves some buckets until the ``with`` block ends.

    Args:
        buckets: That there are; others are never made.

    Attributes:
        objects: By bucket and key, such as ``models/7/a.bin``.
        uploads: Parts of uploads that have neither been completed nor given up.
    """

    def __init__(self, *buckets: str) -> None:
        self.objects: dict[str, bytes] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.lock = threading.Lock()
        self.numbers = itertools.count(1)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self, frozenset(buckets)))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def environment(self) -> dict[str, str]:
        """Variables by which clients find it."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "anybody",
            "AWS_SECRET_ACCESS_KEY": "anything",
        }

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler(store: ObjectStore, buckets: frozenset[str]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:
            key, query = self._target()
            body = self._body()
            if not self._is_there(key):
                return
            with store.lock:
                if "uploadId" in query:
                    store.uploads[query["uploadId"]][int(query["partNumber"])] = body
                else:
                    store.objects[key] = body
            self._answer(200, etag=hashlib.md5(body).hexdigest())

        def do_POST(self) -> None:
            key, query = self._target()
            body = self._body()
            if not self._is_there(key):
                return
            with store.lock:
                if "delete" in query:
                    gone = [unescape(name) for name in re.findall("<Key>(.*?)</Key>", body.decode())]
                    for name in gone:
                        store.objects.pop(f"{key.rstrip('/')}/{name}", None)
                    entries = (f"<Deleted><Key>{escape(name)}</Key></Deleted>" for name in gone)
                    answer = f"<DeleteResult>{''.join(entries)}</DeleteResult>"
                elif "uploadId" in query:
                    parts = store.uploads.pop(query["uploadId"])
                    store.objects[key] = b"".join(parts[number] for number in sorted(parts))
                    answer = _COMPLETED.format("whole")
                else:
                    upload = str(next(store.numbers))
                    store.uploads[upload] = {}
                    answer = _STARTED.format(upload)
            self._answer(200, answer.encode())

        def do_DELETE(self) -> None:
            key, query = self._target()
            with store.lock:
                if "uploadId" in query:
                    store.uploads.pop(query["uploadId"], None)
                else:
                    store.objects.pop(key, None)
            self._answer(204)

        def do_GET(self) -> None:
            key, _ = self._target()
            with store.lock:
                body = store.objects.get(key)
            if body is None:
                return self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if wanted is None:
                return self._answer(200, body)
            first, last = int(wanted[1]), min(int(wanted[2] or len(body)), len(body) - 1)
            return self._answer(206, body[first : last + 1], of=f"bytes {first}-{last}/{len(body)}")

        def do_HEAD(self) -> None:
            self.do_GET()

        def _target(self) -> tuple[str, dict[str, str]]:
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
            return unquote(parts.path).lstrip("/"), query

        def _body(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def _is_there(self, key: str) -> bool:
            if key.partition("/")[0] in buckets:
                return True
            self._answer(404, b"<Error><Code>NoSuchBucket</Code></Error>")
            return False

        def _answer(self, status: int, body: bytes = b"", *, etag: str = "one", of: str | None = None) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", f'"{etag}"')
            self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
            if of is not None:
                self.send_header("Content-Range", of)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing to the terminal."""

    return Handler
