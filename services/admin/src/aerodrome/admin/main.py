"""The control plane, put together: the one file that knows all of its parts.

`Admin` is the service without a door: whoever composes it serves `services()` and keeps `run()` running.  `serve` is
the stand-alone process with a gRPC server of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

from flyteidl.service.admin_pb2_grpc import add_AdminServiceServicer_to_server
from flyteidl.service.dataproxy_pb2_grpc import add_DataProxyServiceServicer_to_server
from flyteidl.service.signal_pb2_grpc import add_SignalServiceServicer_to_server

from aerodrome.admin.config import AdminConfig
from aerodrome.admin.managers.announcing import NOBODY, Announcements, Outside
from aerodrome.admin.managers.attributes import AttributeManager
from aerodrome.admin.managers.children import ChildManager
from aerodrome.admin.managers.compiling import Compiler
from aerodrome.admin.managers.concurrency import ConcurrencyManager
from aerodrome.admin.managers.counting import JournalCounters, Sizes, counting_failures
from aerodrome.admin.managers.data import DataManager
from aerodrome.admin.managers.dataproxy import DataProxyManager
from aerodrome.admin.managers.executions import ExecutionManager
from aerodrome.admin.managers.gauges import GaugeKeeper
from aerodrome.admin.managers.items import ItemManager
from aerodrome.admin.managers.journal import JournalWriter
from aerodrome.admin.managers.launch_plans import LaunchPlanManager
from aerodrome.admin.managers.leases import LeaseManager, WorkAnnouncer
from aerodrome.admin.managers.metrics import MetricsManager
from aerodrome.admin.managers.named_entities import NamedEntityManager
from aerodrome.admin.managers.partitions import PartitionKeeper
from aerodrome.admin.managers.projects import ProjectManager
from aerodrome.admin.managers.reading import ReadingManager
from aerodrome.admin.managers.retention import Catalog, RetentionManager
from aerodrome.admin.managers.sessions import SessionManager
from aerodrome.admin.managers.signals import SignalManager
from aerodrome.admin.managers.tasks import TaskManager
from aerodrome.admin.managers.workflows import WorkflowManager
from aerodrome.admin.rpc.admin import AdminRpcs, Managers
from aerodrome.admin.rpc.dataproxy import DataProxyRpcs
from aerodrome.admin.rpc.items import ItemRpcs
from aerodrome.admin.rpc.journal import JournalRpcs
from aerodrome.admin.rpc.limits import limit
from aerodrome.admin.rpc.measuring import measure
from aerodrome.admin.rpc.retention import RetentionRpcs
from aerodrome.admin.rpc.signals import SignalRpcs
from aerodrome.idl.items.v1.items_pb2_grpc import add_ItemServiceServicer_to_server
from aerodrome.idl.journal.v1.journal_pb2_grpc import add_JournalServiceServicer_to_server
from aerodrome.idl.retention.v1.retention_pb2_grpc import add_RetentionServiceServicer_to_server
from aerodrome.stdlib.clock import Clock
from aerodrome.stdlib.logger import get_logger
from aerodrome.stdlib.postgres.database import Database
from aerodrome.stdlib.postgres.notify import Announcer, Listener
from aerodrome.stdlib.postgres.outbox import OutboxRelay, Outgoing, Publish
from aerodrome.stdlib.pubsub.bus import Bus
from aerodrome.stdlib.storage import Storage
from aerodrome.stdlib.telemetry import Metrics, Telemetry

log = get_logger(__name__)

MIGRATIONS = "aerodrome.admin.migrations"
SERVICE = "admin"
"""The name under which the migrations are recorded."""
_ANNOUNCED_AT_ONCE = 512
DEFAULT_MESSAGE_BYTES = 64 * 2**20


class Admin:
    """Registration, executions, the journal and the data proxy, on a database whose tables exist.

    What happens is announced on `bus`, and accepted events to those `outside` who listen (see managers.announcing);
    without a bus nobody is there to hear of anything, and the outbox is emptied unheard.  `publish` takes the messages
    of the outbox instead.
    `catalog` is told which executions are deleted, so that the cache forgets what they made.
    """

    def __init__(
        self,
        config: AdminConfig,
        *,
        database: Database,
        storage: Storage,
        clock: Clock,
        public_url: Callable[[], str],
        telemetry: Telemetry | None = None,
        bus: Bus | None = None,
        outside: Outside = NOBODY,
        publish: Publish | None = None,
        catalog: Catalog | None = None,
    ) -> None:
        self.config = config
        self.public_url = public_url
        self.telemetry = telemetry
        self._clock = clock
        limits = config.registration
        self._announcer = Announcer(database.dsn)
        self._listener = Listener(database.dsn)
        self._compiler = Compiler(inline_bytes=limits.inline_compile_bytes, workers=limits.compile_workers)
        self._partitions = PartitionKeeper(database, clock)
        if publish is None:
            publish = _nobody_listens if bus is None else Announcements(database, bus, outside).publish
        # A bus within the process returns when a message is handled: many wait at once.
        metrics = Metrics() if telemetry is None else telemetry.metrics
        scope = config.flyteadmin.metrics_scope
        publish = counting_failures(publish, metrics, scope=scope)
        self._relay = OutboxRelay(database, publish, parallel=_ANNOUNCED_AT_ONCE)
        self._work = WorkAnnouncer(self._announcer)
        self._sessions = SessionManager(database, clock, config)
        self._journal = JournalWriter(database, storage, clock, config, emits=outside.kinds)
        self._leases = LeaseManager(
            database, self._sessions, self._work, config, announcer=self._announcer, listener=self._listener
        )
        self._journal.subscribe(self._leases.told)
        self._children = ChildManager(
            database,
            self._journal,
            clock,
            push=self._leases.push,
            announcer=self._announcer,
            listener=self._listener,
        )
        self._journal.subscribe(self._children.told)
        self._concurrency = ConcurrencyManager(
            database,
            clock,
            config,
            announcer=self._work,
            tell=self._journal.tell,
            metrics=None if telemetry is None else telemetry.metrics,
        )
        self._journal.subscribe(self._concurrency.told)
        if telemetry is not None:
            self._journal.subscribe(JournalCounters(metrics, scope=scope).told)
        self._gauges = GaugeKeeper(database, clock, config, metrics)
        workflows = WorkflowManager(database, storage, clock, config, self._compiler, metrics=metrics)
        reading = ReadingManager(database)
        data = DataManager(database, storage, config.remote_data, sizes=Sizes(metrics, scope=scope))
        self.managers = Managers(
            projects=ProjectManager(database, config),
            tasks=TaskManager(database, clock, config, self._compiler, metrics=metrics),
            workflows=workflows,
            launch_plans=LaunchPlanManager(database, clock, config, self._compiler, metrics=metrics),
            names=NamedEntityManager(database),
            executions=ExecutionManager(
                database,
                storage,
                clock,
                config,
                workflows=workflows,
                compiler=self._compiler,
                announcer=self._work,
                concurrency=self._concurrency,
                metrics=None if telemetry is None else telemetry.metrics,
            ),
            reading=reading,
            data=data,
            attributes=AttributeManager(database, config),
            metrics=MetricsManager(database, storage),
            journal=self._journal,
        )
        self._dataproxy = DataProxyManager(database, storage, config.server.data_proxy, reading=reading, data=data)
        self._items = ItemManager(database)
        self._signals = SignalManager(database, self._journal, config)
        self.retention = RetentionManager(database, storage, clock, config, catalog=catalog)
        self._prepared = False

    def services(self) -> list[tuple[Callable[[Any, Any], None], object]]:
        """The servicers, each with the generated function that adds it to a server."""
        rpcs = AdminRpcs(self.managers)
        signals = SignalRpcs(self._signals)
        limit(rpcs, self.config.limits, self._clock)
        if self.telemetry is not None:
            measure(rpcs, self.telemetry.metrics, scope=self.config.flyteadmin.metrics_scope)
            measure(signals, self.telemetry.metrics, scope=self.config.flyteadmin.metrics_scope, part="signal")
        return [
            (add_AdminServiceServicer_to_server, rpcs),
            (add_DataProxyServiceServicer_to_server, DataProxyRpcs(self._dataproxy)),
            (add_SignalServiceServicer_to_server, signals),
            (add_ItemServiceServicer_to_server, ItemRpcs(self._items)),
            (
                add_JournalServiceServicer_to_server,
                JournalRpcs(self._journal, self._sessions, self._leases, self._children),
            ),
            (add_RetentionServiceServicer_to_server, RetentionRpcs(self.retention)),
        ]

    async def prepare(self) -> None:
        """Make what has to exist before the first request: partitions, and the projects that are seeded."""
        await self._partitions.ensure()
        await self.managers.projects.seed()
        self._prepared = True

    async def run(self) -> None:
        """Everything that works in the background, until cancelled; what was accepted is written before it returns."""
        if not self._prepared:
            await self.prepare()
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._compiler.close)
            await stack.enter_async_context(self._announcer)
            await stack.enter_async_context(self._listener)
            async with asyncio.TaskGroup() as group:
                for name, part in (
                    ("journal", self._journal.run()),
                    ("sessions", self._sessions.run()),
                    ("leases", self._leases.run()),
                    ("children", self._children.run()),
                    ("concurrency", self._concurrency.run()),
                    ("partitions", self._partitions.run()),
                    ("outbox", self._relay.run()),
                    ("gauges", self._gauges.run()),
                    ("retention", self.retention.run()),
                ):
                    group.create_task(part, name=f"admin {name}")


async def _nobody_listens(message: Outgoing) -> None:
    log.debug("message dropped: nobody listens", topic=message.topic, id=message.message_id)
