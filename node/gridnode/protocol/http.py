"""The device listener's HTTP endpoints as a Flask application. Decodes, calls one endpoint, encodes; nothing else."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from gridnode.errors import GridNodeError
from gridnode.protocol import messages
from gridnode.protocol.answers import INTERNAL, error_answer
from gridnode.protocol.device import Pending
from gridnode.protocol.hosting import HostingEndpoints
from gridnode.protocol.routes import ANY_ORIGIN, PREFIX, Call, Route, Routes, success
from gridnode.protocol.speed_test import SpeedTests
from gridnode.protocol.wsgi import BODY, ENDPOINT, STREAM

log = logging.getLogger(__name__)

SPEED_TEST_PATH = f"{PREFIX}/speed-test"
_BINARY = "application/octet-stream"


def make_device_app(routes: Routes, speed_tests: SpeedTests, hosting: HostingEndpoints | None) -> Flask:
    """The application of the device listener; with ``hosting``, legacy notebooks may host through it."""
    app = make_app("device")
    app.after_request(_allow_any_origin)

    for (method, path), route in routes.items():
        app.add_url_rule(path, route.endpoint, _view(route), methods=[method])

    @app.route(SPEED_TEST_PATH, methods=["GET", "POST"])
    def speed_test() -> Response:
        if request.method == "POST" or "is_ping" in request.args:
            speed_tests.check(request.args)
            return json_answer({})
        sample = speed_tests.download(request.args)
        return stream_answer(sample.chunks(), sample.length, sample.content_type)

    if hosting is not None:
        add_hosting_routes(app, hosting)
    return app


def _view(route: Route) -> Callable[[], Response]:
    def view() -> Response:
        outcome = route.handler(Call(body(), request.args))
        reply = success(outcome.wait() if isinstance(outcome, Pending) else outcome)
        return Response(reply.body, reply.status, reply.headers)

    return view


def add_hosting_routes(app: Flask, hosting: HostingEndpoints) -> None:
    """The two endpoints that the management listener has, and with the compatibility switch the device listener too."""

    @app.post(f"{PREFIX}/host-training")
    def host_training() -> Response:
        if request.mimetype == "multipart/form-data":
            # A part whose header gives no name has the name None.
            fields = {name or "": text for name, text in request.form.items()}
            files = {name or "": file.read() for name, file in request.files.items()}
            return json_answer(hosting.host_multipart(fields, files))
        return json_answer(hosting.host_json(messages.decode_object(body())))

    @app.get(f"{PREFIX}/retrieve-model")
    def retrieve_model() -> Response:
        number, value = hosting.retrieve(request.args)
        answer = binary_answer(value)
        answer.headers["x-checkpoint"] = str(number)
        return answer


def make_app(name: str) -> Flask:
    """A Flask application that answers every error as ``{"error": …}``."""
    app = Flask(f"gridnode.{name}", static_folder=None)
    app.url_map.strict_slashes = False

    @app.before_request
    def name_endpoint() -> None:
        request.environ[ENDPOINT] = (request.endpoint or "other").replace("_", "-")

    @app.errorhandler(GridNodeError)
    def domain_error(error: GridNodeError) -> Response:
        status, headers, content = error_answer(error)
        log.info("request refused", extra={"status": status, "reason": error.message, "path": request.path})
        return Response(content, status, headers)

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response:
        answer = json_answer({"error": (error.description or error.name).rstrip(".").lower()}, error.code or 500)
        for header, value in error.get_headers():
            if header.lower() == "allow":
                answer.headers[header] = value
        return answer

    @app.errorhandler(Exception)
    def unexpected_error(error: Exception) -> Response:
        log.error("request failed", exc_info=error, extra={"path": request.path})
        return json_answer({"error": INTERNAL}, 500)

    return app


def body() -> bytes:
    """The request's whole body."""
    content: bytes = request.environ[BODY]
    return content


def json_answer(payload: object, status: int = 200) -> Response:
    return Response(messages.encode(payload), status, content_type="application/json")


def binary_answer(value: bytes) -> Response:
    # Good for one worker only, so no cache between may keep it.
    return Response(value, 200, {"cache-control": "private, no-store"}, content_type=_BINARY)


def stream_answer(chunks: Iterator[bytes], length: int, content_type: str) -> Response:
    request.environ[STREAM] = True
    headers = {"content-length": str(length), "cache-control": "no-store"}
    return Response(chunks, 200, headers, content_type=content_type)


def _allow_any_origin(answer: Response) -> Response:
    answer.headers.set(*ANY_ORIGIN)
    if request.method == "OPTIONS":
        answer.headers["access-control-allow-methods"] = "GET, HEAD, OPTIONS, POST"
        asked = request.headers.get("access-control-request-headers", "")
        # The names are the browser's, repeated to it; a line break in a header can't get here.
        answer.headers["access-control-allow-headers"] = asked[:1024] or "content-type"
        answer.headers["access-control-max-age"] = "86400"
    return answer
