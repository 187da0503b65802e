"""Reservations: who computes what is not cached yet.  Source: spec/datacatalog-scheduler-notifier.md, A.6 and A.8."""

from __future__ import annotations

from datetime import timedelta

from flyteidl.cacheservice import cacheservice_pb2 as cache
from flyteidl.datacatalog import datacatalog_pb2 as catalog
from google.protobuf.duration_pb2 import Duration

from aerodrome.datacatalog.config import CatalogSection
from aerodrome.datacatalog.domain import validation
from aerodrome.datacatalog.domain.reservations import Held, check_interval, expiry, interval
from aerodrome.datacatalog.managers.counting import Counting
from aerodrome.datacatalog.repositories.reservations import ReservationRepository, Reserved
from aerodrome.datacatalog.transformers.catalog import duration, reservation, reserved
from aerodrome.stdlib.clock import Clock
from aerodrome.stdlib.errors import Conflict
from aerodrome.stdlib.logger import get_logger
from aerodrome.stdlib.postgres.database import Database

log = get_logger(__name__)

_TRIES = 5
_KEPT_AFTER_END = timedelta(days=1)


class ReservationManager:
    """GetOrExtendReservation and ReleaseReservation, of both services."""

    def __init__(self, database: Database, clock: Clock, config: CatalogSection, counting: Counting) -> None:
        self._db = database
        self._clock = clock
        self._config = config
        self._counting = counting
        if config.heartbeat_grace_period_multiplier < 2:
            log.warning(
                "reservations leave no room for a late heartbeat",
                multiplier=config.heartbeat_grace_period_multiplier,
                advice="set datacatalog.heartbeat-grace-period-multiplier to 2 or more",
            )

    async def get_or_extend(self, request: catalog.GetOrExtendReservationRequest) -> catalog.Reservation:
        """The caller's reservation, new or extended, or that of whoever has it: the owner says which."""
        problems = [
            *_problems(request),
            *check_interval(request.HasField("heartbeat_interval"), request.heartbeat_interval),
        ]
        validation.refuse(problems)
        what = reserved(request.reservation_id)
        held = await self._take(
            what, request.owner_id, request.HasField("heartbeat_interval"), request.heartbeat_interval
        )
        return reservation(what, held)

    async def release(self, request: catalog.ReleaseReservationRequest) -> None:
        """Give a reservation back; nothing happens if it is not the caller's."""
        validation.refuse(_problems(request))
        await self._release(reserved(request.reservation_id), request.owner_id)

    async def get_or_extend_cache(self, request: cache.GetOrExtendReservationRequest) -> cache.Reservation:
        """The same for a key of CacheService."""
        problems = [
            *_key_problems(request.key, request.owner_id),
            *check_interval(request.HasField("heartbeat_interval"), request.heartbeat_interval),
        ]
        validation.refuse(problems)
        held = await self._take(
            _of_key(request.key), request.owner_id, request.HasField("heartbeat_interval"), request.heartbeat_interval
        )
        message = cache.Reservation(key=request.key, owner_id=held.owner_id, heartbeat_interval=duration(held))
        message.expires_at.FromDatetime(held.expires_at)
        return message

    async def release_cache(self, request: cache.ReleaseReservationRequest) -> None:
        """The same for a key of CacheService."""
        validation.refuse(_key_problems(request.key, request.owner_id))
        await self._release(_of_key(request.key), request.owner_id)

    async def purge(self) -> int:
        """Remove what ended long ago; how many."""
        async with self._db.connection() as conn:
            return await ReservationRepository(conn).purge(self._clock.now() - _KEPT_AFTER_END)

    async def _take(self, what: Reserved, owner_id: str, interval_given: bool, asked: Duration) -> Held:
        config = self._config
        heartbeat = interval(interval_given, asked, config.max_reservation_heartbeat)
        async with self._db.connection() as conn:
            repository = ReservationRepository(conn)
            for _ in range(_TRIES):
                now = self._clock.now()
                wanted = Held(owner_id, heartbeat, expiry(now, heartbeat, config.heartbeat_grace_period_multiplier))
                taken = await repository.acquire(what, wanted, now=now)
                if taken is not None:
                    held, is_new = taken
                    self._counting.add("reservation", "acquired" if is_new else "extended")
                    return held
                other = await repository.find(what)
                if other is not None:  # else it was given back just now: try again
                    self._counting.add("reservation", "busy")
                    return other
        raise Conflict("the reservation changes hands too quickly; try again")

    async def _release(self, what: Reserved, owner_id: str) -> None:
        async with self._db.connection() as conn:
            released = await ReservationRepository(conn).release(what, owner_id)
        self._counting.add("reservation", "released" if released else "not_held")


def _problems(request: catalog.GetOrExtendReservationRequest | catalog.ReleaseReservationRequest) -> list[str]:
    identity = request.reservation_id
    return [
        *validation.dataset_id(identity.HasField("dataset_id"), identity.dataset_id),
        *validation.text("tag name", identity.tag_name),
        *validation.text("owner id", request.owner_id),
    ]


def _key_problems(key: str, owner_id: str) -> list[str]:
    return [*validation.text("key", key, validation.MAX_KEY_BYTES), *validation.text("owner id", owner_id)]


def _of_key(key: str) -> Reserved:
    return Reserved("cache", "", "", "", "", "", key)
