"""A control plane with something of everything in it, served over gRPC and HTTP, and calls of its clients as bytes.

It runs on a loop in a thread of its own: a call that blocks the loop is seen, as one that takes too long.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import grpc
import yarl
from aiohttp import web
from flyteidl.service import admin_pb2, dataproxy_pb2, signal_pb2
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message

from aerodrome.admin import gateway
from aerodrome.admin.config import AdminConfig
from aerodrome.admin.main import Admin
from aerodrome.idl.items.v1 import items_pb2
from aerodrome.idl.journal.v1 import journal_pb2
from aerodrome.idl.retention.v1 import retention_pb2
from aerodrome.stdlib import http
from aerodrome.stdlib.clock import ManualClock
from aerodrome.stdlib.postgres.database import Database
from aerodrome.stdlib.postgres.testing import ServerForTests, fresh_database
from aerodrome.stdlib.rpc.server import RpcServer
from aerodrome.stdlib.storage import LocalSigner
from aerodrome.stdlib.storage.local import LocalStorage

from .good import ATTRIBUTED, DISPOSABLE, DONE, Good

SERVICES: Sequence[ServiceDescriptor] = (
    admin_pb2.DESCRIPTOR.services_by_name["AdminService"],
    dataproxy_pb2.DESCRIPTOR.services_by_name["DataProxyService"],
    signal_pb2.DESCRIPTOR.services_by_name["SignalService"],
    journal_pb2.DESCRIPTOR.services_by_name["JournalService"],
    retention_pb2.DESCRIPTOR.services_by_name["RetentionService"],
    items_pb2.DESCRIPTOR.services_by_name["ItemService"],
)
RPCS: Mapping[str, MethodDescriptor] = {method.name: method for service in SERVICES for method in service.methods}
PATIENCE_SECONDS = 30.0
"""How long a call may take; far more than any needs, also where many tests share the machine."""
GLANCE_SECONDS = 0.05
"""How long a stream that was not refused is watched."""
MAX_MESSAGE_BYTES = 64 * 2**20

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer:
    """How a call ended."""

    code: grpc.StatusCode
    text: str
    body: bytes = b""
    trailer_bytes: int = 0


class World:
    """What tests speak to; every method may be called from the test's thread."""

    def __init__(self) -> None:
        self.good = Good()
        self.database: Database
        self.channel: grpc.aio.Channel
        self.session: aiohttp.ClientSession
        self.url = ""
        self.services: Sequence[str] = ()
        """Full names of the services that are served."""
        self.slowest_seconds = 0.0
        """How long the longest call took."""
        self.directory = Path()
        self._loop: asyncio.AbstractEventLoop
        self._fingerprint: tuple[Any, ...] | None = None
        self._snapshot: tuple[Any, ...] | None = None
        """What was stored when it was last looked at, if nothing was called since."""
        self._background: asyncio.Task[None]
        self._tables: list[str] = []
        self._spent: set[str] = set()

    def call(self, rpc: str, data: bytes) -> Answer:
        """Call an rpc by its name, with these bytes as request."""
        began = time.monotonic()
        answer = self._run(self._call(rpc, data))
        self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - began)
        self._note(rpc, answer)
        return answer

    def requests(self, rpc: str) -> Sequence[Message]:
        """Good requests of an rpc; what they speak of is there."""
        self._run(self._renew())
        return self.good.requests(rpc)

    def send(
        self, verb: str, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes, Mapping[str, str]]:
        """Status, body and headers of the answer to a request over HTTP; `target` goes out as it is written."""
        status, answer, sent = self._run(self._send(verb, target, body, headers or {}))
        if (status == 200 and verb == "DELETE") or b'"code":9' in answer or answer.startswith(b"\x08\x09"):
            self._spent.add("outside")
        return status, answer, sent

    def stored(self) -> tuple[Any, ...]:
        """All that is in the tables and in the store, in a form that can be compared."""
        if self._snapshot is None:
            self._snapshot = self._run(self._stored())
        return self._snapshot

    def check_alive(self) -> None:
        """The parts in the background still work."""
        assert not self._background.done(), self._background

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(PATIENCE_SECONDS + 10)
        except TimeoutError:
            future.cancel()
            raise AssertionError("the loop was blocked") from None

    async def _call(self, rpc: str, data: bytes) -> Answer:
        self._snapshot = None
        method = RPCS[rpc]
        channel: Any = self.channel
        path = f"/{method.containing_service.full_name}/{rpc}"
        try:
            if method.server_streaming:
                stream: Any = channel.unary_stream(path)(data, timeout=PATIENCE_SECONDS)
                try:
                    async with asyncio.timeout(GLANCE_SECONDS):
                        body = await stream.read()
                except TimeoutError:
                    stream.cancel()
                    return Answer(grpc.StatusCode.OK, "")
                if isinstance(body, bytes):
                    stream.cancel()
                return Answer(grpc.StatusCode.OK, "", body if isinstance(body, bytes) else b"")
            body = await channel.unary_unary(path)(data, timeout=PATIENCE_SECONDS)
        except grpc.aio.AioRpcError as error:
            trailer = sum(len(key) + len(value) for key, value in error.trailing_metadata() or ())
            return Answer(error.code(), error.details() or "", b"", trailer)
        return Answer(grpc.StatusCode.OK, "", body)

    async def ask(self, rpc: str, request: Message) -> Any:
        """A good call, from within."""
        answer = await self._call(rpc, request.SerializeToString())
        assert answer.code is grpc.StatusCode.OK, (rpc, answer, request)
        return message_factory.GetMessageClass(RPCS[rpc].output_type).FromString(answer.body)

    async def _send(
        self, verb: str, target: str, body: bytes, headers: Mapping[str, str]
    ) -> tuple[int, bytes, Mapping[str, str]]:
        self._snapshot = None
        async with self.session.request(
            verb,
            yarl.URL(self.url + target, encoded=True),
            data=body,
            headers=headers,
            skip_auto_headers=("Content-Type",),
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=PATIENCE_SECONDS),
        ) as response:
            return response.status, await response.read(), dict(response.headers)

    async def _stored(self) -> tuple[Any, ...]:
        """Read anew only if a transaction has written since it was read last."""
        written = await self.database.fetchval("SELECT pg_snapshot_xmax(pg_current_snapshot())::text")
        if self._fingerprint is None or self._fingerprint[0] != written:
            rows = await self.database.fetch(
                " UNION ALL ".join(
                    f"SELECT '{table}', count(*), sum(hashtextextended(t::text, 0)::numeric) FROM {table} t"
                    for table in self._tables
                )
            )
            self._fingerprint = (written, [tuple(row) for row in rows])
        files = sorted(
            os.path.join(directory, name) for directory, _, names in os.walk(self.directory) for name in names
        )
        return (self._fingerprint[1], files)

    # making it

    async def live(self, server: ServerForTests, ready: Future[None], ended: asyncio.Event) -> None:
        async with AsyncExitStack() as stack:
            self._loop = asyncio.get_running_loop()
            await stack.enter_async_context(self._serving(server))
            await self._populate()
            ready.set_result(None)
            await ended.wait()

    @asynccontextmanager
    async def _serving(self, server: ServerForTests) -> AsyncIterator[None]:
        config = AdminConfig.model_validate({"flyte": {"admin": {"seed_projects": ["flytesnacks"]}}})
        clock = ManualClock()
        signer = LocalSigner(b"0123456789abcdef", lambda: self.url, clock)
        async with AsyncExitStack() as stack:
            database = fresh_database(server, "aerodrome.admin.migrations", service="admin")
            self.database = await stack.enter_async_context(database)
            storage = await stack.enter_async_context(LocalStorage(str(self.directory), signer=signer))
            self.good.store = storage.base
            admin = Admin(
                config,
                database=self.database,
                storage=storage,
                clock=clock,
                public_url=lambda: self.url,
                publish=_never,  # what is in the outbox stays there
            )
            await admin.prepare()
            rpcs = RpcServer(max_message_bytes=MAX_MESSAGE_BYTES)
            for add_to_server, servicer in admin.services():
                rpcs.add(add_to_server, servicer)
            self.services = rpcs.registry.services
            await stack.enter_async_context(rpcs)
            app = web.Application(middlewares=http.middlewares(), client_max_size=MAX_MESSAGE_BYTES)
            app.add_routes(gateway.routes(rpcs.registry))
            port = await stack.enter_async_context(http.listen(app, "127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{port}"
            unlimited = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))
            self.channel = await stack.enter_async_context(grpc.aio.insecure_channel(rpcs.address, options=unlimited))
            self.session = await stack.enter_async_context(aiohttp.ClientSession())
            self._background = asyncio.create_task(admin.run())
            try:
                yield
            finally:
                self._background.cancel()
                await asyncio.wait({self._background})

    async def _populate(self) -> None:
        good, ask = self.good, self.ask
        tables = await self.database.fetch(
            "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition "
            "AND relnamespace = 'public'::regnamespace ORDER BY relname"
        )
        self._tables = [row["relname"] for row in tables]
        (self.directory / "file").write_bytes(b"content")
        await ask("CreateTask", good.task("t"))
        await ask("CreateWorkflow", good.workflow("w"))
        await ask("CreateLaunchPlan", good.launch_plan("lp"))
        active = good.launch_plan("active")
        await ask("CreateLaunchPlan", active)
        update = good.requests("UpdateLaunchPlan")[0]
        update.id.CopyFrom(active.id)  # type: ignore[attr-defined]
        await ask("UpdateLaunchPlan", update)
        spare = good.requests("RegisterProject")[0]
        spare.project.id = "spare"  # type: ignore[attr-defined]
        await ask("RegisterProject", spare)
        spare.project.id = ATTRIBUTED  # type: ignore[attr-defined]
        await ask("RegisterProject", spare)
        await self._set_attributes()
        await self._finish_one()
        await self._begin_one()
        await self._hold_one()

    async def _set_attributes(self) -> None:
        """Attributes of one kind at each level; nothing is launched in that project."""
        for rpc in ("UpdateProjectAttributes", "UpdateProjectDomainAttributes", "UpdateWorkflowAttributes"):
            await self.ask(rpc, self.good.requests(rpc)[0])

    async def _finish_one(self) -> None:
        """Run an execution as an outside engine does, with all that one may have."""
        good = self.good
        await self.ask("CreateExecution", good.execution(DONE))
        outputs = {"literals": {"o": {"scalar": {"primitive": {"integer": 1}}}}}
        finished = good.finished_node(DONE, "n0")
        finished.deck_uri = f"{good.store}/file"
        for event in (
            good.workflow_event(DONE),
            good.node_event(DONE),
            good.task_event(DONE),
            good.task_event(DONE, phase="SUCCEEDED", outputData=outputs),
            finished,
            good.dynamic_node(DONE, "dynamic"),
            good.workflow_event(DONE, "SUCCEEDED", outputData=outputs),
        ):
            await self._report(event)
        await self.ask("CreateExecution", good.execution(DISPOSABLE))
        for phase in ("RUNNING", "SUCCEEDED"):
            await self._report(good.workflow_event(DISPOSABLE, phase))
        await self.ask(
            "SetPolicy", retention_pb2.SetPolicyRequest(policy=retention_pb2.Policy(keep_executions_days=30_000))
        )

    async def _begin_one(self) -> None:
        """An execution that an outside engine has begun."""
        good = self.good
        good.outside = good.fresh("outside")
        await self.ask("CreateExecution", good.execution(good.outside))
        for event in (good.workflow_event(), good.node_event(), good.task_event()):
            await self._report(event)

    async def _report(self, event: Message) -> None:
        kind = type(event).__name__.removesuffix("ExecutionEvent")
        request = message_factory.GetMessageClass(RPCS[f"Create{kind}Event"].input_type)()
        request.event.CopyFrom(event)  # type: ignore[attr-defined]
        await self.ask(f"Create{kind}Event", request)

    async def _hold_one(self) -> None:
        """An execution that a session holds, and a session without any."""
        good, ask = self.good, self.ask
        cluster = good.fresh("cluster")
        good.held = good.fresh("held")
        good.session_id = (await ask("OpenSession", journal_pb2.OpenSessionRequest(cluster=cluster))).session_id
        await ask("CreateExecution", good.execution(good.held))
        await self.database.execute(
            "UPDATE leases SET cluster = $1 WHERE execution_id = "
            "(SELECT execution_id FROM executions WHERE execution_name = $2)",
            cluster,
            good.held,
        )
        leased = await ask("Lease", journal_pb2.LeaseRequest(session_id=good.session_id, capacity=1))
        good.execution_id, good.epoch = leased.assignment.execution_id, leased.assignment.epoch
        good.next_sequence = leased.assignment.last_sequence + 1
        await ask("GetOrCreateSignal", good.requests("GetOrCreateSignal")[0])
        good.other_session_id = (await ask("OpenSession", journal_pb2.OpenSessionRequest(cluster="other"))).session_id

    def _note(self, rpc: str, answer: Answer) -> None:
        """Remember what cannot be spoken of any more after a call, and what the next append begins with."""
        if rpc == "Append" and answer.code is grpc.StatusCode.OK:
            for result in journal_pb2.AppendResponse.FromString(answer.body).executions:
                if result.execution_id == self.good.execution_id:
                    self.good.next_sequence = result.last_sequence + 1
                    if result.status == journal_pb2.APPEND_STATUS_STALE:
                        self._spent.add("held")
        elif answer.code is grpc.StatusCode.OK and rpc.startswith("Delete") and rpc.endswith("Attributes"):
            self._spent.add("attributes")
        elif answer.code is grpc.StatusCode.OK and rpc in ("CloseSession", "Lease", "Release", "HandOver"):
            self._spent.add("held")
        elif answer.code is grpc.StatusCode.FAILED_PRECONDITION or (
            answer.code is grpc.StatusCode.OK and rpc in ("CreateWorkflowEvent", "TerminateExecution")
        ):
            self._spent.add("outside")

    async def _renew(self) -> None:
        spent, self._spent = self._spent, set()
        if "held" in spent:
            await self._hold_one()
        if "outside" in spent:
            await self._begin_one()
        if "attributes" in spent:
            await self._set_attributes()


async def _never(message: object) -> None:
    await asyncio.Event().wait()


@contextmanager
def world(server: ServerForTests, directory: Path) -> Iterator[World]:
    """A control plane of one's own."""
    made = World()
    made.directory = directory
    directory.mkdir(exist_ok=True)
    ready: Future[None] = Future()
    ended = asyncio.Event()

    def run() -> None:
        try:
            asyncio.run(made.live(server, ready, ended))
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)

    thread = threading.Thread(target=run, name="world")
    thread.start()
    try:
        ready.result(120)
        yield made
    finally:
        if not ready.done() or ready.exception() is None:
            made._loop.call_soon_threadsafe(ended.set)
        thread.join(60)
