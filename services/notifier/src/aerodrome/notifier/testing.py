"""Real receivers for tests: an HTTP endpoint and a mail server, each in threads of its own."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aerodrome.stdlib.pubsub.testing import free_port


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it came."""

    path: str
    headers: Mapping[str, str]
    """With names in lower case."""
    body: bytes
    at: float
    """When, in seconds of `time.perf_counter`."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the endpoint says to it."""

    status: int = 200
    body: str = "ok"
    headers: Mapping[str, str] = field(default_factory=dict)


class Endpoint:
    """An HTTP server on the loopback that keeps what it gets; it can be stopped and started again on its port."""

    def __init__(self) -> None:
        self.port = free_port()
        self.requests: list[Request] = []
        self.answer: Callable[[Request], Answer] = lambda _: Answer()
        """May block, which keeps the caller waiting, and runs in a thread of its own."""
        self._arrived = threading.Condition()
        self._connections: set[socket.socket] = set()
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where it is, with a path that is secret."""
        return f"http://127.0.0.1:{self.port}/services/its-secret-path"

    def start(self) -> None:
        """Listen."""
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = Request(self.path, headers, body, time.perf_counter())
                endpoint._keep(request)
                answer = endpoint.answer(request)
                said = answer.body.encode()
                with contextlib.suppress(OSError):  # who asked may be gone
                    self.send_response(answer.status)
                    for name, value in answer.headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(said)))
                    self.end_headers()
                    self.wfile.write(said)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False
            request_queue_size = 128

            def process_request(self, request: Any, client_address: Any) -> None:
                endpoint._connections.add(request)
                super().process_request(request, client_address)

            def shutdown_request(self, request: Any) -> None:
                endpoint._connections.discard(request)
                super().shutdown_request(request)

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # a connection that was reset

        self._server = Server(("127.0.0.1", self.port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Listen no more, and end the connections that are kept open."""
        server, self._server = self._server, None
        if server is not None and self._thread is not None:
            server.shutdown()
            server.server_close()
            self._thread.join()
            for connection in list(self._connections):
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def wait(self, count: int, seconds: float = 60.0) -> list[Request]:
        """All requests once there are so many.  Raises TimeoutError."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: len(self.requests) >= count, seconds):
                raise TimeoutError(f"{len(self.requests)} of {count} requests came within {seconds:g} s")
            return list(self.requests)

    def _keep(self, request: Request) -> None:
        with self._arrived:
            self.requests.append(request)
            self._arrived.notify_all()


@contextlib.contextmanager
def endpoint() -> Iterator[Endpoint]:
    """An endpoint for the length of the block."""
    made = Endpoint()
    made.start()
    try:
        yield made
    finally:
        made.stop()


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail as it came."""

    sender: str
    recipients: tuple[str, ...]
    """Of the envelope."""
    message: EmailMessage
    user: str = ""
    """Who sent it, if the server asked."""


class MailServer:
    """An SMTP server on the loopback that keeps what it gets."""

    def __init__(self, *, user: str = "", password: str = "") -> None:
        self.mails: list[Mail] = []
        self.refuse: Callable[[str], str | None] = lambda _: None
        """What is said to a recipient instead of taking it, such as `550 no such mailbox`."""
        self.logins = 0
        self._user = user
        self._password = password
        self._controller: Any = None

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._controller.port)

    def start(self) -> None:
        """Listen on a free port."""
        from aiosmtpd.controller import Controller
        from aiosmtpd.smtp import AuthResult, LoginPassword

        outer = self

        class Handler:
            async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
                refused = outer.refuse(address)
                if refused is not None:
                    return refused
                envelope.rcpt_tos.append(address)
                return "250 OK"

            async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
                message = message_from_bytes(envelope.content, policy=policy.default)
                assert isinstance(message, EmailMessage)
                user = outer._user if session.authenticated else ""
                outer.mails.append(Mail(envelope.mail_from, tuple(envelope.rcpt_tos), message, user))
                return "250 kept"

        def authenticate(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> Any:
            outer.logins += 1
            given = data if isinstance(data, LoginPassword) else LoginPassword(b"", b"")
            right = LoginPassword(outer._user.encode(), outer._password.encode())
            return AuthResult(success=given == right, handled=False)

        self._controller = Controller(
            Handler(),
            hostname="127.0.0.1",
            port=free_port(),
            authenticator=authenticate if self._user else None,
            auth_required=bool(self._user),
            auth_require_tls=False,
        )
        self._controller.start()

    def stop(self) -> None:
        """Listen no more."""
        controller, self._controller = self._controller, None
        if controller is not None:
            controller.stop()


@contextlib.contextmanager
def mail_server(*, user: str = "", password: str = "") -> Iterator[MailServer]:
    """A mail server for the length of the block."""
    made = MailServer(user=user, password=password)
    made.start()
    try:
        yield made
    finally:
        made.stop()
