"""Pods of executions that are over: ended while nobody here drove them, by force or by somebody's hand.

Nothing may be left of an execution that has ended (design.md, invariant I7), and its lease is handed out to nobody any
more; so what this cluster still runs is compared now and then with what the control plane says of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Protocol

from flyteidl.admin import execution_pb2
from flyteidl.core import identifier_pb2

from aerodrome.propeller.nodes.children import TERMINAL
from aerodrome.propeller.pods import PodHub
from aerodrome.stdlib.clock import Clock
from aerodrome.stdlib.errors import AerodromeError
from aerodrome.stdlib.logger import get_logger

log = get_logger(__name__)

_SOON_SECONDS = 2.0
"""After the start, and after an execution was dropped: then most are left."""
_EVERY_SECONDS = 60.0
Key = tuple[str, str, str]


class Executions(Protocol):
    """The part of the control plane that is needed here."""

    async def get_execution(
        self, identifier: identifier_pb2.WorkflowExecutionIdentifier
    ) -> execution_pb2.Execution: ...


class Leftovers:
    """Ends pods whose execution is over; `driven` names the executions that are driven here, and so looked after."""

    def __init__(
        self, hub: PodHub, executions: Executions, clock: Clock, driven: Callable[[], Collection[Key]]
    ) -> None:
        self._hub = hub
        self._executions = executions
        self._clock = clock
        self._driven = driven
        self._hinted = asyncio.Event()

    def hint(self) -> None:
        """An execution was dropped: if what was said last of it was its end, nobody will drive it again."""
        self._hinted.set()

    async def run(self) -> None:
        """Look soon, and then now and then until cancelled."""
        delay = _SOON_SECONDS
        while True:
            await self._pause(delay)
            delay = _EVERY_SECONDS
            try:
                await self.tick()
            except AerodromeError as error:
                log.warning("leftovers could not be looked for", error=error.message)

    async def _pause(self, seconds: float) -> None:
        """Wait so long, or until soon after a hint."""
        waits = [asyncio.ensure_future(self._clock.sleep(seconds)), asyncio.ensure_future(self._hinted.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self._hinted.is_set():
            self._hinted.clear()
            await self._clock.sleep(_SOON_SECONDS)

    async def tick(self) -> int:
        """End what is left over; how many pods that were.  What the control plane does not know is left alone."""
        driven, pods = self._driven(), dict[Key, list[tuple[str, str]]]()
        for pod in await self._hub.runtime.list():
            metadata = pod["metadata"]
            labels = metadata.get("labels", {})
            key = (labels.get("project", ""), labels.get("domain", ""), labels.get("execution-id", ""))
            if all(key) and key not in driven:
                pods.setdefault(key, []).append((metadata.get("namespace", ""), metadata["name"]))
        ended = 0
        for key, names in pods.items():
            identifier = identifier_pb2.WorkflowExecutionIdentifier(project=key[0], domain=key[1], name=key[2])
            try:
                execution = await self._executions.get_execution(identifier)
            except AerodromeError as error:
                log.debug("nothing is known of an execution with pods", execution=key[2], error=error.message)
                continue
            if execution.closure.phase not in TERMINAL or key in self._driven():
                continue
            for namespace, name in names:
                await self._end(key, namespace, name)
                ended += 1
        return ended

    async def clear(self, key: Key) -> None:
        """End what is left of an execution that is known to be over, of which an earlier holder drove a part."""
        project, domain, name = key
        for pod in await self._hub.runtime.list({"execution-id": name}):
            metadata = pod["metadata"]
            labels = metadata.get("labels", {})
            if (labels.get("project"), labels.get("domain")) == (project, domain):
                await self._end(key, metadata.get("namespace", ""), metadata["name"])

    async def _end(self, key: Key, namespace: str, name: str) -> None:
        self._hub.forget(namespace, name)
        await self._hub.runtime.delete(namespace, name)
        log.info("pod of an ended execution deleted", pod=name, execution=key[2])
