"""What nodes launched: whoever drives a node hears that its child is over, and no child outlives its parent.

Hearing of it is a hint, sent once and not journalled: the holder looks at the child before it believes so, and looks
now and then without being told.  A child that goes on although its parent is over is aborted here, whatever became of
the engine that should have done so: by force, by crash, or by a launch that raced with the abort.  Source: design.md,
invariants I1 and I7; spec/data-plane.md section 3.5.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from flyteidl.core.identifier_pb2 import WorkflowExecutionIdentifier

from aerodrome.admin.domain.phases import WORKFLOW_NAMES, WORKFLOW_TERMINAL
from aerodrome.admin.domain.validation import check_execution_id, check_text, not_found
from aerodrome.admin.managers.journal import JournalWriter
from aerodrome.admin.managers.recording import Told
from aerodrome.admin.repositories.children import ChildRepository
from aerodrome.idl.journal.v1.journal_pb2 import Control, RecalledNode, RecallRequest, RecallResponse
from aerodrome.stdlib.clock import Clock
from aerodrome.stdlib.errors import AerodromeError, FailedPrecondition, InvalidArgument, NotFound
from aerodrome.stdlib.logger import get_logger
from aerodrome.stdlib.postgres.database import Database
from aerodrome.stdlib.postgres.notify import Announcer, Listener

log = get_logger(__name__)

CHILDREN_CHANNEL = "aerodrome_children"
"""Payload: an execution that is over, whose parent is driven by a session of another replica."""
MOST_RECALLED = 2_000
"""Nodes on one page of `recall`."""
_PAGE_BYTES = 16 << 20
_BATCH = 1_000
_SWEEP_SECONDS = 30.0
_RETRY_SECONDS = 1.0
_ENDED = sorted(WORKFLOW_NAMES[phase] for phase in WORKFLOW_TERMINAL)
_OVER = sorted({*_ENDED, "ABORTING"})
"""Phases in which a child needs no abort."""


class ChildManager:
    """Tells of ended children and ends orphans; `run` does both.

    `push` hands a hint to the stream of a session of this process, and says whether there is one.
    """

    def __init__(
        self,
        database: Database,
        journal: JournalWriter,
        clock: Clock,
        *,
        push: Callable[[int, Control], bool],
        announcer: Announcer | None = None,
        listener: Listener | None = None,
    ) -> None:
        self._database = database
        self._journal = journal
        self._clock = clock
        self._push = push
        self._announcer = announcer
        self._listener = listener
        self._ended: dict[int, None] = {}
        """Executions that ended in this process and were not looked at yet."""
        self._heard: dict[int, None] = {}
        """Children of which another replica told."""
        self._wake = asyncio.Event()

    def told(self, told: Told) -> None:
        """Note what a journal group ended; subscribe this to the journal."""
        if told.ended:
            self._ended.update((execution_id, None) for execution_id, _ in told.ended)
            self._wake.set()

    async def run(self) -> None:
        """Tell and tidy up until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._work(), name="ended executions")
            group.create_task(self._sweep(), name="orphans")
            if self._listener is not None:
                group.create_task(self._hear(self._listener), name="hear of children")

    async def recall(self, request: RecallRequest) -> RecallResponse:
        """A page of the nodes of an earlier execution.  Raises InvalidArgument, NotFound."""
        identifier = WorkflowExecutionIdentifier(project=request.project, domain=request.domain, name=request.name)
        check_execution_id(identifier)
        check_text("token", request.token)
        if request.limit > MOST_RECALLED:
            raise InvalidArgument(f"limit is {request.limit}, at most {MOST_RECALLED} nodes fit on a page")
        limit = request.limit or MOST_RECALLED
        async with self._database.connection() as connection:
            rows = ChildRepository(connection)
            execution_id = await rows.find_execution(identifier)
            if execution_id is None:
                raise not_found("execution", identifier)
            nodes = await rows.recall(execution_id, request.token, limit)
        page = list(_fitting(nodes))
        more = len(page) < len(nodes) or len(nodes) == limit
        return RecallResponse(nodes=page, next_token=page[-1].node_id if more else "")

    async def tell(self, ended: Sequence[int], heard: Sequence[int] = ()) -> None:
        """Tell the parents' holders of executions that are over: those that ended here, and those heard of."""
        async with self._database.connection() as connection:
            holders = await ChildRepository(connection).holders([*ended, *heard])
        here = set(ended)
        for child, session_id, hint in holders:
            if not self._push(session_id, hint) and child in here and self._announcer is not None:
                self._announcer.announce(CHILDREN_CHANNEL, str(child))

    async def end_orphans(self, parents: Sequence[int]) -> None:
        """Abort what goes on although one of `parents` launched it and is over."""
        async with self._database.connection() as connection:
            orphans = await ChildRepository(connection).orphans_of(parents, _ENDED, _OVER)
        for orphan in orphans:
            cause = f"aborted because the execution that launched it is over: {orphan.parent}"
            try:
                await self._journal.request_abort(orphan.id, cause, "")
            except (FailedPrecondition, NotFound):
                continue  # it has ended by itself
            log.info("orphan aborted", execution=orphan.id.name, parent=orphan.parent)

    async def sweep(self) -> None:
        """Abort every orphan that an engine has still to do with."""
        async with self._database.connection() as connection:
            parents = await ChildRepository(connection).parents_of_open(_ENDED)
        for first in range(0, len(parents), _BATCH):
            await self.end_orphans(parents[first : first + _BATCH])

    # --- inside

    async def _work(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            ended, heard = _take(self._ended), _take(self._heard)
            if ended or heard:
                try:
                    await self.tell(ended, heard)
                    await self.end_orphans(ended)
                except AerodromeError as error:
                    log.warning("parents could not be told", number=len(ended) + len(heard), error=error.message)
                    self._ended.update(dict.fromkeys(ended))
                    self._heard.update(dict.fromkeys(heard))
                    await self._clock.sleep(_RETRY_SECONDS)
            if self._ended or self._heard:
                self._wake.set()

    async def _sweep(self) -> None:
        while True:
            try:
                await self.sweep()
            except AerodromeError as error:
                log.warning("orphans could not be looked for", error=error.message)
            await self._clock.sleep(_SWEEP_SECONDS)

    async def _hear(self, listener: Listener) -> None:
        async with listener.subscribe(CHILDREN_CHANNEL) as payloads:
            async for payload in payloads:
                if payload.isdigit():
                    self._heard[int(payload)] = None
                    self._wake.set()


def _take(waiting: dict[int, None]) -> list[int]:
    taken = list(waiting)[:_BATCH]
    for each in taken:
        del waiting[each]
    return taken


def _fitting(nodes: Sequence[RecalledNode]) -> Sequence[RecalledNode]:
    """As many of the nodes as fit into a message, and at least one."""
    size = 0
    for number, node in enumerate(nodes):
        size += node.ByteSize()
        if size > _PAGE_BYTES and number:
            return nodes[:number]
    return nodes
