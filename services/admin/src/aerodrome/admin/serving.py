"""The control plane as a process of its own: gRPC, the HTTP API, and the operational port.

Source: spec/control-plane.md, sections 11 and 14.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

from aiohttp import web

from aerodrome.admin import gateway
from aerodrome.admin.config import AdminConfig, ServerConfig
from aerodrome.admin.main import DEFAULT_MESSAGE_BYTES, MIGRATIONS, SERVICE, Admin
from aerodrome.admin.managers.announcing import open_outside
from aerodrome.admin.rpc.catalog_client import CatalogClient
from aerodrome.stdlib import http, logger
from aerodrome.stdlib.clock import SystemClock
from aerodrome.stdlib.config import load
from aerodrome.stdlib.errors import FailedPrecondition
from aerodrome.stdlib.postgres.config import open_database
from aerodrome.stdlib.postgres.metering import QueryMeter
from aerodrome.stdlib.postgres.migrations import migrate
from aerodrome.stdlib.pubsub.opening import open_bus
from aerodrome.stdlib.rpc.client import Tls, network_channel
from aerodrome.stdlib.rpc.server import RpcServer
from aerodrome.stdlib.service import LOOPBACK, Operations, check_exposure, serve_until_told
from aerodrome.stdlib.storage import LocalSigner, open_storage
from aerodrome.stdlib.storage.http import routes as storage_routes
from aerodrome.stdlib.storage.local import LocalStorage
from aerodrome.stdlib.storage.signing import key_at
from aerodrome.stdlib.telemetry import Telemetry


async def serve(config_files: Sequence[Path], overrides: Mapping[str, Any]) -> None:
    """Serve the control plane over gRPC and HTTP until SIGTERM or SIGINT, then drain.

    Raises ConfigError, FailedPrecondition for what cannot be served safely, Unavailable if a port is taken.
    """
    config = load(AdminConfig, config_files, overrides=overrides)
    logger.configure(config.logger)
    settings = config.server
    _check_exposure(settings)
    clock = SystemClock()
    http_port = settings.http_port

    def public_url() -> str:
        scheme = "https" if settings.security.secure else "http"
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        return settings.data_proxy.public_url or f"{scheme}://{host}:{http_port}"

    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database(config.database, name="aerodrome-admin"))
        await migrate(database, MIGRATIONS, service=SERVICE)
        signer = LocalSigner(await asyncio.to_thread(_signing_key, config), public_url, clock)
        storage = await stack.enter_async_context(open_storage(config.storage, clock=clock, signer=signer))
        bus = await stack.enter_async_context(open_bus(config.bus, database=database))
        telemetry = Telemetry(config.otel)
        stack.push_async_callback(telemetry.aclose)
        database.use_meter(QueryMeter(telemetry.metrics, service=SERVICE))
        catalog = None
        if config.catalog_cache.endpoint:
            tls_of_catalog = None if config.catalog_cache.insecure else Tls()
            channel = network_channel(config.catalog_cache.endpoint, tls=tls_of_catalog)
            catalog = CatalogClient(await stack.enter_async_context(channel))
        admin = Admin(
            config,
            database=database,
            storage=storage,
            clock=clock,
            public_url=public_url,
            telemetry=telemetry,
            bus=bus,
            outside=await open_outside(config, bus, stack),
            catalog=catalog,
        )
        await admin.prepare()
        tls = _tls(config)
        server = RpcServer(
            address=f"{settings.host}:{settings.grpc.port}",
            max_message_bytes=settings.grpc.max_message_size_bytes or DEFAULT_MESSAGE_BYTES,
            reflection=settings.grpc.server_reflection,
            tls=tls,
        )
        for add_to_server, servicer in admin.services():
            server.add(add_to_server, servicer)
        app = _application(config, server)
        if isinstance(storage, LocalStorage):
            app.add_routes(storage_routes(storage, signer))
        grace = timedelta(seconds=settings.graceful_shutdown_timeout_seconds)
        http_port = await stack.enter_async_context(
            http.listen(
                app,
                settings.host,
                settings.http_port,
                grace=grace,
                header_seconds=float(settings.read_header_timeout_seconds or http.HEADER_SECONDS),
                tls=tls,
            )
        )
        at = Operations(telemetry, config, settings.host, config.flyteadmin.profiler_port, "flyteadmin.profilerPort")
        await serve_until_told(server, "admin", admin.run, at, grace=grace)


def _application(config: AdminConfig, server: RpcServer) -> web.Application:
    """The HTTP API over the same registry as gRPC."""
    settings = config.server
    security = settings.security
    cors = None
    if security.allow_cors:
        cors = http.Cors(
            origins=security.allowed_origins or ("*",), headers=tuple({"Content-Type", *security.allowed_headers})
        )
    # Beyond the loopback (which needs insecureBind) the names under which people reach it are not known here.
    hosts = http.LOOPBACK_HOSTS if settings.host in LOOPBACK else None
    app = web.Application(
        middlewares=http.middlewares(allowed_hosts=hosts, cors=cors),
        client_max_size=settings.grpc.max_message_size_bytes or DEFAULT_MESSAGE_BYTES,
    )
    app.add_routes(gateway.routes(server.registry))
    return app


def _signing_key(config: AdminConfig) -> bytes:
    """The secret behind signed URLs of a local store: configured, or made once beside the store.

    Replicas share it with the store's disk, so that each honours the URLs of the others, and restarts those of before.
    """
    path = config.server.data_proxy.signing_key_path
    if path is None:
        if config.storage.type not in ("local", ""):
            return secrets.token_bytes(32)  # another kind of store signs by itself
        path = Path(f"{os.path.abspath(config.storage.container)}.signing-key")
    return key_at(path)


def _check_exposure(server: ServerConfig) -> None:
    """Nothing that anybody could use is served to other machines by accident."""
    if server.security.use_auth:
        raise FailedPrecondition(
            "server.security.useAuth is set, and this release cannot authenticate callers yet: put an authenticating "
            "proxy in front of it, or unset it"
        )
    check_exposure(server.host, insecure_bind=server.insecure_bind, section="server")


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
