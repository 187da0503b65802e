"""The calls of flyteidl's connector services, with errors of ours: what may pass is Unavailable or DeadlineExceeded."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import grpc
from flyteidl.admin import agent_pb2
from flyteidl.service import agent_pb2_grpc

from aerodrome.plugins.connectors.config import ConnectorConfig
from aerodrome.stdlib.errors import Unavailable
from aerodrome.stdlib.rpc.client import Tls, aerodrome_error, network_channel

T = TypeVar("T")


class ConnectorClient:
    """One connector.  Connects when it is first needed; each call has a deadline."""

    def __init__(self, name: str, config: ConnectorConfig) -> None:
        self.name = name
        self.config = config
        self._channel: grpc.aio.Channel | None = None

    async def aclose(self) -> None:
        """Give the connection back."""
        if self._channel is not None:
            await self._channel.close()
            self._channel = None

    async def list_agents(self) -> list[agent_pb2.Agent]:
        """What the connector says of itself.  Raises Unimplemented if it cannot be asked."""
        response = await self._call(
            lambda channel: agent_pb2_grpc.AgentMetadataServiceStub(channel).ListAgents,
            agent_pb2.ListAgentsRequest(),
            "ListAgents",
        )
        return list(response.agents)

    async def create(self, request: agent_pb2.CreateTaskRequest) -> bytes:
        """Start a job; what identifies it."""
        response = await self._call(
            lambda channel: agent_pb2_grpc.AsyncAgentServiceStub(channel).CreateTask,
            request,
            "CreateTask",
        )
        return bytes(response.resource_meta)

    async def get(self, request: agent_pb2.GetTaskRequest) -> agent_pb2.Resource:
        """How a job stands."""
        response = await self._call(
            lambda channel: agent_pb2_grpc.AsyncAgentServiceStub(channel).GetTask,
            request,
            "GetTask",
        )
        resource: agent_pb2.Resource = response.resource
        return resource

    async def delete(self, request: agent_pb2.DeleteTaskRequest) -> None:
        """End a job."""
        await self._call(
            lambda channel: agent_pb2_grpc.AsyncAgentServiceStub(channel).DeleteTask,
            request,
            "DeleteTask",
        )

    async def execute(self, requests: list[agent_pb2.ExecuteTaskSyncRequest]) -> agent_pb2.Resource:
        """Do a whole task in one call; `requests` are the header, then the inputs."""

        async def sent() -> AsyncIterator[agent_pb2.ExecuteTaskSyncRequest]:
            for request in requests:
                yield request

        resource = agent_pb2.Resource()
        answered = False
        try:
            stub = agent_pb2_grpc.SyncAgentServiceStub(self._connected())
            call = stub.ExecuteTaskSync(sent(), timeout=self.config.timeout("ExecuteTaskSync"))
            async for response in call:
                answered = True
                if response.HasField("header"):
                    resource.CopyFrom(response.header.resource)
                else:
                    resource.outputs.CopyFrom(response.outputs)
        except grpc.aio.AioRpcError as error:
            raise aerodrome_error(error) from error
        if not answered:
            raise Unavailable(f"connector {self.name} ended the call without an answer")
        return resource

    async def _call(self, method: Callable[[grpc.aio.Channel], Any], request: Any, name: str) -> Any:
        try:
            return await method(self._connected())(request, timeout=self.config.timeout(name))
        except grpc.aio.AioRpcError as error:
            raise aerodrome_error(error) from error

    def _connected(self) -> grpc.aio.Channel:
        if self._channel is None:
            tls = None if self.config.insecure else Tls()
            self._channel = network_channel(self.config.endpoint, tls=tls)
        return self._channel
