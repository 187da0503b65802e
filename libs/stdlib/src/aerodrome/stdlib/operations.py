"""The operational HTTP port of a service: what those who run it look at, apart from what its users reach.

`/metrics` is for Prometheus, `/healthz` and `/readyz` are for probes (does the process answer, does it take work),
`/version` and `/config` for people; secrets are not shown.
Source: spec/control-plane.md, section 14.3; spec/datacatalog-scheduler-notifier.md, section D.6.
"""

from __future__ import annotations

import asyncio
import json
import platform
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version

from aiohttp import web
from pydantic import BaseModel

from aerodrome.stdlib import http
from aerodrome.stdlib.errors import Unavailable
from aerodrome.stdlib.logger import get_logger
from aerodrome.stdlib.telemetry import Telemetry

log = get_logger(__name__)


def routes(telemetry: Telemetry, config: BaseModel, ready: Callable[[], bool]) -> list[web.RouteDef]:
    """The pages; `/readyz`, and `/healthcheck` as Flyte calls it, answer 503 while the service is not `ready`."""

    async def metrics(_: web.Request) -> web.Response:
        # In a thread: there may be a great many of them.
        body = await asyncio.to_thread(telemetry.render)
        return web.Response(body=body, content_type="text/plain", charset="utf-8")

    async def alive(_: web.Request) -> web.Response:
        return web.Response()  # the loop runs

    async def health(_: web.Request) -> web.Response:
        return web.Response() if ready() else web.Response(status=503, text="not ready\n")

    async def about(_: web.Request) -> web.Response:
        return web.json_response({"version": release(), "python": platform.python_version()})

    async def settings(_: web.Request) -> web.Response:
        # Secrets are of a type that writes itself as asterisks.
        return web.json_response(text=json.dumps(config.model_dump(mode="json"), indent=2))

    return [
        web.get("/metrics", metrics),
        web.get("/healthz", alive),
        web.get("/readyz", health),
        web.get("/healthcheck", health),
        web.get("/version", about),
        web.get("/config", settings),
    ]


def release() -> str:
    """The version that is installed."""
    try:
        return version("aerodrome")
    except PackageNotFoundError:
        return version("aerodrome-stdlib")


@asynccontextmanager
async def listening(
    telemetry: Telemetry,
    config: BaseModel,
    *,
    ready: Callable[[], bool],
    host: str,
    port: int,
    setting: str,
) -> AsyncIterator[None]:
    """Serve the pages for the length of the block; nothing if `port` is 0.

    Raises Unavailable, with the `setting` to change, if somebody else listens on the port.
    """
    if port == 0:
        yield
        return
    loopback = host in ("127.0.0.1", "localhost", "::1")
    app = web.Application(middlewares=http.middlewares(allowed_hosts=http.LOOPBACK_HOSTS if loopback else None))
    app.add_routes(routes(telemetry, config, ready))
    try:
        listener = http.listen(app, host, port)
        await listener.__aenter__()
    except Unavailable as error:
        raise Unavailable(f"{error.message}, or none: {setting} is {port}, and 0 turns it off") from error
    try:
        yield
    finally:
        await listener.__aexit__(None, None, None)
