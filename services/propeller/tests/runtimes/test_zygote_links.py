"""What the platform says to a zygote that is gone."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import uvloop

from aerodrome.propeller.runtimes.zygotes import Link


def test_what_is_said_to_a_zygote_that_is_gone_is_not_heard_and_harms_nobody() -> None:
    async def say() -> None:
        ours, theirs = socket.socketpair()
        hello: dict[str, Any] = {"python": "/python", "problem": None, "stopping": False, "protocol": 1, "running": []}
        link = Link("kind-1", 1, 1, hello, await asyncio.open_unix_connection(sock=ours), None)
        theirs.close()
        await link.listen(lambda _: None)
        assert link.lost
        await asyncio.sleep(0.01)  # until the transport is closed for good
        link.send({"op": "end"})

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(say())
