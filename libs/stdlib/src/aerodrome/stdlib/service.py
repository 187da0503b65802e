"""What every service does as a process of its own: not be reachable by accident, serve until told, drain."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pydantic import BaseModel

from aerodrome.stdlib import operations
from aerodrome.stdlib.errors import FailedPrecondition
from aerodrome.stdlib.rpc.metering import Meter
from aerodrome.stdlib.rpc.server import RpcServer
from aerodrome.stdlib.telemetry import Telemetry

COLLECT_AFTER = (50_000, 50, 100)
"""How many objects more there are before the collector looks at the youngest ones, and how often at older ones."""

LOOPBACK = frozenset(("127.0.0.1", "localhost", "::1"))
"""Addresses that only this machine reaches."""


def check_exposure(host: str, *, insecure_bind: bool, section: str) -> None:
    """Refuse to be served to other machines by accident; raises FailedPrecondition that names the settings."""
    if host not in LOOPBACK and not insecure_bind:
        raise FailedPrecondition(
            f"{section}.host is {host}, and nobody who reaches it is asked who they are: listen on 127.0.0.1, or set "
            f"{section}.insecureBind where the network is closed"
        )


def settle() -> None:
    """Set what start-up made apart for good: to collect it again and again would only hold up the loop.

    For a process, once, when it is ready to serve; the collector is on from then on, also where it was off until then.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)
    gc.enable()


@dataclass(frozen=True)
class Operations:
    """Where the operational port of a service is, and the setting that says so; see `operations`."""

    telemetry: Telemetry
    config: BaseModel
    host: str
    port: int
    setting: str


async def serve_until_told(
    server: RpcServer | None,
    name: str,
    work: Callable[[], Coroutine[Any, Any, None]],
    at: Operations,
    *,
    grace: timedelta,
    ready: Callable[[], bool] = lambda: True,
) -> None:
    """Serve until SIGTERM or SIGINT, or until the service's own `work` ends; then stop taking calls, and end the work.

    A service that nobody calls has no `server`.  The operational port is open until the work has ended, and says that
    the service is ready while it serves and, of what only the service itself knows, `ready` says so.  Raises the error
    of work that failed, and Unavailable if a port is taken.
    """
    serving = asyncio.Event()
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    async with operations.listening(
        at.telemetry,
        at.config,
        ready=lambda: serving.is_set() and ready(),
        host=at.host,
        port=at.port,
        setting=at.setting,
    ):
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(each, told.set)
        tasks = [
            asyncio.create_task(work(), name=name),
            asyncio.create_task(at.telemetry.run(), name="telemetry"),
        ]
        waiting = asyncio.create_task(told.wait(), name="signals")
        try:
            if server is not None:
                server.registry.use_meter(Meter(at.telemetry.metrics))
                await server.start()
            settle()
            serving.set()
            await asyncio.wait({*tasks, waiting}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            serving.clear()
            if server is not None:
                await server.stop(grace)  # its last calls need the work
            for task in (waiting, *tasks):
                task.cancel()
            await asyncio.wait({waiting, *tasks})
            for each in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(each)
    for task in tasks:
        if not task.cancelled():
            task.result()
