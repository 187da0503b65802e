"""What the delivery log tells, a delivery tried again, and test messages."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping

from google.protobuf.timestamp_pb2 import Timestamp

from aerodrome.idl.messages.v1.messages_pb2 import EntityVersion, ExecutionEnded
from aerodrome.notifier.domain.deliveries import Delivery, Status
from aerodrome.notifier.domain.planning import EMAIL, Channel, Texts, plan_test
from aerodrome.notifier.managers.delivering import DeliveringManager
from aerodrome.notifier.repositories.deliveries import NEWEST, DeliveryRepository, Filter
from aerodrome.stdlib.clock import Clock
from aerodrome.stdlib.errors import FailedPrecondition, InvalidArgument, NotFound
from aerodrome.stdlib.postgres.database import Database

MAX_ADDRESS_CHARS = 320


class AnsweringManager:
    """Answers people."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        delivering: DeliveringManager,
        channels: Mapping[str, Channel],
        texts: Texts,
        console: Callable[[], str],
    ) -> None:
        self._db = database
        self._clock = clock
        self._delivering = delivering
        self._channels = channels
        self._texts = texts
        self._console = console

    async def deliveries(self, wanted: Filter, *, before: int | None, limit: int) -> list[Delivery]:
        """The log, the newest first."""
        async with self._db.connection() as conn:
            return await DeliveryRepository(conn).page(wanted, before=before or NEWEST, limit=limit)

    async def retry(self, delivery_id: int) -> Delivery:
        """Send one again with the same key.  Raises NotFound, and FailedPrecondition if it was delivered."""
        async with self._db.transaction() as conn:
            deliveries = DeliveryRepository(conn)
            await deliveries.retry(delivery_id, self._clock.now())
            found = await deliveries.page(Filter(id=delivery_id), before=NEWEST, limit=1) if delivery_id > 0 else []
            if not found:
                raise NotFound(f"there is no delivery {delivery_id}")
            if found[0].status is Status.DELIVERED:
                raise FailedPrecondition(f"delivery {delivery_id} was delivered at {found[0].finished_at}")
        self._delivering.wake()
        return found[0]

    async def send_test(self, channel: str, email: str) -> list[Delivery]:
        """Send a test by a channel, or to an address, and wait for the outcome.

        Raises NotFound if the configuration has no such channel.
        """
        if email:
            if len(email) > MAX_ADDRESS_CHARS or "@" not in email or any(each.isspace() for each in email):
                raise InvalidArgument("email is no mail address")
            name, to = EMAIL, Channel("email", (email,))
        else:
            found = self._channels.get(channel)
            if found is None:
                known = ", ".join(sorted(self._channels)) or "none"
                raise NotFound(f"notifier.channels has no {channel}; it has: {known}")
            name, to = channel, found
        now = self._clock.now()
        at = Timestamp()
        at.FromDatetime(now)
        example = EntityVersion(project="flytesnacks", domain="development", name="example", version="v1")
        ended = ExecutionEnded(
            project="flytesnacks", domain="development", name="example", phase="SUCCEEDED",
            workflow=example, launch_plan=example, started_at=at, ended_at=at,
        )  # fmt: skip
        unique = secrets.token_hex(8)
        planned = plan_test(name, to, unique, self._console(), self._texts, ended)
        async with self._db.connection() as conn:
            ids = await DeliveryRepository(conn).receive(f"test {unique}", planned, now, once=True)
        await asyncio.gather(*(self._delivering.attempt(each) for each in await self._delivering.claim(ids)))
        async with self._db.connection() as conn:
            deliveries = DeliveryRepository(conn)
            return [each for made in ids for each in await deliveries.page(Filter(id=made), before=NEWEST, limit=1)]
