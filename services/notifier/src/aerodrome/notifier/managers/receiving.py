"""What the bus brings becomes deliveries: in one transaction, once for each message."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from aerodrome.notifier.domain.planning import MAX_DELIVERIES, Channel, Texts, plan, read
from aerodrome.notifier.domain.rules import Rule
from aerodrome.notifier.repositories.deliveries import DeliveryRepository
from aerodrome.stdlib.clock import Clock
from aerodrome.stdlib.logger import get_logger
from aerodrome.stdlib.postgres.database import Database

log = get_logger(__name__)


class ReceivingManager:
    """Keeps what is to be sent; `kept` is told when there is something new."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        rules: Sequence[Rule],
        channels: Mapping[str, Channel],
        texts: Texts,
        console: Callable[[], str],
        kept: Callable[[], None],
    ) -> None:
        self._db = database
        self._clock = clock
        self._rules = rules
        self._channels = channels
        self._texts = texts
        self._console = console
        self._kept = kept

    async def execution_ended(self, message_id: str, body: bytes) -> int:
        """Keep the deliveries that follow from an end; how many are new.  Repeating it changes nothing.

        An end of which nobody is to hear leaves no trace.  Raises InvalidArgument if `body` is no
        aerodrome.messages.v1.ExecutionEnded, and Unavailable and its like: then bring it again.
        """
        ended = read(body)
        planned = plan(ended, self._rules, self._channels, self._texts, self._console())
        if not planned:
            return 0
        if len(planned) > MAX_DELIVERIES:
            log.error(
                "notifications left out", execution=f"{ended.project}/{ended.domain}/{ended.name}",
                wanted=len(planned), kept=MAX_DELIVERIES,
            )  # fmt: skip
            planned = planned[:MAX_DELIVERIES]
        now = self._clock.now()
        async with self._db.connection() as conn:
            made = await DeliveryRepository(conn).receive(message_id, planned, now)
        if made:
            log.info(
                "notifications due", execution=f"{ended.project}/{ended.domain}/{ended.name}", phase=ended.phase,
                deliveries=len(made),
            )  # fmt: skip
            self._kept()
        return len(made)
