"""The live explorer on this machine alone: a server that only reads, for whoever knows the token in its address."""

import errno
import json
import secrets
import sys
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from mechocl.errors import MechoclError
from mechocl.report.explorer.live import Asked, LiveRun
from mechocl.report.explorer.page import facts_of, render

HOST: Final = "127.0.0.1"
"""The address that is listened on, which other machines do not reach."""

REFUSAL: Final = "This page is only for the address that `mechocl serve` printed; open that one.\n"
"""What is said, whatever is wrong with a request's address, token, Host or Origin."""

_HEADERS: Final = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
"""Headers of every answer: another page may neither show this one nor read it, and the token goes nowhere else."""

Answer = Callable[[dict[str, str]], dict[str, Any]]
"""Fields of a question → the answer. Raises MechoclError for a question that has none."""


class ExplorerServer(ThreadingHTTPServer):
    """Serves one page and the answers that it asks for. Raises MechoclError when the port is taken or not allowed."""

    daemon_threads = True

    def __init__(self, page: str, answer: Answer, *, port: int) -> None:
        self.page, self.answer = page.encode("utf-8"), answer
        self.token = secrets.token_urlsafe(24)
        try:
            super().__init__((HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            raise MechoclError(
                f"--port {port} {_why(error)}; choose another --port, or 0 for a free one"
            ) from None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a reader who went away in the middle, as when a page is reloaded."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self.server_address[1])

    @property
    def address(self) -> str:
        """The address to open, which holds the token."""
        return f"http://{HOST}:{self.port}/{self.token}/"

    @property
    def hosts(self) -> tuple[str, ...]:
        """What a request's Host may be. Another one means that a name was made to lead here (DNS rebinding)."""
        return f"{HOST}:{self.port}", f"localhost:{self.port}"


def open_server(live: LiveRun, *, port: int) -> ExplorerServer:
    """A server of the live page of a run, which `serve_forever` starts. Port 0 takes a free one. Raises MechoclError for a taken port."""
    server = ExplorerServer("", lambda fields: live.answer(asked_of(fields)), port=port)
    try:
        server.page = render(live.content(), facts=facts_of(live.run), chunks={}).encode("utf-8")
    except BaseException:
        server.server_close()
        raise
    return server


def asked_of(fields: dict[str, str]) -> Asked:
    """What the fields of an address ask for. Raises MechoclError, which names the field that is missing or no number."""
    for name in ("seed", "alias"):
        if not (fields.get(name, "").isascii() and fields.get(name, "").isdecimal()):
            raise MechoclError(f"{name} {fields.get(name, '')!r} is no number; reload the page")
    return Asked(
        seed=int(fields["seed"]),
        checkpoint=fields.get("checkpoint", ""),
        alias=int(fields["alias"]),
        typed=fields.get("typed", ""),
    )


class _Handler(BaseHTTPRequestHandler):
    server: ExplorerServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "mechocl", ""
    timeout = 60
    """Seconds of silence after which a connection is closed."""

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        where = parts.path.split("/")
        if not self._is_allowed(where):
            self._send(HTTPStatus.FORBIDDEN, "text/plain", REFUSAL.encode())
        elif where[2:] == [""]:
            self._send(HTTPStatus.OK, "text/html", self.server.page)
        elif where[2:] == ["model"]:
            fields = {name: values[-1] for name, values in parse_qs(parts.query).items()}
            try:
                self._send_json(HTTPStatus.OK, self.server.answer(fields))
            except (
                MechoclError
            ) as error:  # not as a failure of HTTP, which a browser's console would show beside it
                self._send_json(HTTPStatus.OK, {"error": str(error)})
        else:
            self._send(HTTPStatus.NOT_FOUND, "text/plain", b"There is nothing here.\n")

    def _is_allowed(self, where: list[str]) -> bool:
        origins = {f"http://{host}" for host in self.server.hosts}
        token = where[1] if len(where) > 2 else ""
        return (
            self.headers.get("Host", "") in self.server.hosts
            and self.headers.get("Origin") in {None, *origins}
            and secrets.compare_digest(token.encode(), self.server.token.encode())
        )

    def _send_json(self, status: HTTPStatus, content: dict[str, Any]) -> None:
        self._send(status, "application/json", json.dumps(content, allow_nan=False).encode())

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: a line would hold the token."""


def _why(error: OSError | OverflowError) -> str:
    if isinstance(error, OverflowError):
        return "is none of 0 to 65535"
    known = {errno.EADDRINUSE: "is in use", errno.EACCES: "is only for an administrator"}
    return known.get(error.errno or 0, f"cannot be used: {error.strerror}")
