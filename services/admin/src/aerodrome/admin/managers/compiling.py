"""Compiles workflows: small ones here, large ones in processes of their own so that the service goes on answering."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from datetime import timedelta
from typing import ParamSpec, TypeVar

from flyteidl.admin.workflow_pb2 import WorkflowSpec
from flyteidl.core.compiler_pb2 import CompiledTask
from google.protobuf.timestamp_pb2 import Timestamp

from aerodrome.admin.domain import compilation
from aerodrome.admin.domain.compilation import Compiled, Needs
from aerodrome.compiler import Key, LaunchPlanInterface
from aerodrome.stdlib.errors import Internal

P = ParamSpec("P")
T = TypeVar("T")


class Compiler:
    """Where workflows are compiled; `close` ends the processes, which are started when first needed.

    `inline_bytes` is the size of a specification up to which it is compiled in this process.  The processes end when
    nothing was compiled for `idle`, and with them the memory that large workflows took.
    """

    def __init__(self, *, inline_bytes: int, workers: int, idle: timedelta = timedelta(seconds=20)) -> None:
        self._inline_bytes = inline_bytes
        self._workers = workers
        self._idle_seconds = idle.total_seconds()
        self._pool: ProcessPoolExecutor | None = None
        self._running = 0
        self._timer: asyncio.TimerHandle | None = None

    async def needs_of(self, spec: WorkflowSpec) -> Needs:
        """What the workflow refers to.  Raises InvalidArgument with the compiler's errors."""
        if self._is_small(spec):
            return compilation.needs_of(spec)
        return await self._away(compilation.needs_of_bytes, spec.SerializeToString())

    async def compile(
        self,
        spec: WorkflowSpec,
        tasks: Sequence[CompiledTask],
        launch_plans: Mapping[Key, LaunchPlanInterface],
        created_at: Timestamp,
    ) -> Compiled:
        """The closure of the workflow.  Raises InvalidArgument with the compiler's errors."""
        if self._is_small(spec):
            return compilation.compiled(spec, tasks, launch_plans, created_at)
        return await self._away(
            compilation.compiled_bytes,
            spec.SerializeToString(),
            [task.SerializeToString() for task in tasks],
            {
                key: (each.expected_inputs.SerializeToString(), each.expected_outputs.SerializeToString())
                for key, each in launch_plans.items()
            },
            created_at.SerializeToString(),
        )

    async def diff(self, old: bytes, new: bytes) -> str:
        """How two serialized workflow closures differ, for people."""
        if len(old) + len(new) <= self._inline_bytes:
            return compilation.closure_diff(old, new)
        return await self._away(compilation.closure_diff, old, new)

    async def close(self) -> None:
        """End the processes; what they still compute is given up."""
        if self._timer is not None:
            self._timer.cancel()
        pool, self._pool = self._pool, None
        if pool is not None:
            await asyncio.to_thread(pool.shutdown, wait=True, cancel_futures=True)

    def _is_small(self, spec: WorkflowSpec) -> bool:
        return spec.ByteSize() <= self._inline_bytes

    async def _away(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        assert not kwargs
        if self._pool is None:
            self._pool = ProcessPoolExecutor(self._workers, mp_context=multiprocessing.get_context("spawn"))
        pool = self._pool
        self._running += 1
        if self._timer is not None:
            self._timer.cancel()
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, function, *args)
        except BrokenProcessPool as error:
            if self._pool is pool:
                self._pool = None
            pool.shutdown(wait=False)
            raise Internal(
                "the process that compiled the workflow ended before it was done, perhaps for lack of memory; "
                "register it again"
            ) from error
        finally:
            self._running -= 1
            if self._running == 0:
                self._timer = asyncio.get_running_loop().call_later(self._idle_seconds, self._end_idle)

    def _end_idle(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False)
