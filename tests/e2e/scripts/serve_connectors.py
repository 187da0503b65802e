"""Serves the connectors of a module by flytekit's own servicers: `serve_connectors.py PORT MODULE`.

What `pyflyte serve connector` does, without the metrics that it exports: their library is not needed for anything else.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
import types
from typing import Any

import grpc


class NoMetric:
    """Stands in for a metric."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def labels(self, **_: Any) -> NoMetric:
        return self

    def inc(self) -> None:
        """Nothing is counted."""

    def observe(self, _: float) -> None:
        """Nothing is measured."""

    def time(self) -> NoMetric:
        return self

    def __enter__(self) -> None:
        """Nothing is measured."""

    def __exit__(self, *_: object) -> None:
        """Nothing is measured."""


try:
    import prometheus_client  # type: ignore[import-not-found]  # noqa: F401
except ImportError:
    without = types.ModuleType("prometheus_client")
    without.Counter = without.Summary = NoMetric  # type: ignore[attr-defined]
    sys.modules["prometheus_client"] = without


async def serve(port: int, module: str) -> None:
    """Until killed."""
    from flyteidl.service import agent_pb2_grpc
    from flytekit.extend.backend import connector_service

    importlib.import_module(module)
    server = grpc.aio.server()
    agent_pb2_grpc.add_AsyncAgentServiceServicer_to_server(connector_service.AsyncConnectorService(), server)
    agent_pb2_grpc.add_SyncAgentServiceServicer_to_server(connector_service.SyncConnectorService(), server)
    agent_pb2_grpc.add_AgentMetadataServiceServicer_to_server(connector_service.ConnectorMetadataService(), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


sys.path.insert(0, ".")
asyncio.run(serve(int(sys.argv[1]), sys.argv[2]))
