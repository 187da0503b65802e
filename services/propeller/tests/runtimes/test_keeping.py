"""How long what attempts printed is kept."""

from __future__ import annotations

import asyncio
import os
from datetime import timedelta
from pathlib import Path

from aerodrome.propeller.runtimes import LocalRuntime
from aerodrome.propeller.runtimes.pods import Key
from aerodrome.propeller.runtimes.records import Directory, Record
from aerodrome.stdlib.clock import ManualClock


def log_of(directory: Directory, name: str, at: float, *, known: bool = False) -> Path:
    """The log of an attempt, last written at that instant, with a record if the attempt is `known`."""
    key = Key("p-d", name)
    if known:
        directory.write(key, Record({"metadata": {"namespace": "p-d", "name": name}}, at, "boot"))
    path = Path(directory.log(key))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("it said this")
    os.utime(path, (at, at))
    return path


def test_old_logs_go_unless_their_attempt_is_there(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    directory.open()
    old, kept, new = log_of(directory, "a.b", 10), log_of(directory, "c", 10, known=True), log_of(directory, "d", 30)
    beside = old.with_suffix(".txt")
    beside.touch()
    os.utime(beside, (10, 10))
    assert directory.forget_logs(20) == 1
    assert [each.exists() for each in (old, kept, new, beside)] == [False, True, True, True]
    assert directory.forget_logs(20) == 0
    directory.forget(Key("p-d", "c"))
    directory.forget(Key("p-d", "nobody"))
    assert not kept.exists()
    directory.close(properly=True)


async def test_a_runtime_looks_now_and_then(tmp_path: Path) -> None:
    clock = ManualClock()
    path = log_of(Directory(tmp_path), "old", clock.now().timestamp())
    runtime = LocalRuntime(tmp_path, clock=clock, keep_logs=timedelta(hours=1), slots=1)
    running = asyncio.create_task(runtime.run())
    try:
        await runtime.list()  # it is open
        await clock.advance(1_800)
        assert path.exists()
        async with asyncio.timeout(30):
            while path.exists():
                await clock.advance(600)
                await asyncio.sleep(0.02)
        await runtime.forget_pods("p-d", ["old", "never there"])
        await runtime.forget_pods("no DNS name", ["old"])
    finally:
        running.cancel()
        await asyncio.wait([running])
