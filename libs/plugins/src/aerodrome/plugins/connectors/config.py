"""Settings of connectors: `plugins.connector-service`, and `plugins.agent-service`, which says the same in older words.

Source: spec/data-plane.md, sections 5.12 and 8.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import ClassVar

from aerodrome.stdlib.config import Duration, Section


class ConnectorConfig(Section):
    """Where one connector is."""

    endpoint: str = ""
    """`host:port`, or any target that gRPC understands; empty means that there is none."""
    insecure: bool = True
    """Plain text instead of TLS."""
    timeouts: dict[str, Duration] = {}
    """Longest that a call may take, by method: CreateTask, GetTask, DeleteTask, ExecuteTaskSync."""
    default_timeout: Duration = timedelta(seconds=10)

    def timeout(self, method: str) -> float:
        """Seconds that a call of `method` may take."""
        return self.timeouts.get(method, self.default_timeout).total_seconds()


class ConnectorServiceConfig(Section):
    """`plugins.connector-service`."""

    default_connector: ConnectorConfig = ConnectorConfig()
    """Runs the types that no connector offers by itself and that are named in `supported-task-types`."""
    connectors: dict[str, ConnectorConfig] = {}
    connector_for_task_types: dict[str, str] = {}
    """Task type -> name in `connectors`; wins over what connectors say of themselves."""
    supported_task_types: tuple[str, ...] = ()
    """Types for the default connector, where it cannot be asked."""
    poll_interval: Duration = timedelta(seconds=10)
    """How often connectors are asked which types of tasks they run."""

    def endpoints(self) -> dict[str, ConnectorConfig]:
        """All connectors that have an endpoint, by name."""
        named = {name: config for name, config in self.connectors.items() if config.endpoint}
        return {**({"default": self.default_connector} if self.default_connector.endpoint else {}), **named}


class AgentServiceConfig(ConnectorServiceConfig):
    """`plugins.agent-service`."""

    aliases: ClassVar[Mapping[str, str]] = {
        "defaultagent": "default_connector",
        "agents": "connectors",
        "agentfortasktypes": "connector_for_task_types",
    }
