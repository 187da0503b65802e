"""The names of asyncpg that we use, which has no types: calls give Any, and exceptions are declared once, here."""

from __future__ import annotations

from typing import Any

import asyncpg

connect: Any = asyncpg.connect
create_pool: Any = asyncpg.create_pool

_names: Any = asyncpg

PostgresError: type[Exception] = _names.PostgresError
"""The server refused something; `sqlstate` says what."""
InterfaceError: type[Exception] = _names.InterfaceError
"""The driver was used in a way that it cannot be, such as on a closed connection."""
InternalClientError: type[Exception] = _names.InternalClientError
ConnectionLost: tuple[type[Exception], ...] = (
    _names.PostgresConnectionError,
    _names.ConnectionDoesNotExistError,
    _names.CannotConnectNowError,
    _names.AdminShutdownError,
    _names.CrashShutdownError,
    _names.TooManyConnectionsError,
    ConnectionError,
    FileNotFoundError,
)
"""The server went away, is not there yet, or has no room: worth another try before anything was sent."""
DatabaseExists: tuple[type[Exception], ...] = (_names.DuplicateDatabaseError, _names.UniqueViolationError)
"""What losing the race for a new database looks like."""
