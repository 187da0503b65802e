"""The data catalog, put together: the one file that knows all of its parts.

`DataCatalog` is the service without a door: whoever composes it serves `services()` and keeps `run()` running.  `serve`
is the stand-alone process with a gRPC server of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
from flyteidl.cacheservice.cacheservice_pb2_grpc import add_CacheServiceServicer_to_server
from flyteidl.datacatalog.datacatalog_pb2_grpc import add_DataCatalogServicer_to_server

from aerodrome.datacatalog.config import CatalogConfig
from aerodrome.datacatalog.managers.artifacts import ArtifactManager
from aerodrome.datacatalog.managers.blobs import Blobs
from aerodrome.datacatalog.managers.counting import Counting
from aerodrome.datacatalog.managers.datasets import DatasetManager
from aerodrome.datacatalog.managers.outputs import OutputManager
from aerodrome.datacatalog.managers.reservations import ReservationManager
from aerodrome.datacatalog.managers.understanding import UnderstandingManager
from aerodrome.datacatalog.managers.upkeep import Upkeep
from aerodrome.datacatalog.rpc.catalog import DataCatalogRpcs
from aerodrome.datacatalog.rpc.nodes import ControlPlane
from aerodrome.datacatalog.rpc.outputs import CacheServiceRpcs
from aerodrome.datacatalog.rpc.understanding import CatalogRpcs
from aerodrome.idl.catalog.v1.catalog_pb2_grpc import add_CatalogServiceServicer_to_server
from aerodrome.stdlib import logger
from aerodrome.stdlib.clock import Clock, SystemClock
from aerodrome.stdlib.config import load
from aerodrome.stdlib.logger import get_logger
from aerodrome.stdlib.postgres.config import open_database
from aerodrome.stdlib.postgres.database import Database
from aerodrome.stdlib.postgres.metering import QueryMeter
from aerodrome.stdlib.postgres.migrations import migrate
from aerodrome.stdlib.rpc.client import Tls, network_channel
from aerodrome.stdlib.rpc.server import RpcServer
from aerodrome.stdlib.service import Operations, check_exposure, serve_until_told
from aerodrome.stdlib.storage import Storage, open_storage
from aerodrome.stdlib.telemetry import Telemetry

log = get_logger(__name__)

MIGRATIONS = "aerodrome.datacatalog.migrations"
SERVICE = "datacatalog"
"""The name under which the migrations are recorded."""


class DataCatalog:
    """Datasets, artifacts, tags, reservations, and what can be asked about them, on a database whose tables exist.

    `control_plane` is a channel to admin, of which Explain asks what a node's task and inputs are; without it nodes
    cannot be explained, tasks with inputs can.
    """

    def __init__(
        self,
        config: CatalogConfig,
        *,
        database: Database,
        storage: Storage,
        clock: Clock,
        telemetry: Telemetry | None = None,
        control_plane: grpc.aio.Channel | None = None,
    ) -> None:
        section = config.datacatalog
        counting = Counting(telemetry, section.metrics_scope)
        blobs = Blobs(database, storage, clock)
        self._datasets = DatasetManager(database, clock, section, counting)
        self._artifacts = ArtifactManager(database, blobs, clock, section, counting)
        self._reservations = ReservationManager(database, clock, section, counting)
        self._outputs = OutputManager(database, blobs, clock, section)
        nodes = None if control_plane is None else ControlPlane(control_plane, storage)
        self._understanding = UnderstandingManager(database, blobs, storage, clock, counting, nodes)
        self.upkeep = Upkeep(self._reservations, blobs, clock, section.upkeep_interval)

    def services(self) -> list[tuple[Callable[[Any, Any], None], object]]:
        """The servicers, each with the generated function that adds it to a server."""
        return [
            (
                add_DataCatalogServicer_to_server,
                DataCatalogRpcs(self._datasets, self._artifacts, self._reservations),
            ),
            (add_CacheServiceServicer_to_server, CacheServiceRpcs(self._outputs, self._reservations)),
            (add_CatalogServiceServicer_to_server, CatalogRpcs(self._understanding)),
        ]

    async def prepare(self) -> None:
        """Nothing has to exist before the first request but the tables."""

    async def run(self) -> None:
        """What works in the background, until cancelled."""
        await self.upkeep.run()


async def serve(config_files: Sequence[Path], overrides: Mapping[str, Any]) -> None:
    """Serve the data catalog over gRPC until SIGTERM or SIGINT, then drain.

    Raises ConfigError, FailedPrecondition for what cannot be served safely, Unavailable if the port is taken.
    """
    config = load(CatalogConfig, config_files, overrides=overrides)
    logger.configure(config.logger)
    application = config.application
    check_exposure(application.host, insecure_bind=application.insecure_bind, section="application")
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database(config.database, name="aerodrome-datacatalog"))
        await migrate(database, MIGRATIONS, service=SERVICE)
        storage = await stack.enter_async_context(open_storage(config.storage, clock=clock))
        telemetry = Telemetry(config.otel)
        stack.push_async_callback(telemetry.aclose)
        database.use_meter(QueryMeter(telemetry.metrics, service=SERVICE))
        control_plane = None
        if config.admin.endpoint:
            control_plane = await stack.enter_async_context(
                network_channel(config.admin.endpoint, tls=None if config.admin.insecure else Tls())
            )
        service = DataCatalog(
            config,
            database=database,
            storage=storage,
            clock=clock,
            telemetry=telemetry,
            control_plane=control_plane,
        )
        await service.prepare()
        server = RpcServer(
            address=f"{application.host}:{application.grpc_port}",
            max_message_bytes=(application.grpc_max_recv_msg_size_mbs or 64) << 20,
            reflection=application.grpc_server_reflection,
            health_names=("", "datacatalog"),
        )
        for add_to_server, servicer in service.services():
            server.add(add_to_server, servicer)
        grace = timedelta(seconds=application.graceful_shutdown_timeout_seconds)
        at = Operations(
            telemetry, config, application.host, config.datacatalog.profiler_port, "datacatalog.profilerPort"
        )
        await serve_until_told(server, "datacatalog", service.run, at, grace=grace)
