"""Writing what was decided, in groups: one transaction for what many slots bring at the same time."""

from __future__ import annotations

import asyncio

from aerodrome.scheduler.domain.records import Progress
from aerodrome.scheduler.managers.leading import Leadership

_GROUP = 500


class Recorder:
    """Collects steps while a group is being written, and writes them as the next one; a group has one step of each
    schedule."""

    def __init__(self, leadership: Leadership) -> None:
        self._leadership = leadership
        self._waiting: list[tuple[Progress, asyncio.Future[None]]] = []
        self._writing = asyncio.Lock()

    async def write(self, step: Progress) -> None:
        """Return once it is durable.  Raises NotLeading, Unavailable."""
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((step, written))
        async with self._writing:  # whoever comes first writes for those who came meanwhile
            while not written.done():
                await self._write_group()
        await written

    async def _write_group(self) -> None:
        chosen: dict[int, tuple[Progress, asyncio.Future[None]]] = {}
        later = []
        for each in self._waiting:
            if each[0].schedule_id in chosen or len(chosen) >= _GROUP:
                later.append(each)
            else:
                chosen[each[0].schedule_id] = each
        group, self._waiting = list(chosen.values()), later
        try:
            async with self._leadership.writing() as schedules:
                await schedules.record([step for step, _ in group])
        except asyncio.CancelledError:
            for _, written in group:
                written.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - each of those who wait for the group hears of it
            for _, written in group:
                if not written.done():
                    written.set_exception(error)
        else:
            for _, written in group:
                if not written.done():
                    written.set_result(None)
