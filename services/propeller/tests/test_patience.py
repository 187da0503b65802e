"""A store whose trouble passes is asked again; one that says no is not."""

from __future__ import annotations

import asyncio

import pytest

from aerodrome.propeller.patience import PatientStorage
from aerodrome.stdlib.clock import ManualClock
from aerodrome.stdlib.errors import AerodromeError, NotFound, PermissionDenied, Unavailable
from aerodrome.stdlib.storage.memory import MemStorage
from aerodrome.stdlib.telemetry import Metrics


class Troubled(MemStorage):
    """Fails so many times before it answers."""

    def __init__(self, error: AerodromeError, times: int) -> None:
        super().__init__("box", clock=ManualClock())
        self.error = error
        self.times = times
        self.asked = 0

    async def read(self, reference: str, *, limit_bytes: int | None = None) -> bytes:
        self.asked += 1
        if self.asked <= self.times:
            raise self.error
        return await super().read(reference, limit_bytes=limit_bytes)


async def read(store: Troubled) -> bytes:
    clock = ManualClock()
    await store.write("mem://box/it", b"content")
    reading = asyncio.create_task(PatientStorage(store, clock).read("mem://box/it"))
    while not reading.done():
        await asyncio.sleep(0)
        await clock.advance(10.0)
    return await reading


@pytest.mark.parametrize("times", [0, 1, 5])
async def test_trouble_that_passes_is_waited_out(times: int) -> None:
    store = Troubled(Unavailable("not now"), times)
    assert await read(store) == b"content"
    assert store.asked == times + 1


async def test_trouble_and_success_are_counted_apart() -> None:
    store, clock, metrics = Troubled(Unavailable("not now"), 2), ManualClock(), Metrics()
    patient = PatientStorage(store, clock, metrics)
    await patient.write("mem://box/it", b"content")
    reading = asyncio.create_task(patient.read("mem://box/it"))
    while not reading.done():
        await asyncio.sleep(0)
        await clock.advance(10.0)
    with pytest.raises(NotFound):
        await patient.read("mem://box/nothing")
    shown = metrics.render().decode().splitlines()
    assert {
        "storage:read_open_ms_count 1", "storage:write_ms_count 1", "storage:read_failure_unrelated_to_cache 2",
        "storage:write_failure 0",
    } <= set(shown)  # fmt: skip


async def test_trouble_that_stays_is_told_in_the_end() -> None:
    store = Troubled(Unavailable("not now"), 1_000)
    with pytest.raises(Unavailable, match="not now"):
        await read(store)
    assert store.asked == 6


@pytest.mark.parametrize("error", [NotFound("none"), PermissionDenied("no")])
async def test_what_will_not_change_is_told_at_once(error: AerodromeError) -> None:
    store = Troubled(error, 1)
    with pytest.raises(type(error)):
        await read(store)
    assert store.asked == 1
