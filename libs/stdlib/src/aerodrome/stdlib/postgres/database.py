"""A pool of connections whose errors are ours.

A unit of work is `async with database.transaction() as conn`; row locks decide races.  Every exception of the driver is
translated here, at this edge (`translate`), with the original as its cause.  The pool survives restarts of the server:
what was lost is opened again, and waiting for that is bounded.  Source: spec/control-plane.md, section 0.2.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Literal, Protocol, overload
from urllib.parse import quote, urlsplit, urlunsplit

from aerodrome.stdlib.errors import (
    AerodromeError,
    AlreadyExists,
    Conflict,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    Unavailable,
)
from aerodrome.stdlib.postgres import driver

Isolation = Literal["read_committed", "repeatable_read", "serializable"]

_CAST_FAILURES = frozenset({"22000", "22P02", "22007", "22008", "22003", "22021", "22P03", "22P05"})
"""Texts that are no number, date or UTF-8, and numbers that are too large: values that a caller gave (22000: the driver
found out before sending)."""


class Record(Protocol):
    """A row: columns by name or by position."""

    def __getitem__(self, key: str | int) -> Any: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...
    def get(self, key: str, default: Any = None) -> Any: ...
    def keys(self) -> Iterator[str]: ...
    def values(self) -> Iterator[Any]: ...
    def items(self) -> Iterator[tuple[str, Any]]: ...


class Meter(Protocol):
    """Who hears how long statements take (`metering.QueryMeter`)."""

    def ended(self, query: str, seconds: float) -> None: ...
    def failed(self, error: AerodromeError) -> None: ...


class Connection:
    """A connection for as long as its block lasts; the driver's methods with our errors.

    A failed statement ends the transaction (PostgreSQL refuses more of it), unless it ran in a `savepoint`.
    """

    __slots__ = ("_meter", "_raw")

    def __init__(self, raw: Any, meter: Meter | None = None) -> None:
        self._raw = raw
        self._meter = meter

    @property
    def raw(self) -> Any:
        """The driver's connection, for what is not here; its errors are translated only where they leave the block."""
        return self._raw

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        """Run a statement (or, without arguments, several); returns the command tag, such as `UPDATE 3`."""
        with self._statement(query):
            return str(await self._raw.execute(query, *args, timeout=timeout))

    async def executemany(self, query: str, args: Iterable[Sequence[Any]], *, timeout: float | None = None) -> None:
        """Run one statement for each tuple of arguments, in one round trip, all or nothing."""
        with self._statement(query):
            await self._raw.executemany(query, args, timeout=timeout)

    async def fetch(self, query: str, *args: Any, timeout: float | None = None) -> list[Record]:
        """All rows."""
        with self._statement(query):
            return list(await self._raw.fetch(query, *args, timeout=timeout))

    async def fetchrow(self, query: str, *args: Any, timeout: float | None = None) -> Record | None:
        """The first row, None if there is none."""
        with self._statement(query):
            row: Record | None = await self._raw.fetchrow(query, *args, timeout=timeout)
            return row

    async def fetchval(self, query: str, *args: Any, column: int = 0, timeout: float | None = None) -> Any:
        """One column of the first row, None if there is no row."""
        with self._statement(query):
            return await self._raw.fetchval(query, *args, column=column, timeout=timeout)

    async def fetchmany(
        self, query: str, args: Iterable[Sequence[Any]], *, timeout: float | None = None
    ) -> list[Record]:
        """Run one statement with RETURNING for each tuple of arguments; all rows in order."""
        with self._statement(query):
            return list(await self._raw.fetchmany(query, args, timeout=timeout))

    def _statement(self, query: str) -> translated:
        return translated() if self._meter is None else _metered(self._meter, query)

    async def cursor(self, query: str, *args: Any, prefetch: int = 200) -> AsyncIterator[Record]:
        """Rows as they are needed, `prefetch` at a time; only inside a transaction."""
        with translated():
            async for row in self._raw.cursor(query, *args, prefetch=prefetch):
                yield row

    async def copy_records(self, table: str, records: Iterable[Sequence[Any]], columns: Sequence[str]) -> None:
        """Insert many rows the fast way (COPY)."""
        with translated():
            await self._raw.copy_records_to_table(table, records=records, columns=list(columns))

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[Connection]:
        """A part of the transaction that can fail alone."""
        with translated():
            async with self._raw.transaction():
                yield self


class Database:
    """A pool of connections to one database, opened by `async with`.

    `statement_timeout` is enforced by the server for each statement (zero: none).  `acquire_timeout` bounds how long a
    block waits for a connection, including the time during which the server is away.
    """

    def __init__(
        self,
        dsn: str,
        *,
        min_size: int = 1,
        max_size: int = 10,
        statement_timeout: timedelta = timedelta(seconds=15),
        application_name: str = "aerodrome",
        acquire_timeout: timedelta = timedelta(seconds=15),
    ) -> None:
        self.dsn = dsn
        self._min_size = min_size
        self._max_size = max_size
        self._statement_timeout = statement_timeout
        self._application_name = application_name
        self._acquire_timeout = acquire_timeout
        self._meter: Meter | None = None
        self._pool: Any = None

    def use_meter(self, meter: Meter) -> None:
        """Tell `meter` of every statement from now on."""
        self._meter = meter

    async def __aenter__(self) -> Database:
        timeout_ms = round(self._statement_timeout.total_seconds() * 1000)
        deadline = time.monotonic() + self._acquire_timeout.total_seconds()
        pauses = _pauses()
        while True:
            pool: Any = driver.create_pool(
                self.dsn,
                min_size=self._min_size,
                max_size=self._max_size,
                max_inactive_connection_lifetime=300.0,
                # the server's own limit comes first; this one is for a server that no longer answers
                command_timeout=timeout_ms / 1000 + 10 if timeout_ms else None,
                timeout=10,
                reset=_leave_as_it_is,
                server_settings={
                    "application_name": self._application_name,
                    "statement_timeout": str(timeout_ms),
                    # our statements are short: compiling one that the planner takes for a long one costs more than it
                    "jit": "off",
                },
            )
            try:
                await pool
            except Exception as error:
                pool.terminate()
                if not _is_lost(error) or time.monotonic() > deadline:
                    if (ours := translate(error)) is None:
                        raise
                    raise ours from error
                await asyncio.sleep(next(pauses))
            else:
                self._pool = pool
                return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self, grace: timedelta = timedelta(seconds=5)) -> None:
        """Wait up to `grace` for connections in use, then cut them off."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            async with asyncio.timeout(grace.total_seconds()):
                await pool.close()
        except TimeoutError:
            pool.terminate()

    @asynccontextmanager
    async def transaction(
        self, *, isolation: Isolation = "read_committed", readonly: bool = False
    ) -> AsyncIterator[Connection]:
        """A transaction: committed when the block ends, rolled back when it raises.

        Raises Unavailable if the connection was lost; when that happens at the commit its outcome is unknown, so
        callers repeat only what is idempotent.  Raises Conflict for deadlocks and serialization failures: try again.
        """
        with translated():
            raw, started = await self._acquire(isolation, readonly)
        try:
            try:
                yield Connection(raw, self._meter)
            except BaseException as error:
                if _is_broken(error):
                    raw.terminate()
                if not _is_gone(raw):
                    with translated():
                        await started.rollback()
                _raise_if_drivers(error)
                raise
            with translated():
                await started.commit()
        finally:
            await self._release(raw)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection where each statement is its own transaction; session settings must be left as they were."""
        with translated():
            raw, _ = await self._acquire(None, False)
        try:
            yield Connection(raw, self._meter)
        except BaseException as error:
            if _is_broken(error):
                raw.terminate()
            _raise_if_drivers(error)
            raise
        finally:
            await self._release(raw)

    async def fetch(self, query: str, *args: Any) -> list[Record]:
        """All rows of one statement outside of a transaction."""
        async with self.connection() as conn:
            return await conn.fetch(query, *args)

    async def fetchrow(self, query: str, *args: Any) -> Record | None:
        """The first row of one statement outside of a transaction."""
        async with self.connection() as conn:
            return await conn.fetchrow(query, *args)

    async def fetchval(self, query: str, *args: Any) -> Any:
        """The first value of one statement outside of a transaction."""
        async with self.connection() as conn:
            return await conn.fetchval(query, *args)

    async def execute(self, query: str, *args: Any) -> str:
        """Run one statement outside of a transaction."""
        async with self.connection() as conn:
            return await conn.execute(query, *args)

    @overload
    async def _acquire(self, isolation: Isolation, readonly: bool) -> tuple[Any, Any]: ...
    @overload
    async def _acquire(self, isolation: None, readonly: bool) -> tuple[Any, None]: ...
    async def _acquire(self, isolation: Isolation | None, readonly: bool) -> tuple[Any, Any]:
        """A live connection, and the transaction begun on it; nothing was sent yet, so loss leads to another try."""
        deadline = time.monotonic() + self._acquire_timeout.total_seconds()
        pauses = _pauses()
        while True:
            if self._pool is None:
                raise FailedPrecondition("the database is closed")
            remaining = deadline - time.monotonic()
            raw: Any = None
            try:
                raw = await self._pool.acquire(timeout=max(0.001, remaining))
                if isolation is None:
                    return raw, None
                started = raw.transaction(isolation=isolation, readonly=readonly)
                await started.start()
                return raw, started
            except TimeoutError as error:
                await self._release(raw)
                raise Unavailable(
                    f"no database connection became free within {self._acquire_timeout.total_seconds():g} s "
                    f"(all {self._max_size} are in use, or the server does not answer)"
                ) from error
            except BaseException as error:
                if raw is not None:
                    raw.terminate()
                await self._release(raw)
                if not _is_lost(error) or time.monotonic() > deadline:
                    raise
            await asyncio.sleep(min(next(pauses), max(0.0, deadline - time.monotonic())))

    async def _release(self, raw: Any) -> None:
        pool = self._pool
        if raw is not None and pool is not None:
            try:
                await pool.release(raw, timeout=5)
            except driver.ConnectionLost:
                pass  # it was lost in use; the pool has dropped it
            except (driver.InterfaceError, TimeoutError):
                raw.terminate()


async def create_if_missing(dsn: str, name: str) -> str:
    """Create database `name` on the server of `dsn` unless it exists; returns the DSN for it.

    Raises Unavailable when the server cannot be reached.
    """
    with translated():
        connection: Any = await driver.connect(dsn, timeout=10)
        try:
            if not await connection.fetchval("SELECT true FROM pg_database WHERE datname = $1", name):
                try:
                    await connection.execute(f"CREATE DATABASE {quote_name(name)}")
                except driver.DatabaseExists:
                    pass  # somebody else was faster
        finally:
            await connection.close(timeout=5)
    return with_database(dsn, name)


def with_database(dsn: str, name: str) -> str:
    """`dsn` with another database's name."""
    return urlunsplit(urlsplit(dsn)._replace(path="/" + quote(name, safe="")))


def quote_name(name: str) -> str:
    """`name` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


class translated:
    """Turns the driver's exceptions that leave the block into ours, with the original as the cause."""

    __slots__ = ()

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is not None and not isinstance(error, AerodromeError):
            ours = translate(error)
            if ours is not None:
                raise ours from error


class _metered(translated):
    """The same around one statement, which is timed."""

    __slots__ = ("_meter", "_query", "_started")

    def __init__(self, meter: Meter, query: str) -> None:
        self._meter = meter
        self._query = query

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._meter.ended(self._query, time.perf_counter() - self._started)
        try:
            super().__exit__(kind, error, trace)
        except AerodromeError as ours:
            self._meter.failed(ours)
            raise


def _raise_if_drivers(error: BaseException) -> None:
    """Translate what a block let out of `Connection.raw`; an OSError of the block's own work is not the database's."""
    if isinstance(error, (driver.PostgresError, driver.InterfaceError, driver.InternalClientError)):
        ours = translate(error)
        if ours is not None:
            raise ours from error


def translate(error: BaseException) -> AerodromeError | None:
    """What an exception of the driver means to a caller; None if it is not one of the driver's."""
    if isinstance(error, driver.ConnectionLost):
        return Unavailable(f"the database is not available: {_text(error)}")
    if isinstance(error, driver.PostgresError):
        return _translate_state(error, str(getattr(error, "sqlstate", "") or ""))
    if isinstance(error, driver.InterfaceError):
        if "connection is closed" in str(error) or "was closed" in str(error) or "released back" in str(error):
            return Unavailable(f"the database is not available: {_text(error)}")
        return Internal(f"failed database operation with {_text(error)}")
    if isinstance(error, driver.InternalClientError):  # cut off in the middle of something
        return Unavailable(f"the database is not available: {_text(error)}")
    if isinstance(error, TimeoutError):
        return DeadlineExceeded("the database did not answer in time")
    return None


def _translate_state(error: BaseException, state: str) -> AerodromeError:
    text = _text(error)
    if state == "23505":
        return AlreadyExists(f"value with matching already exists ({text})")
    if state == "42P01":
        return InvalidArgument(f"cannot query with specified table attributes: {text}")
    if state in _CAST_FAILURES:
        return InvalidArgument(f"failed database operation with {text}")
    if state == "57014":
        return DeadlineExceeded(f"the database cancelled the statement: {text}")
    if state in {"40001", "40P01", "55P03"}:
        return Conflict(f"the operation met another one and can be tried again: {text}")
    if state.startswith(("08", "57P")) or state == "53300":
        return Unavailable(f"the database is not available: {text}")
    return Internal(f"failed database operation with {text}")


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _is_broken(error: BaseException) -> bool:
    """Whether the driver lost track of the connection that raised this."""
    return isinstance(error, driver.InternalClientError) or isinstance(error.__cause__, driver.InternalClientError)


def _is_gone(raw: Any) -> bool:
    """Whether a connection of the pool is closed; one that was lost or terminated is the pool's again by then."""
    try:
        return bool(raw.is_closed())
    except driver.InterfaceError:
        return True


def _is_lost(error: BaseException) -> bool:
    return isinstance(error, Exception) and isinstance(translate(error), Unavailable)


def _pauses() -> Iterator[float]:
    """Seconds between attempts: quick at first, because an embedded server restarts within 100 ms."""
    pause = 0.02
    while True:
        yield pause
        pause = min(pause * 1.6, 1.0)


async def _leave_as_it_is(_: Any) -> None:
    """Save the round trip that resets a session: our blocks leave nothing behind in it."""
