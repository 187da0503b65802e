"""A store fails as a test plans it, and only then."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aerodrome.stdlib import faults
from aerodrome.stdlib.errors import Unavailable
from aerodrome.stdlib.storage.faulty import FaultyLocalStorage


@pytest.fixture
async def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FaultyLocalStorage]:
    (tmp_path / "store").mkdir()
    monkeypatch.setattr(faults, "_faults", faults.Faults(tmp_path))
    async with FaultyLocalStorage(str(tmp_path / "store")) as opened:
        yield opened


def plan(tmp_path: Path, line: str) -> None:
    (tmp_path / "next").write_text(f"{line}\n")
    (tmp_path / "next").rename(tmp_path / "plan")


async def test_reads_fail_and_are_cut_short(store: FaultyLocalStorage, tmp_path: Path) -> None:
    reference = store.join("it")
    await store.write(reference, b"content")
    plan(tmp_path, "storage.read 1 fail")
    with pytest.raises(Unavailable):
        await store.read(reference)
    assert await store.read(reference) == b"content"
    (tmp_path / "fired-0").unlink()
    plan(tmp_path, "storage.read 1 cut")
    assert await store.read(reference) == b"conten"
    assert await store.read(reference) == b"content"


@pytest.mark.parametrize(("what", "left"), [("fail", b"old"), ("late", b"newer"), ("cut", b"newe")])
async def test_writes_fail_before_and_after_and_in_between(
    what: str, left: bytes, store: FaultyLocalStorage, tmp_path: Path
) -> None:
    reference = store.join("it")
    await store.write(reference, b"old")
    plan(tmp_path, f"storage.write 1 {what}")
    with pytest.raises(Unavailable):
        await store.write(reference, b"newer")
    assert await store.read(reference) == left


async def test_a_fault_that_nobody_knows_is_told(store: FaultyLocalStorage, tmp_path: Path) -> None:
    plan(tmp_path, "storage.delete 1 explode")
    with pytest.raises(ValueError, match="explode"):
        await store.delete(store.join("it"))
