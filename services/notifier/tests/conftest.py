"""Notifiers on a manual clock and a real database, and real receivers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from flyteidl.admin.common_pb2 import Notification
from google.protobuf.json_format import ParseDict

from aerodrome.idl.messages.v1.messages_pb2 import EntityVersion, ExecutionEnded
from aerodrome.idl.notifier.v1 import notifier_pb2 as messages
from aerodrome.idl.notifier.v1.notifier_pb2_grpc import NotifierServiceStub
from aerodrome.notifier.config import NotifierConfig
from aerodrome.notifier.main import MIGRATIONS, SERVICE, Notifier
from aerodrome.notifier.testing import Endpoint, MailServer, endpoint, mail_server
from aerodrome.stdlib.clock import ManualClock
from aerodrome.stdlib.postgres.database import Database
from aerodrome.stdlib.postgres.testing import ServerForTests, fresh_database, postgres_server
from aerodrome.stdlib.pubsub.memory import MemoryBus
from aerodrome.stdlib.rpc.direct import DirectChannel
from aerodrome.stdlib.rpc.registry import Registry

__all__ = ["postgres_server"]

START = datetime(2026, 3, 2, 12, 0, 0, tzinfo=UTC)
HOOK_SECRET = "the-signing-secret"
LOCAL = {"network": {"allow": ["127.0.0.0/8"]}}


def ended(name: str = "run", phase: str = "FAILED", number: int = 7, **fields: Any) -> ExecutionEnded:
    """The end of an execution of launch plan `lp`."""
    version = EntityVersion(project="fly", domain="development", name="lp", version="v1")
    workflow = EntityVersion(project="fly", domain="development", name="wf.main", version="v1")
    message = ExecutionEnded(
        execution_id=number, project="fly", domain="development", name=name, phase=phase, workflow=workflow,
        launch_plan=version, principal="ann", mode="MANUAL",
    )  # fmt: skip
    message.started_at.FromDatetime(START)
    message.ended_at.FromDatetime(START.replace(minute=1, second=5))
    if phase == "FAILED":
        message.error.code, message.error.message, message.error.kind = (
            "USER:ValueError",
            "<b>no</b> {{ project }}",
            "USER",
        )
    message.labels.update(fields.pop("labels", {"team": "birds"}))
    for each in fields.pop("notifications", ()):
        message.notifications.append(each)
    message.MergeFrom(ExecutionEnded(**fields))
    return message


async def until(look: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait until that is true.  Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not look():  # noqa: ASYNC110 - what it looks at is another thread's
            await asyncio.sleep(0.01)


def notification(kind: str, *recipients: str, phases: tuple[str, ...] = ("FAILED",), template: str = "") -> bytes:
    """What an execution asks for."""
    made = ParseDict({"phases": list(phases)}, Notification())
    getattr(made, kind).recipients_email.extend(recipients)
    getattr(made, kind).template = template
    return made.SerializeToString()


@dataclass
class World:
    """A database, a clock, receivers; notifiers are added by `notifier`."""

    clock: ManualClock
    database: Database
    endpoint: Endpoint
    bus: MemoryBus = field(default_factory=MemoryBus)
    made: list[Notifier] = field(default_factory=list)

    def notifier(self, notifications: dict[str, Any] | None = None, **section: Any) -> Notifier:
        """Another replica; by default each end that is no success goes to a signed webhook `hook`."""
        hook = {"type": "webhook", "url": self.endpoint.url, "secret": HOOK_SECRET}
        settings = {
            "channels": {"hook": hook},
            "rules": [{"name": "all", "channels": ["hook"]}],
            "console_url": "https://console.example.org/",
            **LOCAL,
        } | section
        config = NotifierConfig.model_validate({"notifications": notifications or {}, "notifier": settings})
        made = Notifier(config, database=self.database, bus=self.bus, clock=self.clock)
        self.made.append(made)
        return made

    def ask(self, notifier: Notifier) -> Any:
        """The notifier's own service."""
        registry = Registry()
        for add_to_server, servicer in notifier.services():
            registry.add(add_to_server, servicer)
        make: Any = NotifierServiceStub
        return make(DirectChannel([registry]))

    async def log(self, notifier: Notifier, **wanted: Any) -> list[Any]:
        """The delivery log, the oldest first."""
        request = messages.ListDeliveriesRequest(filter=messages.DeliveryFilter(**wanted))
        return list(reversed((await self.ask(notifier).ListDeliveries(request)).deliveries))


@pytest.fixture
def receiver() -> Iterator[Endpoint]:
    with endpoint() as made:
        yield made


@pytest.fixture
def mails() -> Iterator[MailServer]:
    with mail_server() as made:
        yield made


@pytest.fixture
async def world(postgres_server: ServerForTests, receiver: Endpoint) -> AsyncIterator[World]:
    async with fresh_database(postgres_server, MIGRATIONS, service=SERVICE) as database:
        world = World(ManualClock(START), database, receiver)
        try:
            yield world
        finally:
            for each in world.made:
                await each.aclose()


def smtp(mails: MailServer, **server: Any) -> dict[str, Any]:
    """The section `notifications` for a mail server."""
    return {
        "emailer": {
            "email_server_config": {
                "service_name": "smtp", "smtp_server": "127.0.0.1", "smtp_port": mails.port, **server,
            },
            "sender": "Flyte <flyte@example.org>",
            "subject": "[{{ domain }}] {{launch_plan.name}} {{ phase }}",
            "body": "<p>{{ project }}/{{ domain }}/{{ name }} ended as {{ phase }}.{{ error }}</p>",
        }
    }  # fmt: skip
