"""The whole platform in one process: embedded PostgreSQL, local store, admin, propeller, one public port.

Source: design.md, sections 1 and 4.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import quote

from aiohttp import web

from aerodrome import console
from aerodrome.admin import gateway
from aerodrome.admin.main import Admin
from aerodrome.admin.managers.announcing import open_outside
from aerodrome.admin.rpc.catalog_client import CatalogClient
from aerodrome.datacatalog import main as datacatalog
from aerodrome.notifier import main as notifying
from aerodrome.plugins.api import TaskContext
from aerodrome.plugins.names import generated_name, pod_name
from aerodrome.propeller.main import Propeller, local_runtime
from aerodrome.propeller.runtimes import LocalRuntime
from aerodrome.sandbox.config import SandboxConfig
from aerodrome.scheduler import main as scheduling
from aerodrome.stdlib import http
from aerodrome.stdlib.clock import SystemClock
from aerodrome.stdlib.logger import get_logger
from aerodrome.stdlib.postgres.database import Database
from aerodrome.stdlib.postgres.metering import QueryMeter
from aerodrome.stdlib.postgres.migrations import migrate
from aerodrome.stdlib.pubsub.memory import MemoryBus
from aerodrome.stdlib.rpc.direct import DirectChannel
from aerodrome.stdlib.rpc.metering import Meter
from aerodrome.stdlib.rpc.oneport import OnePort
from aerodrome.stdlib.rpc.runtime_dir import runtime_dir
from aerodrome.stdlib.rpc.server import RpcServer
from aerodrome.stdlib.storage import LocalSigner, Storage, open_storage
from aerodrome.stdlib.storage.http import routes as storage_routes
from aerodrome.stdlib.storage.local import LocalStorage
from aerodrome.stdlib.storage.signing import key_at
from aerodrome.stdlib.telemetry import Telemetry

log = get_logger(__name__)

_MIGRATIONS = "aerodrome.admin.migrations"


class Platform:
    """An instance; `run` works until cancelled, and calls `on_ready` with the port once everything answers."""

    def __init__(self, config: SandboxConfig, dsn: str, on_ready: Callable[[int], None]) -> None:
        self._config = config
        self._dsn = dsn
        self._on_ready = on_ready
        self._clock = SystemClock()
        self._runtime: LocalRuntime | None = None
        self._port = config.port

    async def run(self) -> None:
        """Start everything, work until cancelled, drain, and stop what this process started."""
        config = self._config
        async with AsyncExitStack() as stack:
            database = await stack.enter_async_context(
                Database(self._dsn, min_size=2, max_size=20, application_name="aerodrome")
            )
            await migrate(database, _MIGRATIONS, service="admin")
            await migrate(database, scheduling.MIGRATIONS, service=scheduling.SERVICE)
            await migrate(database, datacatalog.MIGRATIONS, service=datacatalog.SERVICE)
            await migrate(database, notifying.MIGRATIONS, service=notifying.SERVICE)
            signer = LocalSigner(key_at(config.data_dir / "signing.key"), self._public_url, self._clock)
            storage = await stack.enter_async_context(
                open_storage(config.admin.storage, clock=self._clock, signer=signer)
            )
            telemetry = Telemetry(config.admin.otel)
            stack.push_async_callback(telemetry.aclose)
            database.use_meter(QueryMeter(telemetry.metrics))

            # It forgets what nobody has handled when the process ends; the outbox does not.
            bus = MemoryBus()
            admin = Admin(
                config.admin,
                database=database,
                storage=storage,
                clock=self._clock,
                public_url=self._public_url,
                telemetry=telemetry,
                bus=bus,
                outside=await open_outside(config.admin, bus, stack),
            )
            socket = runtime_dir(config.data_dir) / "grpc.sock"
            stack.callback(_remove_empty, socket.parent)
            server = RpcServer(
                address=f"unix:{socket}", max_message_bytes=config.admin.server.grpc.max_message_size_bytes or 64 << 20
            )
            server.registry.use_meter(Meter(telemetry.metrics))
            for add_to_server, servicer in admin.services():
                server.add(add_to_server, servicer)
            channel = DirectChannel([server])
            scheduler = scheduling.Scheduler(
                config.scheduler, database=database, channel=channel, clock=self._clock, bus=bus, telemetry=telemetry
            )
            for add_to_server, servicer in scheduler.services():
                server.add(add_to_server, servicer)
            notifier = notifying.Notifier(
                config.notifier,
                database=database,
                bus=bus,
                clock=self._clock,
                telemetry=telemetry,
                public_url=self._public_url,
            )
            for add_to_server, servicer in notifier.services():
                server.add(add_to_server, servicer)
            catalog = datacatalog.DataCatalog(
                config.catalog,
                database=database,
                storage=storage,
                clock=self._clock,
                telemetry=telemetry,
                control_plane=channel,
            )
            await catalog.prepare()
            admin.retention.use_catalog(CatalogClient(channel))
            for add_to_server, servicer in catalog.services():
                server.add(add_to_server, servicer)
            runtime_directory = config.propeller.propeller.runtime.directory
            assert runtime_directory is not None
            app = self._http(server, channel, storage, signer, telemetry, runtime_directory)
            async with http.serving(app) as protocol_factory, AsyncExitStack() as serving:
                port = OnePort(config.host, config.port, socket, protocol_factory)
                await port.start()
                self._port = port.port
                await admin.prepare()
                await scheduler.prepare()
                await notifier.prepare()
                serving.push_async_callback(port.stop)
                await server.start()
                serving.push_async_callback(server.stop)
                runtime = local_runtime(config.propeller, runtime_directory, self._task_environment(), self._clock)
                self._runtime = runtime
                admin.retention.use_runtime(runtime)
                propeller = Propeller(
                    config.propeller,
                    channel=channel,
                    storage=storage,
                    runtime=runtime,
                    clock=self._clock,
                    holder=f"sandbox:{config.data_dir}",
                    log_uri=self._log_uri,
                    catalog=channel if config.caching else None,
                    metrics=telemetry.metrics,
                )
                async with asyncio.TaskGroup() as group:
                    admin_task = group.create_task(admin.run(), name="admin")
                    telemetry_task = group.create_task(telemetry.run(), name="telemetry")
                    propeller_task = group.create_task(propeller.run(), name="propeller")
                    scheduler_task = group.create_task(scheduler.run(), name="scheduler")
                    notifier_task = group.create_task(notifier.run(), name="notifier")
                    catalog_task = group.create_task(catalog.run(), name="datacatalog")
                    self._on_ready(port.port)
                    try:
                        await asyncio.get_running_loop().create_future()
                    finally:
                        # The data plane first: its last appends and its hand-back need the control plane.
                        await server.set_serving(False)
                        propeller_task.cancel()
                        scheduler_task.cancel()
                        notifier_task.cancel()
                        await asyncio.wait([propeller_task, scheduler_task, notifier_task])
                        catalog_task.cancel()
                        admin_task.cancel()
                        telemetry_task.cancel()

    def _http(
        self,
        server: RpcServer,
        channel: DirectChannel,
        storage: Storage,
        signer: LocalSigner,
        telemetry: Telemetry,
        runtime_directory: Path,
    ) -> web.Application:
        app = web.Application(
            middlewares=[*http.middlewares(allowed_hosts=http.LOOPBACK_HOSTS if self._config.loopback else None)],
            client_max_size=self._config.admin.server.grpc.max_message_size_bytes or 64 << 20,
        )
        app.add_routes(gateway.routes(server.registry))
        if isinstance(storage, LocalStorage):
            app.add_routes(storage_routes(storage, signer))

        async def read_log(project: str, domain: str, execution: str, node: str, attempt: int) -> str | None:
            path = _log_path(runtime_directory, project, domain, execution, node, attempt)
            text = await asyncio.to_thread(_read_tail, path)
            # What a task prints is its own; a page of ours still does not show the secrets that it was given.
            return text if text is None or self._runtime is None else self._runtime.mask(text)

        app.add_routes(console.routes(channel, read_log=read_log))

        async def metrics(_: web.Request) -> web.Response:
            body = await asyncio.to_thread(telemetry.render)  # there may be a great many of them
            return web.Response(body=body, content_type="text/plain", charset="utf-8")

        app.router.add_get("/metrics", metrics)
        return app

    def _public_url(self) -> str:
        # People open localhost, and a link from there to another name of this machine would be a foreign one.
        host = "localhost" if self._config.host in ("127.0.0.1", "::1", "0.0.0.0", "::") else self._config.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self._port}"

    def _task_environment(self) -> dict[str, str]:
        return {
            "FLYTE_PLATFORM_URL": self._public_url().removeprefix("http://"),
            "FLYTE_PLATFORM_INSECURE": "true",
        }

    def _log_uri(self, context: TaskContext, path: str) -> str:
        execution = context.execution_id
        return (
            f"{self._public_url()}/console/logs?project={quote(execution.project)}&domain={quote(execution.domain)}"
            f"&execution={quote(execution.name)}&node={quote(context.node_id)}&attempt={context.attempt}"
        )


def _remove_empty(directory: Path) -> None:
    with contextlib.suppress(OSError):  # something else is in it still
        directory.rmdir()


def _log_path(
    runtime_directory: Path, project: str, domain: str, execution: str, node: str, attempt: int
) -> Path | None:
    namespace = f"{project}-{domain}"
    name = pod_name(generated_name(execution, node, attempt))
    if "/" in namespace or ".." in namespace:
        return None
    return runtime_directory / "logs" / namespace / f"{name}.log"


def _read_tail(path: Path | None, most: int = 4 << 20) -> str | None:
    if path is None or not path.is_file():
        return None
    with path.open("rb") as file:
        size = path.stat().st_size
        file.seek(max(size - most, 0))
        return file.read().decode(errors="replace")
