"""Sends what is due: claimed with an open attempt, sent, recorded, each by a statement of its own.

A process that ends between the claim and the record leaves the attempt open; when its time is over another one, or the
same after a restart, marks it as interrupted and sends again, with the same key.  So each delivery arrives at least
once, or is given up with a reason.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from aerodrome.notifier.config import NotifierSection
from aerodrome.notifier.domain.deliveries import (
    Claimed,
    Outcome,
    Planned,
    Result,
    Status,
    Verdict,
    judge,
    judge_interrupted,
)
from aerodrome.notifier.repositories.deliveries import DeliveryRepository
from aerodrome.notifier.senders.port import Sender, shown
from aerodrome.stdlib.clock import Clock, sleep_unless
from aerodrome.stdlib.errors import AerodromeError
from aerodrome.stdlib.logger import get_logger
from aerodrome.stdlib.postgres.database import Database
from aerodrome.stdlib.telemetry.metrics import Metrics

log = get_logger(__name__)

GRACE = timedelta(seconds=2)
"""How much longer than an attempt may take its process is believed to be alive."""
_TROUBLE_SECONDS = 1.0
_RECORDING_TRIES = 4


class DeliveringManager:
    """The way of deliveries; `senders` are by kind."""

    def __init__(
        self,
        section: NotifierSection,
        database: Database,
        clock: Clock,
        senders: Mapping[str, Sender],
        metrics: Metrics,
        chance: random.Random | None = None,
    ) -> None:
        self._patience = section.retry.as_patience()
        self._timeout = section.timeout
        self._resync = section.resync
        self._slots = section.concurrency
        self._per_channel = max(1, section.concurrency // 4)
        self._db = database
        self._clock = clock
        self._senders = senders
        self._chance = chance or random.Random()
        self._wake = asyncio.Event()
        self._running: dict[asyncio.Task[None], str] = {}
        scope = f"{section.metrics_scope}notifier:"
        self._sends = metrics.counter(f"{scope}send_total", ["kind"])
        self._successes = metrics.counter(f"{scope}send_success", ["kind"])
        self._errors = metrics.counter(f"{scope}send_error", ["kind"])
        self._given_up = metrics.counter(f"{scope}given_up_total", ["kind"])

    def wake(self) -> None:
        """Look now: something may be due."""
        self._wake.set()

    async def tick(self) -> int:
        """Send all that is due now, and wait for the ends; how many attempts that took.  Raises Unavailable."""
        count = 0
        while claimed := await self._claim(self._slots):
            count += len(claimed)
            await asyncio.gather(*(self.attempt(each) for each in claimed))
        return count

    async def run(self) -> None:
        """Send what is due when it is due, until cancelled; then what has begun is finished."""
        try:
            while True:
                self._wake.clear()
                try:
                    seconds = await self._start_due()
                except AerodromeError as error:
                    log.warning("notifications wait for the database", error=error.message)
                    seconds = _TROUBLE_SECONDS
                await sleep_unless(self._clock, seconds, self._wake)
        finally:
            running = set(self._running)
            if running:
                _, late = await asyncio.wait(running, timeout=min(self._timeout, GRACE).total_seconds())
                for task in late:
                    task.cancel()
                if late:
                    await asyncio.wait(late)

    async def attempt(self, claimed: Claimed) -> None:
        """Make the attempt that was claimed, and record what became of it."""
        refused = judge_interrupted(claimed, self._clock.now(), self._patience)
        if refused is not None:
            now = self._clock.now()
            result = Result(Outcome.REFUSED, error=refused)
            verdict = Verdict(Status.FAILED, now, refused, failed=True)
        else:
            result = await self._send(claimed.delivery)
            now = self._clock.now()
            verdict = judge(claimed, result, now, self._patience, self._chance)
        await self._record(claimed, result, verdict, now)

    async def claim(self, ids: Sequence[int]) -> list[Claimed]:
        """Take these deliveries, if nobody has."""
        now = self._clock.now()
        async with self._db.connection() as conn:
            return await DeliveryRepository(conn).claim(now, self._until(now), len(ids), ids=ids)

    # Claiming

    async def _start_due(self) -> float:
        """Begin what is due as far as there is room; how long to sleep unless woken, in seconds."""
        while (room := self._slots - len(self._running)) > 0:
            claimed = await self._claim(min(room, self._per_channel), self._full_channels())
            for each in claimed:
                task = asyncio.create_task(self._attempt_alone(each), name=f"deliver {each.id}")
                self._running[task] = each.delivery.channel
                task.add_done_callback(self._landed)
            if not claimed:
                break
        else:
            return self._resync.total_seconds()  # the end of any attempt wakes us
        async with self._db.connection() as conn:
            due = await DeliveryRepository(conn).next_due(self._full_channels())
        longest = self._resync.total_seconds()
        return longest if due is None else max(0.0, min(longest, (due - self._clock.now()).total_seconds()))

    async def _claim(self, most: int, without: Sequence[str] = ()) -> list[Claimed]:
        now = self._clock.now()
        async with self._db.connection() as conn:
            return await DeliveryRepository(conn).claim(now, self._until(now), most, without=without)

    def _until(self, now: datetime) -> datetime:
        return now + self._timeout + GRACE

    def _full_channels(self) -> list[str]:
        """Those that have their share of the slots: one that does not answer must not hold up the others."""
        return [name for name, count in Counter(self._running.values()).items() if count >= self._per_channel]

    def _landed(self, task: asyncio.Task[None]) -> None:
        self._running.pop(task, None)
        self._wake.set()

    async def _attempt_alone(self, claimed: Claimed) -> None:
        try:
            await self.attempt(claimed)
        except AerodromeError as error:
            # The attempt stays open, so the delivery is sent again when its time is over.
            log.warning("outcome of a notification not recorded", delivery=claimed.id, error=error.message)
        except Exception:  # one delivery's trouble stays its own
            log.exception("notification not handled", delivery=claimed.id)

    # Sending and recording

    async def _send(self, delivery: Planned) -> Result:
        sender = self._senders.get(delivery.kind)
        if sender is None:
            return Result(Outcome.REFUSED, error=f"this release cannot send {delivery.kind}")
        self._sends.add(kind=delivery.kind)
        try:
            async with asyncio.timeout(self._timeout.total_seconds()):
                return await sender.send(delivery)
        except TimeoutError:
            seconds = self._timeout.total_seconds()
            return Result(Outcome.POSTPONED, error=f"no answer within {seconds:g} s (notifier.timeout)")
        except Exception as error:  # noqa: BLE001 - a defect; its text might hold what is secret
            log.error("sender failed", kind=delivery.kind, key=delivery.key, error=type(error).__name__)
            return Result(Outcome.POSTPONED, error=shown(f"the sender failed: {type(error).__name__}"))

    async def _record(self, claimed: Claimed, result: Result, verdict: Verdict, now: datetime) -> None:
        """Keep the outcome; while the database is away it is tried again, for as long as nobody else takes over."""
        for number in range(_RECORDING_TRIES):
            try:
                async with self._db.connection() as conn:
                    await DeliveryRepository(conn).record(claimed, result, verdict, now)
                break
            except AerodromeError:
                if number == _RECORDING_TRIES - 1:
                    raise
                await self._clock.sleep(_TROUBLE_SECONDS)
        self._tell(claimed, result, verdict)

    def _tell(self, claimed: Claimed, result: Result, verdict: Verdict) -> None:
        delivery = claimed.delivery
        fields = {
            "delivery": claimed.id,
            "execution": f"{delivery.project}/{delivery.domain}/{delivery.execution}",
            "channel": delivery.channel,
            "recipient": delivery.recipient,
            "attempt": claimed.attempt,
        }
        match verdict.status:
            case Status.DELIVERED:
                self._successes.add(kind=delivery.kind)
                log.info("notification delivered", **fields)
            case Status.WAITING:
                self._errors.add(kind=delivery.kind)
                log.warning("notification postponed", **fields, error=result.error, until=verdict.due_at.isoformat())
            case Status.FAILED:
                self._errors.add(kind=delivery.kind)
                self._given_up.add(kind=delivery.kind)
                log.error("notification failed for good", **fields, error=verdict.error)
            case Status.NOT_SENT:
                pass  # its sender has said so
