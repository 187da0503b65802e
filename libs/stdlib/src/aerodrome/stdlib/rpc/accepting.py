"""A gRPC server that takes many calls at a time from the network.

grpc.aio asks its core for one call, and for the next one only several turns of the loop later.  While handlers keep the
loop busy this is what bounds the rate of calls, and the calls of everybody wait in one line in front of it, where no
rule of ours knows whose they are.  So here `CALLS_ASKED_FOR` of them are asked for all the time, and what has arrived
is handed on without another turn.

This builds on the part of grpc.aio in which the version that is installed keeps the question for a call apart
(`_make_request_call_future`); where there is none, the server is grpc's own.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import Context
from typing import Any, Self

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined]  # its stubs do not know it

CALLS_ASKED_FOR = 32

_Core: Any = cygrpc.AioServer
CAN_ACCEPT_MANY = hasattr(_Core, "_make_request_call_future") and hasattr(_Core, "_request_call")
"""Whether the installed grpc lets us."""


def new_server(options: Sequence[tuple[str, Any]]) -> Any:
    """A `grpc.aio.Server` with these options, to which nothing was added yet."""
    server: Any = grpc.aio.server(options=options)
    if CAN_ACCEPT_MANY:
        server._server = _ManyAtATime(asyncio.get_running_loop(), None, (), (), tuple(options), None)
    return server


class _Arrival(asyncio.Future[Any]):
    """A call for the server, once it is there; who asks for one that is there hears of it at once."""

    def add_done_callback(self, fn: Callable[[Self], object], *, context: Context | None = None) -> None:
        if self.done():
            fn(self)
        else:
            super().add_done_callback(fn, context=context)


class _ManyAtATime(_Core):  # type: ignore[misc]  # of a class that has no types
    """grpc's server, which believes that it asks for one call at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *arguments: Any) -> None:
        super().__init__(loop, *arguments)
        self._of_loop = loop
        self._asking: set[asyncio.Task[None]] = set()
        self._arrived: deque[_Arrival] = deque()
        self._awaited: _Arrival | None = None

    def _make_request_call_future(self, method: bytes | None) -> Any:
        if method is not None:  # there are no methods that core knows, so this is not for us
            return super()._make_request_call_future(method)
        while len(self._asking) < CALLS_ASKED_FOR:
            task = self._of_loop.create_task(self._ask(), name="grpc calls", context=Context())
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)
        if self._arrived:
            return self._arrived.popleft()
        self._awaited = _Arrival(loop=self._of_loop)
        return self._awaited

    async def _ask(self) -> None:
        """Take calls as they come, until the server stops; grpc hears of an error in place of a call."""
        going = True
        while going:
            outcome: Any = None
            failure: Exception | None = None
            try:
                outcome = await self._request_call()
            except Exception as error:  # noqa: BLE001  (it is grpc's, and grpc decides)
                failure = error
                going = False
            arrival, self._awaited = self._awaited, None
            if arrival is None or arrival.done():
                if not self.is_running():  # nobody asks any more: letting go of the call ends it
                    self._arrived.clear()
                    return
                arrival = _Arrival(loop=self._of_loop)
                self._arrived.append(arrival)
            if failure is None:
                arrival.set_result(outcome)
            else:
                arrival.set_exception(failure)
                arrival.exception()  # at the server's end nobody asks for it
