"""Messages between a zygote and its children, over a socket pair: a length and JSON."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Mapping
from typing import Any

PROTOCOL = 1
"""Of the lines between a zygote and the platform: see the package."""


def send(connection: socket.socket, message: Mapping[str, Any]) -> None:
    """Send one message over a socket pair."""
    body = json.dumps(message).encode()
    connection.sendall(struct.pack("!I", len(body)) + body)


def receive(connection: socket.socket) -> dict[str, Any] | None:
    """The next message of a socket pair; None if the other end closed before one was complete."""
    header = _receive_exactly(connection, 4)
    if header is None:
        return None
    body = _receive_exactly(connection, struct.unpack("!I", header)[0])
    return None if body is None else json.loads(body)


def _receive_exactly(connection: socket.socket, size: int) -> bytes | None:
    parts = []
    while size:
        try:
            part = connection.recv(min(size, 1 << 20))
        except (ConnectionResetError, BlockingIOError):
            return None
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
