"""Attempts that run in services elsewhere: create a job, follow it, end it.

What identifies a job is stored before anything else is done, beside the node's inputs, so that another process finds
it after a crash and goes on.  An abort that comes while a job is being created waits for that, so that no job is left.
Source: spec/data-plane.md, 5.4 and 5.12.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from aerodrome.plugins.api import (
    ErrorKind,
    Failure,
    Outcome,
    Phase,
    PhaseInfo,
    PluginError,
    RemotePlugin,
    TaskContext,
    advance,
    failed,
    task_event_phase,
)
from aerodrome.plugins.status import deleted_externally
from aerodrome.propeller.engine.phases import TaskPhase
from aerodrome.propeller.engine.state import NodeState
from aerodrome.propeller.nodes.handler import Observation, Run
from aerodrome.stdlib.clock import Clock
from aerodrome.stdlib.errors import AerodromeError, NotFound
from aerodrome.stdlib.logger import get_logger

log = get_logger(__name__)

Conclude = Callable[[Outcome], Awaitable[Observation]]
"""What an attempt came to that is over."""

FIRST_WAIT: Final = 0.2
"""Seconds until a job is looked at again, at first; it grows to `LONGEST_WAIT`."""
LONGEST_WAIT: Final = 10.0
PATIENCE: Final = 150.0
"""Seconds for which the state of a job may be impossible to read before the attempt is given up."""
_DELETE_TRIES: Final = 6
_CREATING: Final = "creating"
"""Key of a node's memo: the creation under way."""


class RemoteAttempts:
    """Drives the attempts of remote plugins."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def follow(
        self,
        run: Run,
        node: NodeState,
        attempt: int,
        plugin: RemotePlugin,
        context: TaskContext,
        conclude: Conclude,
    ) -> None:
        """Create the attempt's job, or find it, and post what becomes of it.  Raises PluginError, storage errors."""
        resource = await self._known(run, node, attempt)
        if resource is None:
            if node.task_phase is TaskPhase.RUNNING:  # it was there, as the journal says, and is not to be made anew
                run.post(await conclude(Outcome(deleted_externally(context.generated_name))))
                return
            creating = asyncio.ensure_future(self._create(run, node, attempt, plugin, context))
            node.memo[_CREATING] = creating
            resource = await asyncio.shield(creating)
        last: PhaseInfo | None = None
        wait, since = FIRST_WAIT, self._clock.boottime()
        while True:
            try:
                outcome = await plugin.get(context, resource)
                since = self._clock.boottime()
            except PluginError:
                raise
            except AerodromeError as error:
                if self._clock.boottime() - since > PATIENCE:
                    await self._give_up(context, plugin, resource)
                    run.post(await conclude(Outcome(_unreadable(error))))
                    return
                log.warning("the state of a job cannot be read", job=context.generated_name, reason=error.message)
            else:
                info = advance(last, outcome.info)
                if info is not None:
                    last = info
                    if info.phase.terminal:
                        run.post(await conclude(Outcome(info, outcome.outputs)))
                        return
                    _report(run, node, attempt, info)
            await self._clock.sleep(wait)
            wait = min(wait * 1.5, LONGEST_WAIT)

    async def end(self, run: Run, node: NodeState, attempt: int, plugin: RemotePlugin, context: TaskContext) -> None:
        """End the attempt's job, if it has one.  After some tries it is left alone, and that is logged."""
        creating: asyncio.Task[bytes] | None = node.memo.pop(_CREATING, None)
        if creating is not None:
            await asyncio.wait([creating])
            if creating.exception() is not None:
                log.info("a job that was to be ended was never made", job=context.generated_name)
        resource = await self._known(run, node, attempt)
        if resource is not None:
            await self._give_up(context, plugin, resource)

    async def _create(
        self, run: Run, node: NodeState, attempt: int, plugin: RemotePlugin, context: TaskContext
    ) -> bytes:
        resource = await plugin.create(context)
        await run.literals.storage.write(_place(run, node, attempt), resource)
        return resource

    async def _known(self, run: Run, node: NodeState, attempt: int) -> bytes | None:
        try:
            return await run.literals.storage.read(_place(run, node, attempt), limit_bytes=0)
        except NotFound:
            return None

    async def _give_up(self, context: TaskContext, plugin: RemotePlugin, resource: bytes) -> None:
        wait = FIRST_WAIT
        for tries in range(_DELETE_TRIES):
            try:
                await plugin.delete(context, resource)
                return
            except AerodromeError as error:
                log.warning("a job cannot be ended", job=context.generated_name, tries=tries, reason=error.message)
            await self._clock.sleep(wait)
            wait *= 2
        log.error("a job may still run elsewhere", job=context.generated_name, plugin=plugin.id)


def _place(run: Run, node: NodeState, attempt: int) -> str:
    return f"{run.layout.output_dir(node, attempt)}-job"


def _report(run: Run, node: NodeState, attempt: int, info: PhaseInfo) -> None:
    phase = TaskPhase(task_event_phase(info.phase))
    if info.phase is not Phase.NOT_READY:
        run.post(lambda engine, now: engine.task_phase(node, attempt, phase, info.version, now, info))


def _unreadable(error: AerodromeError) -> PhaseInfo:
    message = f"the state of the job could not be read for {PATIENCE:g} s: {error.message}"
    return failed(Failure("AutoRefreshCacheFailed", message, ErrorKind.SYSTEM, retryable=False))
