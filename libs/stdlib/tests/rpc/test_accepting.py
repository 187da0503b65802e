"""A server that takes many calls at a time: none is lost, and none is left when it stops."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any

import grpc
from flyteidl.admin import signal_pb2
from flyteidl.service import signal_pb2_grpc

from aerodrome.stdlib.rpc.accepting import CALLS_ASKED_FOR, CAN_ACCEPT_MANY
from aerodrome.stdlib.rpc.client import network_channel
from aerodrome.stdlib.rpc.server import RpcServer

SignalServiceStub: Any = signal_pb2_grpc.SignalServiceStub
CALLS = 10 * CALLS_ASKED_FOR


class Signals(signal_pb2_grpc.SignalServiceServicer):
    """Answers with the request's token, once it is let."""

    def __init__(self) -> None:
        self.entered: asyncio.Queue[str] = asyncio.Queue()
        self.go = asyncio.Event()

    async def ListSignals(self, request: signal_pb2.SignalListRequest, context: Any) -> signal_pb2.SignalList:
        self.entered.put_nowait(request.token)
        await self.go.wait()
        return signal_pb2.SignalList(token=request.token)


def test_the_grpc_that_is_installed_lets_a_server_ask_for_many_calls() -> None:
    assert CAN_ACCEPT_MANY


async def test_every_call_of_a_burst_is_in_its_handler_at_once_and_is_answered() -> None:
    signals = Signals()
    server = RpcServer()
    server.add(signal_pb2_grpc.add_SignalServiceServicer_to_server, signals)
    async with (
        asyncio.timeout(30),
        server,
        network_channel(server.address) as one,
        network_channel(server.address) as other,
    ):
        stubs = [SignalServiceStub(one), SignalServiceStub(other)]
        for _ in range(2):  # and once more, by what the first burst left
            signals.go.clear()
            calls = [
                stubs[number % 2].ListSignals(signal_pb2.SignalListRequest(token=str(number)))
                for number in range(CALLS)
            ]
            entered = Counter([await signals.entered.get() for _ in calls])
            assert entered == Counter(map(str, range(CALLS)))
            signals.go.set()
            assert [(await call).token for call in calls] == [str(number) for number in range(CALLS)]


async def test_a_server_that_stops_amid_a_burst_leaves_no_call_waiting_and_its_address_can_be_used_again() -> None:
    signals = Signals()
    server = RpcServer()
    server.add(signal_pb2_grpc.add_SignalServiceServicer_to_server, signals)
    async with asyncio.timeout(30):
        await server.start()
        async with network_channel(server.address, attempts=1) as channel:
            stub = SignalServiceStub(channel)
            calls = [
                stub.ListSignals(signal_pb2.SignalListRequest(token=str(number)), timeout=20) for number in range(CALLS)
            ]
            await signals.entered.get()
            signals.go.set()
            await server.stop(timedelta(seconds=5))
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
        for number, outcome in enumerate(outcomes):
            if isinstance(outcome, BaseException):
                assert isinstance(outcome, grpc.aio.AioRpcError)
                assert outcome.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
            else:
                assert outcome.token == str(number)
        again = RpcServer(address=server.address)
        again.add(signal_pb2_grpc.add_SignalServiceServicer_to_server, signals)
        async with again, network_channel(again.address) as channel:
            answer = await SignalServiceStub(channel).ListSignals(signal_pb2.SignalListRequest(token="x"), timeout=20)
            assert answer.token == "x"
