"""What every service does as a process of its own: not be reachable by accident, serve until told, drain."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine, Mapping
from datetime import timedelta
from typing import Any

from aerodrome.stdlib.errors import FailedPrecondition
from aerodrome.stdlib.rpc.server import RpcServer

LOOPBACK = frozenset(("127.0.0.1", "localhost", "::1"))
"""Addresses that only this machine reaches."""


def check_exposure(host: str, *, insecure_bind: bool, section: str) -> None:
    """Refuse to be served to other machines by accident; raises FailedPrecondition that names the settings."""
    if host not in LOOPBACK and not insecure_bind:
        raise FailedPrecondition(
            f"{section}.host is {host}, and nobody who reaches it is asked who they are: listen on 127.0.0.1, or set "
            f"{section}.insecureBind where the network is closed"
        )


async def run_until_told(
    server: RpcServer, parts: Mapping[str, Coroutine[Any, Any, None]], *, grace: timedelta, serving: asyncio.Event
) -> None:
    """Serve until SIGTERM or SIGINT, or until one of the parts ends; then stop taking calls, and end the parts.

    `serving` is set meanwhile.  The error of a part that failed is raised.
    """
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, told.set)
    tasks = [asyncio.create_task(part, name=name) for name, part in parts.items()]
    waiting = asyncio.create_task(told.wait(), name="signals")
    try:
        await server.start()
        serving.set()
        await asyncio.wait({*tasks, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        serving.clear()
        await server.stop(grace)  # the parts are needed by its last calls
        for task in (waiting, *tasks):
            task.cancel()
        await asyncio.wait({waiting, *tasks})
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(each)
    for task in tasks:
        if not task.cancelled():
            task.result()
