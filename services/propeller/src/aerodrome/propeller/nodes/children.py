"""Child executions that nodes wait for: followed until they are over, without asking for each of them again and again.

The control plane says which children ended (`hint`), and each is then looked at.  What was not heard of is found by a
slow look, many children at a time.  Source: spec/data-plane.md, 3.5.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from flyteidl.admin import execution_pb2
from flyteidl.core import execution_pb2 as core_execution_pb2
from flyteidl.core import identifier_pb2

from aerodrome.propeller.nodes.admin_client import MOST_NAMES
from aerodrome.stdlib.clock import Clock
from aerodrome.stdlib.errors import AerodromeError, NotFound
from aerodrome.stdlib.logger import get_logger

log = get_logger(__name__)

Ended = Callable[[execution_pb2.Execution | None], Awaitable[None]]
"""Called once with a child that is over, or with None if it does not exist any more; called again if it raises."""

_PHASES = core_execution_pb2.WorkflowExecution
TERMINAL = frozenset({_PHASES.SUCCEEDED, _PHASES.FAILED, _PHASES.ABORTED, _PHASES.TIMED_OUT})
_FIRST_LOOK = 2.0
_LONGEST = 30.0
_AT_ONCE = 16
_TICK = 1.0

Key = tuple[str, str, str]


class Executions(Protocol):
    """The part of the control plane that is needed here."""

    async def get_execution(
        self, identifier: identifier_pb2.WorkflowExecutionIdentifier
    ) -> execution_pb2.Execution: ...

    async def list_executions(self, project: str, domain: str, names: list[str]) -> list[execution_pb2.Execution]: ...


@dataclass(eq=False, slots=True)
class _Child:
    id: identifier_pb2.WorkflowExecutionIdentifier
    ended: Ended
    delay: float = _FIRST_LOOK
    busy: bool = False
    again: bool = False
    """It was hinted at while it was looked at."""


class ChildWatch:
    """Follows children for all executions of a data plane; `run` has to be running."""

    def __init__(self, executions: Executions, clock: Clock) -> None:
        self._executions = executions
        self._clock = clock
        self._children: dict[Key, _Child] = {}
        self._hinted: dict[Key, None] = {}
        self._due: list[tuple[float, int, Key, _Child]] = []
        self._count = 0
        self._wake = asyncio.Event()
        self._places = asyncio.Semaphore(_AT_ONCE)

    def __len__(self) -> int:
        return len(self._children)

    def follow(self, identifier: identifier_pb2.WorkflowExecutionIdentifier, ended: Ended) -> None:
        """Call `ended` when the child is over; it need not exist before `launched` is said of it."""
        self._children[_key(identifier)] = _Child(identifier, ended)

    def launched(self, identifier: identifier_pb2.WorkflowExecutionIdentifier, *, look: bool = False) -> None:
        """The child exists; `look` at it soon, because it may be over already."""
        key = _key(identifier)
        child = self._children.get(key)
        if child is not None:
            self._later(key, child)
            if look:
                self.hint(identifier)

    def hint(self, identifier: identifier_pb2.WorkflowExecutionIdentifier) -> None:
        """The child is probably over."""
        key = _key(identifier)
        child = self._children.get(key)
        if child is None:
            return
        if child.busy:
            child.again = True
            return
        self._hinted[key] = None
        self._wake.set()

    def forget(self, identifier: identifier_pb2.WorkflowExecutionIdentifier) -> None:
        """Nobody waits for the child any more."""
        key = _key(identifier)
        self._children.pop(key, None)
        self._hinted.pop(key, None)

    async def run(self) -> None:
        """Look at what was hinted at, and at the rest now and then, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._look_now_and_then(), name="children, now and then")
            while True:
                await self._wake.wait()
                self._wake.clear()
                hinted, self._hinted = self._hinted, {}
                for key in hinted:
                    child = self._children.get(key)
                    if child is not None and not child.busy:
                        child.busy = True
                        group.create_task(self._look(key, child), name=f"look at child {key[2]}")

    # --- inside

    async def _look_now_and_then(self) -> None:
        while True:
            await self._clock.sleep(_TICK)
            await self._look_at_due()

    async def _look(self, key: Key, child: _Child) -> None:
        """See whether a child is over, and tell."""
        try:
            async with self._places:
                try:
                    found: execution_pb2.Execution | None = await self._executions.get_execution(child.id)
                except NotFound:
                    found = None
                if found is not None and found.closure.phase not in TERMINAL:
                    return
                if self._children.get(key) is child:
                    await child.ended(found)
                    if self._children.get(key) is child:
                        del self._children[key]
        except AerodromeError as error:
            log.warning("a child could not be looked at", child=key[2], error=error.message)
        except Exception:  # one child's trouble stays its own, and is tried again
            log.exception("the end of a child could not be told", child=key[2])
        finally:
            child.busy = False
            if self._children.get(key) is child:
                self._later(key, child)
                if child.again:
                    child.again = False
                    self.hint(child.id)

    async def _look_at_due(self) -> None:
        """The safety net: of the children whose turn it is, find those that are over or gone."""
        now = self._clock.boottime()
        due: dict[tuple[str, str], list[str]] = {}
        while self._due and self._due[0][0] <= now:
            _, _, key, child = heapq.heappop(self._due)
            if self._children.get(key) is child and not child.busy:
                due.setdefault(key[:2], []).append(key[2])
        for (project, domain), names in due.items():
            for first in range(0, len(names), MOST_NAMES):
                await self._look_at_some(project, domain, names[first : first + MOST_NAMES])

    async def _look_at_some(self, project: str, domain: str, names: list[str]) -> None:
        going: set[str] = set()
        try:
            for execution in await self._executions.list_executions(project, domain, names):
                if execution.closure.phase not in TERMINAL:
                    going.add(execution.id.name)
        except AerodromeError as error:
            log.warning("children could not be looked at", number=len(names), error=error.message)
            going.update(names)
        for name in names:
            child = self._children.get((project, domain, name))
            if child is None:
                continue
            child.delay = min(child.delay * 2, _LONGEST)
            if name in going:
                self._later((project, domain, name), child)
            else:
                self.hint(child.id)

    def _later(self, key: Key, child: _Child) -> None:
        self._count += 1
        heapq.heappush(self._due, (self._clock.boottime() + child.delay, self._count, key, child))


def _key(identifier: identifier_pb2.WorkflowExecutionIdentifier) -> Key:
    return identifier.project, identifier.domain, identifier.name
