"""Removes what nobody needs any more: dead reservations, and blobs that nothing refers to."""

from __future__ import annotations

from datetime import timedelta

from aerodrome.datacatalog.managers.blobs import Blobs
from aerodrome.datacatalog.managers.reservations import ReservationManager
from aerodrome.stdlib.clock import Clock
from aerodrome.stdlib.errors import AerodromeError
from aerodrome.stdlib.logger import get_logger

log = get_logger(__name__)


class Upkeep:
    """A loop around `tick`."""

    def __init__(self, reservations: ReservationManager, blobs: Blobs, clock: Clock, every: timedelta) -> None:
        self._reservations = reservations
        self._blobs = blobs
        self._clock = clock
        self._every = every

    async def run(self) -> None:
        """Work until cancelled; what fails is tried again with the next round."""
        while True:
            await self._clock.sleep(self._every.total_seconds())
            try:
                await self.tick()
            except AerodromeError as error:
                log.warning("upkeep failed", reason=error.message)

    async def tick(self) -> None:
        """Once."""
        reservations = await self._reservations.purge()
        blobs = await self._blobs.clean()
        if reservations or blobs:
            log.info("upkeep", reservations=reservations, blobs=blobs)
