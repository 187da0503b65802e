"""A store that is asked again where its trouble may pass, so that a moment's failure costs no attempt and no node.

Every operation of the port may be repeated: objects are put in place as a whole, and what is gone stays gone.  Source:
design.md, invariants I6 and I13.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import timedelta
from typing import TypeVar

from aerodrome.propeller.nodes.handler import final
from aerodrome.stdlib.clock import Clock
from aerodrome.stdlib.errors import AerodromeError
from aerodrome.stdlib.logger import get_logger
from aerodrome.stdlib.storage import Metadata, SignedUrl, Storage
from aerodrome.stdlib.telemetry import Metrics

log = get_logger(__name__)

T = TypeVar("T")

_DELAYS = (0.05, 0.2, 0.5, 1.0, 2.0)
"""Seconds between the tries: those of a call that is waited for are bounded."""

_OPERATIONS: Mapping[str, str] = {
    "read": "read_open", "write": "write", "head": "head", "delete": "delete", "delete_prefix": "delete_prefix",
    "copy": "copy", "freeze": "freeze",
}  # fmt: skip
"""What operations are called in metrics."""
_FAILURES: Mapping[str, str] = {"read": "read_failure_unrelated_to_cache"}


class PatientStorage:
    """`storage`, asked again a few times; the last error is raised, and one that is final at once.

    How long operations take that succeed, and how often they fail although they might not, is told to `metrics` by
    names that begin with `scope`.  Source of the names: spec/datacatalog-scheduler-notifier.md, D.3.
    """

    def __init__(
        self, storage: Storage, clock: Clock, metrics: Metrics | None = None, *, scope: str = "storage"
    ) -> None:
        self._storage = storage
        self._clock = clock
        counters = metrics or Metrics()
        self._took = {
            operation: counters.stopwatch(f"{scope}:{name}").labelled() for operation, name in _OPERATIONS.items()
        }
        self._failed = {
            operation: counters.counter(f"{scope}:{_FAILURES.get(operation, f'{name}_failure')}")
            for operation, name in _OPERATIONS.items()
        }

    @property
    def base(self) -> str:
        return self._storage.base

    def join(self, *parts: str) -> str:
        return self._storage.join(*parts)

    async def read(self, reference: str, *, limit_bytes: int | None = None) -> bytes:
        return await self._patiently("read", lambda: self._storage.read(reference, limit_bytes=limit_bytes))

    async def write(self, reference: str, data: bytes, *, content_type: str | None = None) -> None:
        await self._patiently("write", lambda: self._storage.write(reference, data, content_type=content_type))

    async def head(self, reference: str) -> Metadata | None:
        return await self._patiently("head", lambda: self._storage.head(reference))

    def list(self, prefix: str) -> AsyncIterator[tuple[str, Metadata]]:
        return self._storage.list(prefix)

    async def delete(self, reference: str) -> None:
        await self._patiently("delete", lambda: self._storage.delete(reference))

    async def delete_prefix(self, prefix: str) -> int:
        return await self._patiently("delete_prefix", lambda: self._storage.delete_prefix(prefix))

    async def copy(self, source: str, destination: str) -> None:
        await self._patiently("copy", lambda: self._storage.copy(source, destination))

    async def freeze(self, prefix: str) -> None:
        await self._patiently("freeze", lambda: self._storage.freeze(prefix))

    async def sign_upload(
        self,
        reference: str,
        *,
        expires_in: timedelta,
        content_md5: bytes | None = None,
        add_md5_metadata: bool = False,
        content_length: int | None = None,
    ) -> SignedUrl:
        return await self._storage.sign_upload(
            reference,
            expires_in=expires_in,
            content_md5=content_md5,
            add_md5_metadata=add_md5_metadata,
            content_length=content_length,
        )

    async def sign_download(self, reference: str, *, expires_in: timedelta) -> SignedUrl:
        return await self._storage.sign_download(reference, expires_in=expires_in)

    async def _patiently(self, operation: str, call: Callable[[], Awaitable[T]]) -> T:
        for delay in _DELAYS:
            try:
                return await self._once(operation, call)
            except AerodromeError as error:
                if final(error):
                    raise
                log.warning("storage failed, trying again", reason=error.message, seconds=delay)
            await self._clock.sleep(delay)
        return await self._once(operation, call)

    async def _once(self, operation: str, call: Callable[[], Awaitable[T]]) -> T:
        began = time.perf_counter()
        try:
            answer = await call()
        except AerodromeError as error:
            if not final(error):
                self._failed[operation].add()
            raise
        self._took[operation].observe(time.perf_counter() - began)
        return answer
