"""The embedded server's life, with real processes that are really killed."""

import asyncio
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from aerodrome.stdlib.errors import FailedPrecondition, Unavailable
from aerodrome.stdlib.logger import capture
from aerodrome.stdlib.postgres import embedded
from aerodrome.stdlib.postgres.account import server_account
from aerodrome.stdlib.postgres.database import Database
from aerodrome.stdlib.postgres.embedded import EmbeddedPostgres
from aerodrome.stdlib.postgres.notify import Announcer, Listener
from aerodrome.stdlib.postgres.process import Process

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "a place with spaces" / "db"


@pytest.fixture
async def server(data_dir: Path) -> AsyncIterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(data_dir)
    await server.start()
    yield server
    await server.stop()


async def ask(dsn: str, query: str) -> object:
    async with Database(dsn, max_size=1) as database:
        return await database.fetchval(query)


def pid_of(server: EmbeddedPostgres) -> int:
    assert server.pid is not None
    return server.pid


async def test_a_new_directory_becomes_a_database_that_keeps_what_it_was_told(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir)
    dsn = await server.start()
    assert await ask(dsn, "SELECT current_setting('fsync') || current_setting('synchronous_commit')") == "onon"
    assert await ask(dsn, "SELECT current_setting('listen_addresses')") == ""
    assert await ask(dsn, "SELECT datcollate || pg_encoding_to_char(encoding) FROM pg_database LIMIT 1") == "CUTF8"
    await ask(dsn, "CREATE TABLE kept AS SELECT 1 AS n")
    await server.stop()
    assert server.pid is None
    assert await ask(await server.start(), "SELECT n FROM kept") == 1
    await server.stop()


async def test_the_server_is_reached_through_a_directory_that_only_its_user_may_enter(server: EmbeddedPostgres) -> None:
    directory = Path(str(await ask(server.dsn(), "SELECT current_setting('unix_socket_directories')")).strip('"'))
    found = directory.stat()
    assert stat.S_IMODE(found.st_mode) == 0o700
    assert found.st_uid == os.stat(server.data_dir).st_uid
    assert stat.S_IMODE(server.data_dir.stat().st_mode) == 0o700


async def test_the_server_lives_in_its_own_session(server: EmbeddedPostgres) -> None:
    assert os.getsid(pid_of(server)) == pid_of(server)
    assert os.getpgid(pid_of(server)) != os.getpgid(0)


async def test_a_running_server_is_adopted(server: EmbeddedPostgres) -> None:
    second = EmbeddedPostgres(server.data_dir)
    assert await second.start() == server.dsn()
    assert second.pid == server.pid


async def test_two_that_start_at_once_share_one_server(data_dir: Path) -> None:
    both = [EmbeddedPostgres(data_dir), EmbeddedPostgres(data_dir)]
    await asyncio.gather(*(each.start() for each in both))
    assert both[0].pid == both[1].pid
    await both[0].stop()
    await both[1].stop()


async def test_a_start_waits_for_whoever_makes_the_directory_ahead_of_it(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir)
    making = asyncio.create_task(server.make())
    await asyncio.sleep(0)  # it has the lock
    assert server.pid is None
    with capture() as records:
        dsn = await server.start()
    try:
        assert making.done()
        assert await ask(dsn, "SELECT 1") == 1
        assert [record["created"] for record in records if record["msg"] == "database started"] == [True]
    finally:
        await server.stop()


async def test_a_server_outlives_the_platform_that_started_it(data_dir: Path) -> None:
    script = (
        "import asyncio, sys, os, signal; from pathlib import Path\n"
        "from aerodrome.stdlib.postgres.embedded import EmbeddedPostgres\n"
        "server = EmbeddedPostgres(Path(sys.argv[1]))\n"
        "asyncio.run(server.start())\n"
        "sys.stdout.write(str(server.pid)); sys.stdout.flush()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", script, str(data_dir)], capture_output=True, check=False
    )
    server = EmbeddedPostgres(data_dir)
    await server.start()
    assert str(server.pid) == done.stdout.decode()
    await server.stop()
    process = Process.find(int(done.stdout))  # somebody else's child by now, who may not have reaped it yet
    assert process is None or await process.ended(0)


async def test_what_was_committed_survives_a_kill_of_every_process(server: EmbeddedPostgres) -> None:
    await ask(server.dsn(), "CREATE TABLE kept (n int)")
    async with Database(server.dsn(), max_size=2) as database:
        for number in range(50):
            await database.execute("INSERT INTO kept VALUES ($1)", number)
        os.kill(pid_of(server), signal.SIGKILL)  # its children end by themselves, without a checkpoint
        await server.wait()
        await server.start()
        assert await database.fetchval("SELECT count(*) FROM kept") == 50  # the pool was not made anew


async def test_a_pool_and_its_wakeups_survive_a_supervised_crash(server: EmbeddedPostgres) -> None:
    running = asyncio.create_task(server.run())
    first = pid_of(server)
    async with (
        Database(server.dsn(), min_size=3, max_size=3) as database,
        Listener(server.dsn()) as listener,
        Announcer(server.dsn()) as announcer,
        listener.subscribe("work") as wakeups,
    ):
        os.kill(first, signal.SIGKILL)
        assert await wakeups.next(timedelta(seconds=20)) == ""
        values = await asyncio.gather(*(database.fetchval("SELECT 1") for _ in range(10)))
        assert values == [1] * 10
        announcer.announce("work", "again")
        assert await wakeups.next(timedelta(seconds=20)) == "again"
    assert server.pid != first
    running.cancel()
    await asyncio.wait([running])


async def test_a_stopped_server_is_not_started_again_by_its_supervisor(server: EmbeddedPostgres) -> None:
    running = asyncio.create_task(server.run())
    await asyncio.sleep(0)
    await server.stop()
    async with asyncio.timeout(10):
        await running


async def test_lock_files_that_name_a_strangers_process_are_cleared(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir)
    dsn = await server.start()
    await ask(dsn, "CREATE TABLE kept AS SELECT 1 AS n")
    pid_file, crashed = data_dir / "postmaster.pid", pid_of(server)
    os.kill(crashed, signal.SIGKILL)
    await server.wait()
    text = pid_file.read_text()
    pid_file.write_text(text.replace(str(crashed), str(os.getpid()), 1))  # as if the id had been given away
    again = EmbeddedPostgres(data_dir)
    assert await ask(await again.start(), "SELECT n FROM kept") == 1
    assert again.pid not in (crashed, os.getpid())
    await again.stop()


async def test_an_interrupted_initdb_is_begun_anew(data_dir: Path) -> None:
    leftover = data_dir.with_name(".db.initdb")
    leftover.mkdir(parents=True)
    (leftover / "PG_VERSION").write_text("18\n")
    (leftover / "base").mkdir()
    data_dir.mkdir()
    server = EmbeddedPostgres(data_dir)
    assert await ask(await server.start(), "SELECT 1") == 1
    assert not leftover.exists()
    await server.stop()


async def test_a_start_that_is_cancelled_leaves_nothing_that_hinders_the_next(data_dir: Path) -> None:
    for seconds in (0.0, 0.05, 0.3, 0.6):
        task = asyncio.create_task(EmbeddedPostgres(data_dir).start())
        await asyncio.wait([task], timeout=seconds)
        task.cancel()
        await asyncio.wait([task])
    server = EmbeddedPostgres(data_dir)
    assert await ask(await server.start(), "SELECT 1") == 1
    await server.stop()


async def test_a_directory_of_other_files_is_left_alone(data_dir: Path) -> None:
    data_dir.mkdir(parents=True)
    (data_dir / "thesis.txt").write_text("mine")
    with pytest.raises(FailedPrecondition, match="holds files but no database"):
        await EmbeddedPostgres(data_dir).start()
    assert (data_dir / "thesis.txt").read_text() == "mine"


async def test_a_database_of_another_major_version_is_refused_with_what_to_do(data_dir: Path) -> None:
    data_dir.mkdir(parents=True)
    (data_dir / "PG_VERSION").write_text("12\n")
    with pytest.raises(FailedPrecondition, match=r"made by PostgreSQL 12 .* dump it"):
        await EmbeddedPostgres(data_dir).start()


async def test_a_server_that_cannot_start_says_why(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir, settings={"max_connections": "'none'"})
    with pytest.raises(FailedPrecondition, match=r"ended while starting: (.|\n)*max_connections"):
        await server.start()
    assert server.pid is None


async def test_an_operators_own_settings_win(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir)
    await server.start()
    await server.stop()
    (data_dir / "local.conf").write_text("work_mem = '7MB'\n")
    (data_dir / "local.conf").chmod(0o644)
    assert await ask(await server.start(), "SHOW work_mem") == "7MB"
    await server.stop()


async def test_a_runtime_directory_too_long_for_a_socket_is_refused(data_dir: Path, tmp_path: Path) -> None:
    server = EmbeddedPostgres(data_dir, runtime_dir=tmp_path / ("long" * 30))
    with pytest.raises(FailedPrecondition, match="too long for a Unix socket"):
        await server.start()


async def test_a_data_directory_with_a_very_long_path_works(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / ("d" * 100) / ("e" * 100) / 'it\'s "quoted", with a comma')
    assert await ask(await server.start(), "SELECT 1") == 1
    await server.stop()


async def test_stopping_cuts_off_clients_that_do_not_leave(server: EmbeddedPostgres) -> None:
    async with Database(server.dsn()) as database, database.connection() as conn:
        working = asyncio.create_task(conn.execute("SELECT pg_sleep(60)"))
        await asyncio.sleep(0.05)
        async with asyncio.timeout(10):
            await server.stop()
        with pytest.raises(Unavailable):
            await working


async def test_nothing_is_left_behind_after_a_stop(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir)
    dsn = await server.start()
    directory = Path(str(await ask(dsn, "SELECT current_setting('unix_socket_directories')")).strip('"'))
    await server.stop()
    assert not directory.exists()
    assert not directory.with_name(directory.name.removesuffix("-pg")).exists()
    with capture() as lines:
        await server.stop()
    assert lines == []


@pytest.fixture
def closed_directory() -> Iterator[Path]:
    """A directory that the server's user may not enter, and whose mode must stay."""
    path = Path(tempfile.mkdtemp(dir="/root" if os.geteuid() == 0 else None))
    yield path
    shutil.rmtree(path)


@as_root
async def test_root_runs_it_as_somebody_else_below_a_directory_that_only_root_may_enter(closed_directory: Path) -> None:
    modes = {each: each.stat().st_mode for each in (closed_directory, *closed_directory.parents)}
    binaries = closed_directory / "install"
    binaries.symlink_to(embedded._install_dir())
    server = EmbeddedPostgres(closed_directory / "deep" / "db", install_dir=binaries)
    assert await ask(await server.start(), "SELECT 1") == 1
    assert os.stat(f"/proc/{server.pid}").st_uid == os.stat(server.data_dir).st_uid != 0
    assert await ask(server.dsn(), "SELECT pg_size_pretty(pg_database_size(current_database())) <> ''") is True
    await server.stop()
    assert {each: each.stat().st_mode for each in modes} == modes


@as_root
async def test_root_continues_a_database_as_the_user_who_made_it(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir)
    await server.start()
    await server.stop()
    for directory, _, files in os.walk(data_dir):
        for name in (".", *files):
            os.chown(Path(directory) / name, 12_345, 12_345)
    assert await ask(await server.start(), "SELECT 1") == 1
    assert os.stat(f"/proc/{server.pid}").st_uid == 12_345
    await server.stop()


async def test_somebody_elses_database_is_refused_with_what_to_do(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_dir.mkdir(parents=True)
    (data_dir / "PG_VERSION").write_text("18\n")
    monkeypatch.setattr(os, "geteuid", lambda: 4_242)
    with pytest.raises(FailedPrecondition, match=r"belongs to user id \d+, and this is user id 4242: run as that user"):
        server_account(data_dir)


async def test_a_user_without_a_name_is_told_what_postgresql_needs(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 424_242)
    with pytest.raises(FailedPrecondition, match="424242 has no entry in /etc/passwd"):
        server_account(data_dir)


def test_the_root_directory_is_no_data_directory() -> None:
    with pytest.raises(FailedPrecondition, match="choose one below it"):
        EmbeddedPostgres(Path("/"))


async def test_another_server_does_not_pass_for_ours(server: EmbeddedPostgres, tmp_path: Path) -> None:
    """By what is public alone, as root sees it from a container."""
    pid = pid_of(server)
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    other = tmp_path / "other"
    other.mkdir()
    os.chown(other, server.data_dir.stat().st_uid, -1)
    for each in (str(pid), *children):
        assert embedded._may_serve(Path("/proc") / each, server.data_dir)
        assert not embedded._may_serve(Path("/proc") / each, other)
    assert not embedded._may_serve(Path("/proc/self"), server.data_dir)
