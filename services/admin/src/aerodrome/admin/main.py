"""The control plane, put together: the one file that knows all of its parts.

`Admin` is the service without a door: whoever composes it serves `services()` and keeps `run()` running.  `serve` is
the stand-alone process with a gRPC server of its own.
"""

from __future__ import annotations

import asyncio
import secrets
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from flyteidl.service.admin_pb2_grpc import add_AdminServiceServicer_to_server
from flyteidl.service.dataproxy_pb2_grpc import add_DataProxyServiceServicer_to_server
from flyteidl.service.signal_pb2_grpc import add_SignalServiceServicer_to_server

from aerodrome.admin.config import AdminConfig, PostgresConfig, ServerConfig
from aerodrome.admin.managers.announcing import NOBODY, Announcements, Outside, open_outside
from aerodrome.admin.managers.attributes import AttributeManager
from aerodrome.admin.managers.children import ChildManager
from aerodrome.admin.managers.compiling import Compiler
from aerodrome.admin.managers.concurrency import ConcurrencyManager
from aerodrome.admin.managers.data import DataManager
from aerodrome.admin.managers.dataproxy import DataProxyManager
from aerodrome.admin.managers.executions import ExecutionManager
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
from aerodrome.stdlib import logger
from aerodrome.stdlib.clock import Clock, SystemClock
from aerodrome.stdlib.config import load
from aerodrome.stdlib.errors import FailedPrecondition
from aerodrome.stdlib.logger import get_logger
from aerodrome.stdlib.postgres.database import Database, create_if_missing
from aerodrome.stdlib.postgres.migrations import migrate
from aerodrome.stdlib.postgres.notify import Announcer, Listener
from aerodrome.stdlib.postgres.outbox import OutboxRelay, Outgoing, Publish
from aerodrome.stdlib.pubsub.bus import Bus
from aerodrome.stdlib.pubsub.opening import open_bus
from aerodrome.stdlib.rpc.server import RpcServer
from aerodrome.stdlib.storage import LocalSigner, Storage, open_storage
from aerodrome.stdlib.telemetry import Telemetry

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
        workflows = WorkflowManager(database, storage, clock, config, self._compiler)
        reading = ReadingManager(database)
        data = DataManager(database, storage, config.remote_data)
        self.managers = Managers(
            projects=ProjectManager(database, config),
            tasks=TaskManager(database, clock, config, self._compiler),
            workflows=workflows,
            launch_plans=LaunchPlanManager(database, clock, config, self._compiler),
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
        limit(rpcs, self.config.limits, self._clock)
        if self.telemetry is not None:
            measure(rpcs, self.telemetry.metrics, scope=self.config.flyteadmin.metrics_scope)
        return [
            (add_AdminServiceServicer_to_server, rpcs),
            (add_DataProxyServiceServicer_to_server, DataProxyRpcs(self._dataproxy)),
            (add_SignalServiceServicer_to_server, SignalRpcs(self._signals)),
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
                    ("retention", self.retention.run()),
                ):
                    group.create_task(part, name=f"admin {name}")


async def serve(config_files: Sequence[Path], overrides: Mapping[str, Any]) -> None:
    """Serve the control plane over gRPC until SIGTERM or SIGINT, then drain.

    Raises ConfigError, FailedPrecondition for what cannot be served safely, Unavailable if the port is taken.
    """
    config = load(AdminConfig, config_files, overrides=overrides)
    logger.configure(config.logger)
    grpc_config = config.server.grpc
    _check_exposure(config.server)
    clock = SystemClock()
    public_url = f"http://{config.server.host}:{config.server.http_port}"
    dsn = await create_if_missing(database_dsn(config.database.postgres, "postgres"), config.database.postgres.dbname)
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(
            Database(
                dsn,
                min_size=config.database.max_idle_connections,
                max_size=config.database.max_open_connections,
                statement_timeout=config.database.statement_timeout,
                application_name="aerodrome-admin",
            )
        )
        await migrate(database, MIGRATIONS, service=SERVICE)
        signer = LocalSigner(secrets.token_bytes(32), lambda: public_url, clock)
        storage = await stack.enter_async_context(open_storage(config.storage, clock=clock, signer=signer))
        bus = await stack.enter_async_context(open_bus(config.bus, database=database))
        admin = Admin(
            config,
            database=database,
            storage=storage,
            clock=clock,
            public_url=lambda: public_url,
            bus=bus,
            outside=await open_outside(config, bus, stack),
        )
        await admin.prepare()
        server = RpcServer(
            address=f"{config.server.host}:{grpc_config.port}",
            max_message_bytes=grpc_config.max_message_size_bytes or DEFAULT_MESSAGE_BYTES,
            reflection=grpc_config.server_reflection,
            tls=_tls(config),
        )
        for add_to_server, servicer in admin.services():
            server.add(add_to_server, servicer)
        await _run_until_told(admin, server, timedelta(seconds=config.server.graceful_shutdown_timeout_seconds))


async def _run_until_told(admin: Admin, server: RpcServer, grace: timedelta) -> None:
    """Serve; on a signal stop taking calls first, then the parts that the last calls need."""
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, told.set)
    background = asyncio.create_task(admin.run(), name="admin")
    waiting = asyncio.create_task(told.wait(), name="signals")
    try:
        await server.start()
        await asyncio.wait({background, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await server.stop(grace)
        for task in (waiting, background):
            task.cancel()
        await asyncio.wait({waiting, background})
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(each)
    if not background.cancelled():
        background.result()


def _check_exposure(server: ServerConfig) -> None:
    """Nothing that anybody could use is served to other machines by accident."""
    if server.security.use_auth:
        raise FailedPrecondition(
            "server.security.useAuth is set, and this release cannot authenticate callers yet: put an authenticating "
            "proxy in front of it, or unset it"
        )
    if server.host not in ("127.0.0.1", "localhost", "::1") and not server.insecure_bind:
        raise FailedPrecondition(
            f"server.host is {server.host}, so that everybody who reaches it could run commands here: there is no "
            "authentication; listen on 127.0.0.1, or set server.insecureBind where the network is closed"
        )


def database_dsn(config: PostgresConfig, database: str) -> str:
    """The connection text for a database of the configured server."""
    password = config.password.get_secret_value()
    if config.password_path is not None:
        try:
            password = config.password_path.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise FailedPrecondition(
                f"the database's password cannot be read from {config.password_path}: {error.strerror}"
            ) from error
    login = quote(config.username, safe="") + (f":{quote(password, safe='')}" if password else "")
    options = dict(option.split("=", 1) for option in config.options.split() if "=" in option)
    if config.host.startswith("/"):
        return f"postgresql://{login}@/{quote(database, safe='')}?" + urlencode(
            {"host": config.host, "port": config.port} | options
        )
    host = f"[{config.host}]" if ":" in config.host else config.host
    return f"postgresql://{login}@{host}:{config.port}/{quote(database, safe='')}?{urlencode(options)}"


def _tls(config: AdminConfig) -> tuple[bytes, bytes] | None:
    security = config.server.security
    if not security.secure:
        return None
    try:
        return Path(security.ssl.key_file).read_bytes(), Path(security.ssl.certificate_file).read_bytes()
    except OSError as error:
        raise FailedPrecondition(
            f"server.security.secure is set and {error.filename} cannot be read: {error.strerror}"
        ) from error


async def _nobody_listens(message: Outgoing) -> None:
    log.debug("message dropped: nobody listens", topic=message.topic, id=message.message_id)
