"""What the local directory adds: real files that tasks share, links, and what outlives a restart."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aerodrome.stdlib import blocking
from aerodrome.stdlib.errors import AerodromeError, FailedPrecondition, InvalidArgument, NotFound, PermissionDenied
from aerodrome.stdlib.storage import Storage
from aerodrome.stdlib.storage.local import LocalStorage


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    directory = tmp_path / "outside"
    directory.mkdir()
    (directory / "secret").write_bytes(b"secret")
    return directory


async def test_references_are_plain_paths_and_files_are_what_was_written(local: Storage, tmp_path: Path) -> None:
    assert local.base == str(tmp_path / "a store")
    await local.write(local.join("x/y"), b"content")
    assert Path(local.join("x/y")).read_bytes() == b"content"


async def test_what_tasks_write_is_found(local: Storage) -> None:
    Path(local.base, "task").mkdir()
    Path(local.base, "task", "outputs.pb").write_bytes(b"made by a task")
    assert await local.read(local.join("task/outputs.pb")) == b"made by a task"
    assert [reference async for reference, _ in local.list(local.join("task"))] == [local.join("task/outputs.pb")]


async def test_file_urls_are_understood_for_reading_only(local: Storage) -> None:
    await local.write(local.join("x"), b"content")
    url = "file://" + local.join("x")
    assert await local.read(url) == b"content"
    assert await local.head(url) is not None
    assert [reference async for reference, _ in local.list(url)] == [local.join("x")]
    with pytest.raises(PermissionDenied):
        await local.write(url, b"")
    with pytest.raises(PermissionDenied):
        await local.delete(url)


async def test_no_file_that_is_being_written_shows(local: Storage) -> None:
    await local.write(local.join("d/x"), b"1")
    assert os.listdir(local.join("d")) == ["x"]
    with pytest.raises(PermissionDenied):
        await local.write(local.join("d/.aerodrome-tmp"), b"")
    with pytest.raises(PermissionDenied):
        await local.read(local.join(".aerodrome/md5/x"))


@pytest.mark.parametrize("target", ["{outside}", "../../outside", "{outside}/secret"])
async def test_links_that_lead_outside_are_refused(local: Storage, outside: Path, target: str) -> None:
    await local.write(local.join("kept"), b"x")
    Path(local.base, "d").mkdir()
    Path(local.base, "d", "link").symlink_to(target.format(outside=outside))
    for reference in (local.join("d/link"), local.join("d/link/secret")):
        with pytest.raises(PermissionDenied, match="outside"):
            await local.read(reference)
        with pytest.raises(PermissionDenied):
            await local.head(reference)
        with pytest.raises((PermissionDenied, NotFound)):
            await local.copy(reference, local.join("stolen"))
    with pytest.raises(AerodromeError):
        await local.write(local.join("d/link/new"), b"x")
    assert sorted(os.listdir(outside)) == ["secret"]


async def test_writing_over_a_link_replaces_the_link(local: Storage, outside: Path) -> None:
    Path(local.base, "link").symlink_to(outside / "secret")
    await local.write(local.join("link"), b"new")
    assert not Path(local.base, "link").is_symlink()
    assert (outside / "secret").read_bytes() == b"secret"


async def test_links_inside_are_followed(local: Storage) -> None:
    await local.write(local.join("real/x"), b"content")
    Path(local.base, "absolute").symlink_to(local.join("real"))
    Path(local.base, "relative").symlink_to("real")
    Path(local.base, "file").symlink_to("relative/x")
    assert await local.read(local.join("absolute/x")) == b"content"
    assert await local.read(local.join("relative/x")) == b"content"
    assert await local.read(local.join("file")) == b"content"
    await local.write(local.join("relative/y"), b"new")
    assert await local.read(local.join("real/y")) == b"new"


async def test_a_link_to_itself_and_a_link_to_a_parent_end(local: Storage) -> None:
    Path(local.base, "loop").symlink_to("loop")
    Path(local.base, "d").mkdir()
    Path(local.base, "d", "up").symlink_to("..")
    with pytest.raises(AerodromeError):
        await local.read(local.join("loop"))
    await local.write(local.join("d/x"), b"1")
    found = [reference async for reference, _ in local.list(local.join("d"))]
    assert found == [local.join("d/x")]


async def test_deleting_and_freezing_do_not_follow_links(local: Storage, outside: Path) -> None:
    Path(local.base, "d").mkdir()
    Path(local.base, "d", "directory").symlink_to(outside)
    Path(local.base, "d", "file").symlink_to(outside / "secret")
    mode = (outside / "secret").stat().st_mode
    await local.freeze(local.join("d"))
    assert (outside / "secret").stat().st_mode == mode
    await local.delete_prefix(local.join("d"))
    assert not Path(local.base, "d").exists()
    assert (outside / "secret").read_bytes() == b"secret"


async def test_a_directory_that_turns_into_a_link_leads_nowhere(local: Storage, outside: Path) -> None:
    """Readers and writers race against somebody who swaps a directory for a link that leads outside."""
    stop = threading.Event()
    Path(local.base, "real").mkdir()
    Path(local.base, "real", "secret").write_bytes(b"inside")
    Path(local.base, "swapped").symlink_to("real")

    def swap() -> None:
        while not stop.is_set():
            for target in (str(outside), "real"):
                fresh = Path(local.base, "fresh")
                fresh.symlink_to(target)
                fresh.rename(Path(local.base, "swapped"))

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        for _ in range(300):
            try:
                assert await local.read(local.join("swapped/secret")) == b"inside"
                await local.write(local.join("swapped/planted"), b"x")
            except (PermissionDenied, NotFound):
                continue
    finally:
        stop.set()
        swapper.join()
    assert os.listdir(outside) == ["secret"]


class TestFrozen:
    async def test_nothing_can_be_written_over_or_beside(self, local: Storage) -> None:
        await local.write(local.join("n0/0/outputs.pb"), b"result")
        await local.write(local.join("n0/0/raw/part"), b"raw")
        await local.freeze(local.join("n0/0"))
        for name in ("outputs.pb", "another", "raw/part", "raw/deep/new"):
            with pytest.raises(PermissionDenied, match="read-only"):
                await local.write(local.join("n0/0", name), b"changed")
        with pytest.raises(PermissionDenied, match="read-only"):
            await local.copy(local.join("n0/0/raw/part"), local.join("n0/0/outputs.pb"))
        assert await local.read(local.join("n0/0/outputs.pb")) == b"result"
        await local.write(local.join("n0/1/outputs.pb"), b"the next attempt is free")

    async def test_modes_forbid_writing_to_everybody(self, local: Storage) -> None:
        await local.write(local.join("d/e/x"), b"1")
        await local.freeze(local.join("d"))
        for path in ("d", "d/e", "d/e/x"):
            assert stat.S_IMODE(os.stat(local.join(path)).st_mode) & 0o222 == 0

    async def test_a_single_object_can_be_frozen(self, local: Storage) -> None:
        await local.write(local.join("d/x"), b"1")
        await local.freeze(local.join("d/x"))
        with pytest.raises(PermissionDenied):
            await local.write(local.join("d/x"), b"2")
        await local.write(local.join("d/y"), b"2")

    async def test_it_can_be_deleted_by_the_platform(self, local: Storage) -> None:
        await local.write(local.join("d/e/x"), b"1")
        await local.write(local.join("d/e/y"), b"1")
        await local.freeze(local.join("d"))
        await local.delete(local.join("d/e/x"))
        assert stat.S_IMODE(os.stat(local.join("d/e")).st_mode) & 0o222 == 0
        assert await local.delete_prefix(local.join("d/e")) == 1
        assert await local.delete_prefix(local.join("d")) == 0
        assert os.listdir(local.base) == []


async def test_an_object_cannot_replace_a_directory_nor_hold_one(local: Storage) -> None:
    await local.write(local.join("a/b"), b"1")
    with pytest.raises(FailedPrecondition, match="directory"):
        await local.write(local.join("a"), b"1")
    with pytest.raises(FailedPrecondition, match="below"):
        await local.write(local.join("a/b/c"), b"1")
    with pytest.raises(NotFound):
        await local.read(local.join("a/b/c"))


async def test_names_that_no_file_can_have_are_refused(local: Storage) -> None:
    with pytest.raises(InvalidArgument):
        await local.write(local.join("x" * 300), b"")
    with pytest.raises(InvalidArgument):
        await local.write(local.join("\udcff"), b"")


async def test_pipes_are_no_objects_and_hold_nobody_up(local: Storage) -> None:
    os.mkfifo(local.join("pipe"))
    with pytest.raises(NotFound):
        await asyncio.wait_for(local.read(local.join("pipe")), 5)


async def test_a_stated_md5_outlives_a_restart_and_not_a_change(tmp_path: Path) -> None:
    base = str(tmp_path / "store")
    async with LocalStorage(base) as storage:
        upload = await storage.begin_upload(storage.join("d/x"))
        await upload.write(b"con")
        await upload.write(b"tent")
        assert await storage.head(storage.join("d/x")) is None
        await upload.commit("an md5")
    async with LocalStorage(base) as storage:
        found = await storage.head(storage.join("d/x"))
        assert found is not None
        assert found.content_md5 == "an md5"
        await storage.write(storage.join("d/x"), b"changed")
        found = await storage.head(storage.join("d/x"))
        assert found is not None
        assert found.content_md5 is None


async def test_deleting_leaves_no_side_files(tmp_path: Path) -> None:
    async with LocalStorage(str(tmp_path)) as storage:
        for name in ("a", "d/b"):
            upload = await storage.begin_upload(storage.join(name))
            await upload.commit("md5")
        await storage.delete(storage.join("a"))
        await storage.delete_prefix(storage.join("d"))
    assert [path for path in (tmp_path / ".aerodrome").rglob("*") if path.is_file()] == []


async def test_an_abandoned_upload_leaves_nothing(tmp_path: Path) -> None:
    async with LocalStorage(str(tmp_path)) as storage:
        upload = await storage.begin_upload(storage.join("x"))
        await upload.write(b"1")
        await upload.abort()
        with pytest.raises(FailedPrecondition):
            await upload.write(b"2")
    assert os.listdir(tmp_path) == []


async def test_further_containers_are_part_of_the_store(tmp_path: Path) -> None:
    other = tmp_path / "other"
    async with LocalStorage(str(tmp_path / "base"), containers=[str(other)]) as storage:
        await storage.write(f"{other}/x", b"1")
        assert (other / "x").read_bytes() == b"1"
        with pytest.raises(PermissionDenied, match=r"storage\.containers"):
            await storage.read(f"{tmp_path}/third/x")


async def test_a_base_behind_a_link_works_under_both_names(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    async with LocalStorage(str(tmp_path / "link" / "store")) as storage:
        await storage.write(storage.join("x"), b"1")
        assert storage.join("x") == str(tmp_path / "link/store/x")
        assert await storage.read(str(tmp_path / "real/store/x")) == b"1"


async def test_flushed_writes_are_written_too(tmp_path: Path) -> None:
    async with LocalStorage(str(tmp_path), sync_writes=True) as storage:
        await storage.write(storage.join("d/x"), b"1")
        assert await storage.read(storage.join("d/x")) == b"1"


async def test_an_unusable_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FailedPrecondition, match="file/store"):
        async with LocalStorage(str(tmp_path / "file" / "store")):
            pass
    with pytest.raises(InvalidArgument, match="absolute"):
        LocalStorage("relative")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.sampled_from(["..", ".", "a", "link", "up", "", "in", "~", "\0", "....", "a\n"]), min_size=1, max_size=8
    )
)
async def test_no_path_escapes(tmp_path: Path, parts: list[str]) -> None:
    base = tmp_path / "store"
    shutil.rmtree(base, ignore_errors=True)
    (base / "a").mkdir(parents=True)
    (tmp_path / "target").mkdir(exist_ok=True)
    (base / "link").symlink_to(tmp_path / "target")
    (base / "up").symlink_to("..")
    (base / "in").symlink_to("a")
    before = sorted(path.name for path in tmp_path.iterdir())
    async with LocalStorage(str(base)) as storage:
        try:
            await storage.write(f"{base}/{'/'.join(parts)}", b"x")
        except AerodromeError:
            pass
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert list((tmp_path / "target").iterdir()) == []


async def test_on_a_slow_disk_many_accesses_at_once_each_get_their_own_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocking, "SLOW_SECONDS", 0.0)
    monkeypatch.setattr(blocking, "SLOW_IN_A_ROW", 1)
    async with LocalStorage(str(tmp_path)) as storage:
        await storage.write(storage.join("first"), b"")  # too slow for the loop: from here on threads do it
        await asyncio.gather(*(storage.write(storage.join("many", str(n)), b"%d" % n) for n in range(500)))
        names = [storage.join("many", str(n)) for n in range(0, 1000, 2)]
        forgotten = asyncio.create_task(storage.read(names[0]))
        await asyncio.sleep(0)
        forgotten.cancel()
        found = await asyncio.gather(*(storage.read(name) for name in names), return_exceptions=True)
        assert found[:250] == [b"%d" % n for n in range(0, 500, 2)]
        assert all(isinstance(each, NotFound) for each in found[250:])
        assert len(found) == 500


async def test_a_small_directory_is_frozen_like_a_large_one(tmp_path: Path) -> None:
    async with LocalStorage(str(tmp_path)) as storage:
        for size in (1, 20):
            for n in range(size):
                await storage.write(storage.join(str(size), f"{n}.pb"), b"x")
            await storage.freeze(storage.join(str(size)))
            with pytest.raises(PermissionDenied):
                await storage.write(storage.join(str(size), "0.pb"), b"y")
            with pytest.raises(PermissionDenied):
                await storage.write(storage.join(str(size), "more.pb"), b"y")
        await storage.freeze(storage.join("nothing"))


@pytest.mark.parametrize("waited_for", ["the disk", "a processor"])
async def test_only_a_slow_disk_sends_accesses_to_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waited_for: str
) -> None:
    queued = [0.0]
    where: list[int] = []
    monkeypatch.setattr(blocking.Pace, "_queued", lambda _: queued[0])
    read = LocalStorage._read

    def slow(*arguments: Any) -> bytes | None:
        if not where:
            time.sleep(2 * blocking.VERY_SLOW_SECONDS)
            queued[0] += 2 * blocking.VERY_SLOW_SECONDS if waited_for == "a processor" else 0.0
        where.append(threading.get_ident())
        return read(*arguments)

    async with LocalStorage(str(tmp_path)) as storage:
        await storage.write(storage.join("object"), b"x")
        monkeypatch.setattr(LocalStorage, "_read", slow)
        assert [await storage.read(storage.join("object")) for _ in range(2)] == [b"x", b"x"]
    assert where[0] == threading.get_ident()
    assert (where[1] == where[0]) == (waited_for == "a processor")
