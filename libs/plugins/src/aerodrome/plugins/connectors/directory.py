"""Which connector runs which type of task: what configuration says, and what the connectors say of themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from aerodrome.plugins.connectors.client import ConnectorClient
from aerodrome.plugins.connectors.config import ConnectorServiceConfig
from aerodrome.stdlib.clock import Clock
from aerodrome.stdlib.errors import AerodromeError, FailedPrecondition, Unimplemented
from aerodrome.stdlib.logger import get_logger

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Offer:
    """A connector that runs a type of task."""

    client: ConnectorClient
    is_sync: bool


class ConnectorDirectory:
    """What is known of the connectors; asked again at each `poll-interval`, and when a type is not known."""

    def __init__(self, config: ConnectorServiceConfig, clock: Clock) -> None:
        """Raises FailedPrecondition if configuration names a connector that there is not."""
        self._config = config
        self._clock = clock
        self._clients = {name: ConnectorClient(name, each) for name, each in config.endpoints().items()}
        for task_type, name in config.connector_for_task_types.items():
            if name not in self._clients:
                raise FailedPrecondition(
                    f"plugins.connector-service.connectorForTaskTypes gives {task_type} to {name!r}, which is no "
                    f"connector with an endpoint (there are: {', '.join(self._clients) or 'none'})"
                )
        self._offers: dict[str, dict[tuple[str, int], bool]] = {}
        """By connector: task type and version -> whether it runs in one call."""
        self._problems: dict[str, str] = {}
        """By connector: why it could not be asked last time."""
        self._asked_at: float | None = None
        self._asking = asyncio.Lock()

    @property
    def task_types(self) -> frozenset[str]:
        """All that somebody runs."""
        offered = {name for offers in self._offers.values() for name, _ in offers}
        supported = self._config.supported_task_types if "default" in self._clients else ()
        return frozenset({*offered, *self._config.connector_for_task_types, *supported})

    @property
    def problems(self) -> Mapping[str, str]:
        """Connectors that could not be asked, and why."""
        return self._problems

    def find(self, task_type: str, version: int) -> Offer | None:
        """Who runs tasks of this type and version; a connector of another version does if there is none of this."""
        named = self._config.connector_for_task_types.get(task_type)
        if named is not None:
            return Offer(self._clients[named], self._is_sync(named, task_type, version))
        for wanted in (version, None):
            for name, offers in self._offers.items():
                for (known, its_version), is_sync in offers.items():
                    if known == task_type and wanted in (None, its_version):
                        return Offer(self._clients[name], is_sync)
        if task_type in self._config.supported_task_types and "default" in self._clients:
            return Offer(self._clients["default"], is_sync=False)
        return None

    async def learn(self, task_type: str) -> None:
        """Ask the connectors if this type is not known and they were not asked just now."""
        if task_type in self.task_types:
            return
        async with self._asking:
            patience = min(self._config.poll_interval.total_seconds(), 1.0)
            if self._asked_at is None or self._clock.boottime() - self._asked_at >= patience:
                await self._ask()

    async def serve(self) -> None:
        """Ask them again and again until cancelled; their connections are closed then."""
        try:
            while True:
                async with self._asking:
                    await self._ask()
                await self._clock.sleep(self._config.poll_interval.total_seconds())
        finally:
            for client in self._clients.values():
                await client.aclose()

    async def _ask(self) -> None:
        await asyncio.gather(*(self._ask_one(client) for client in self._clients.values()))
        self._asked_at = self._clock.boottime()

    async def _ask_one(self, client: ConnectorClient) -> None:
        try:
            agents = await client.list_agents()
        except Unimplemented:
            self._problems.pop(client.name, None)  # it has no directory; configuration says what it runs
            return
        except AerodromeError as error:
            if client.name not in self._problems:
                log.warning("a connector does not answer", connector=client.name, endpoint=client.config.endpoint)
            self._problems[client.name] = f"{client.name} ({client.config.endpoint}): {error.message}"
            return
        if self._problems.pop(client.name, None) is not None:
            log.info("a connector answers again", connector=client.name)
        offers = {}
        for agent in agents:
            for category in agent.supported_task_categories:
                offers[category.name, category.version] = agent.is_sync
            for task_type in agent.supported_task_types:  # how it was said before there were categories
                offers.setdefault((task_type, 0), agent.is_sync)
        if offers != self._offers.get(client.name):
            log.info("a connector runs tasks", connector=client.name, types=sorted({name for name, _ in offers}))
        self._offers[client.name] = offers

    def _is_sync(self, name: str, task_type: str, version: int) -> bool:
        offers = self._offers.get(name, {})
        others = [is_sync for (known, _), is_sync in offers.items() if known == task_type]
        return offers.get((task_type, version), others[0] if others else False)
