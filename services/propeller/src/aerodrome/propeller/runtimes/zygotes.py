"""The platform's side of a zygote: start one, find those that are still there, and talk to them.

A zygote is named `<kind>-<random>`; its kind is a hash of its Python, its program and its settings, so that one of an
earlier release is still heard and told to end its attempts, but is given no new ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import json
import os
import pwd
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aerodrome.propeller.runtimes import zygote
from aerodrome.stdlib import faults
from aerodrome.stdlib.errors import FailedPrecondition, Unavailable
from aerodrome.stdlib.logger import get_logger

log = get_logger(__name__)

HELLO_SECONDS = 60.0
"""How long a zygote may take to import flytekit and say that it is there."""
_LINE_LIMIT_BYTES = 16 << 20
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

Message = dict[str, Any]


def base_environment(python: Path, temporary: Path) -> dict[str, str]:
    """What every process of an environment gets, before anybody adds to it; nothing of the platform's own."""
    return {
        "PATH": f"{python.parent}{os.pathsep}{_SYSTEM_PATH}",
        "HOME": _home(),
        "LANG": "C.UTF-8",
        "TMPDIR": str(temporary),
    }


@functools.cache  # asking takes a millisecond, for every task
def _home() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:  # an id without an entry, as containers have
        return "/"


@dataclass(frozen=True, slots=True)
class Settings:
    """What zygotes of one runtime share."""

    warm: int
    """Children forked ahead of need."""
    outlive_seconds: float
    """How long one lives without the platform."""
    grace_seconds: float
    """Between SIGTERM and SIGKILL when it ends its attempts by itself."""
    cache: Path
    cache_limit_bytes: int

    def written(self, python: Path) -> Message:
        """The form that the zygote reads."""
        return {
            "python": str(python),
            "warm": self.warm,
            "outlive": self.outlive_seconds,
            "grace": self.grace_seconds,
            "cache": str(self.cache),
            "cache_limit": self.cache_limit_bytes,
        }

    def kind(self, python: Path) -> str:
        """The name of what these settings, the present program, this Python and what is installed in it make."""
        return _kind(self, python, _installed(python))


@functools.lru_cache(maxsize=64)
def _kind(settings: Settings, python: Path, installed: tuple[tuple[str, int], ...]) -> str:
    """Asked for by each attempt, of the same few."""
    text = json.dumps([_program(), settings.written(python), installed], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@functools.cache
def _program() -> str:
    files = sorted(Path(zygote.PROGRAM).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _installed(python: Path) -> tuple[tuple[str, int], ...]:
    """What changes when a package is installed into an environment or removed from it."""
    return tuple((folder, os.stat(folder).st_mtime_ns) for folder in _package_folders(python) if os.path.isdir(folder))


@functools.cache
def _package_folders(python: Path) -> tuple[str, ...]:
    patterns = ("lib/python3*/site-packages", "lib/python3*/dist-packages")
    return tuple(sorted(str(folder) for pattern in patterns for folder in python.parent.parent.glob(pattern)))


class Link:
    """A connection to a zygote that said hello."""

    def __init__(self, name: str, pid: int, start: int, hello: Message, streams: Streams, child: Child | None) -> None:
        self.name = name
        self.pid = pid
        self.start = start
        self.python = Path(hello["python"])
        self.problem: str | None = hello["problem"]
        self.stopping: bool = hello["stopping"] or hello["protocol"] != zygote.PROTOCOL
        self.running: dict[str, Message] = {each["key"]: each for each in hello["running"]}
        """The attempts that it had when it said hello, by key."""
        self.lost = False
        self.resolved = asyncio.Event()
        """Set when it is gone and each of its attempts was put where it belongs."""
        self.template_of: str | None = None
        """The kind of the zygote that it was forked from, if it is a template."""
        self.templating: dict[str, asyncio.Future[Message]] = {}
        """The templates that were ordered from it and have no process yet, by name."""
        self._reader, self._writer = streams
        self._child = child

    @property
    def kind(self) -> str:
        """What made it."""
        return self.name.partition("-")[0]

    def send(self, message: Mapping[str, Any]) -> None:
        """Send without waiting; if the zygote is gone, nothing is sent, and `listen` ends."""
        if not self._writer.is_closing():  # uvloop raises otherwise
            self._writer.write(json.dumps(message).encode() + b"\n")

    async def listen(self, hear: Callable[[Message], None]) -> None:
        """Hand each message to `hear`; returns when the zygote is gone."""
        try:
            while line := await self._reader.readline():
                hear(json.loads(line))
        except (OSError, ValueError) as error:
            log.warning("a zygote cannot be understood", zygote=self.name, pid=self.pid, error=str(error))
        finally:
            self.lost = True
            for waiting in self.templating.values():
                if not waiting.done():
                    waiting.set_exception(EOFError("the zygote ended"))
            self._writer.close()

    async def gone(self, directory: Path) -> None:
        """Make sure that its process has ended, and remove its files."""
        await asyncio.to_thread(put_down, self.pid, self.start, self._child)
        await asyncio.to_thread(_remove_files, directory, self.name)


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Child = subprocess.Popen[bytes]


async def start(directory: Path, python: Path, settings: Settings) -> Link:
    """Start a zygote of `python` and wait until it is warm.

    Raises FailedPrecondition with what it said if it ends by itself, as one of a broken environment does, and
    Unavailable if it is killed, or too slow, or the machine has no room for it.
    """
    kind = await asyncio.to_thread(settings.kind, python)
    name = f"{kind}-{uuid.uuid4().hex[:8]}"
    spawning = asyncio.create_task(asyncio.to_thread(_spawn, directory, python, settings, name))
    try:
        child = await asyncio.shield(spawning)
        found = await asyncio.to_thread(zygote.process, child.pid)
        return await _meet(directory, name, child.pid, found.start if found else 0, child)
    except BaseException as error:
        await asyncio.wait([spawning])
        if not spawning.cancelled() and spawning.exception() is None:
            await asyncio.to_thread(_abandon, spawning.result())
        said = _read(directory / f"{name}.log").strip()[-2000:]
        _remove_files(directory, name)
        if not isinstance(error, OSError | EOFError | TimeoutError):
            raise
        message = f"the Python {python} could not be started: {said or error}"
        if isinstance(error, EOFError) and spawning.result().returncode > 0:
            raise FailedPrecondition(message) from error
        raise Unavailable(message) from error


def _read(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def _spawn(directory: Path, python: Path, settings: Settings, name: str) -> Child:
    temporary = directory / f"{name}.tmp"
    temporary.mkdir(mode=0o700)
    environment = {
        **base_environment(python, temporary),
        "FLYTE_INTERNAL_EXECUTION_ID": "zygote",
        zygote.MARKER: "." * zygote.MARKER_ROOM,
    }
    if faults.enabled:
        environment |= {faults.VARIABLE: os.environ[faults.VARIABLE], zygote.FAULTS: faults.__file__}
    with (directory / f"{name}.log").open("wb") as output:
        return subprocess.Popen(
            [str(python), zygote.PROGRAM, json.dumps({"name": name, **settings.written(python)})],
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def _abandon(child: Child) -> None:
    """Kill a zygote that has had no job yet, and wait until its waiting children noticed, which end by themselves."""
    family = zygote.descendants(zygote.processes(), [child.pid])
    if child.poll() is None:
        child.kill()
    child.wait()
    give_up = time.monotonic() + 5.0
    while time.monotonic() < give_up and any(zygote.is_alive(each.pid, each.start) for each in family.values()):
        time.sleep(0.002)


async def template(directory: Path, base: Link, reference: str, arguments: Sequence[str]) -> Link:
    """Have a zygote fork one that has the module which a command names imported, and wait until it serves.

    Raises FailedPrecondition with its objection if attempts could tell the difference, Unavailable if it cannot be made
    for now.
    """
    name = f"template{base.kind}-{uuid.uuid4().hex[:8]}"
    waiting: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
    base.templating[name] = waiting
    base.send({"op": "template", "name": name, "reference": reference, "arguments": [*arguments]})
    said: Message | None = None
    link: Link | None = None
    try:
        async with asyncio.timeout(HELLO_SECONDS):
            said = await waiting
        if not said["pid"]:
            raise Unavailable(f"no process could be made for a template: {said['message']}")
        try:
            link = await _meet(directory, name, said["pid"], said["start"], None)
        except EOFError as error:
            objection = _read(directory / f"{name}.log").strip()[-2000:]
            raise FailedPrecondition(objection or str(error)) from error
    except (OSError, EOFError, TimeoutError) as error:
        raise Unavailable(f"a template could not be made: {error}") from error
    finally:
        del base.templating[name]
        if link is None and said is not None:  # nobody else would tell it to go
            put_down(said["pid"], said["start"])
            _remove_files(directory, name)
    link.template_of = base.kind
    return link


async def adopt(directory: Path) -> list[Link]:
    """The zygotes that an earlier platform left; one that does not answer is killed."""
    found = [path for path in directory.glob("*.json") if zygote.read_json(str(path))]
    links = await asyncio.gather(*(_adopt(directory, path) for path in found))
    names = {link.name for link in links if link is not None}
    for path in directory.iterdir():
        if path.name.partition(".")[0] not in names:
            _remove_files(directory, path.name.partition(".")[0])
    return [link for link in links if link is not None]


async def _adopt(directory: Path, path: Path) -> Link | None:
    facts = zygote.read_json(str(path)) or {}
    pid, began = facts.get("pid", 0), facts.get("start", 0)
    if not zygote.is_alive(pid, began):
        return None
    try:
        return await _meet(directory, path.stem, pid, began, None)
    except (OSError, EOFError, TimeoutError) as error:
        log.warning("a zygote of an earlier run does not answer, and is killed", pid=pid, error=str(error))
        await asyncio.to_thread(put_down, pid, began)
        return None


async def _meet(directory: Path, name: str, pid: int, began: int, child: Child | None) -> Link:
    """Connect, and wait for its hello.  Raises OSError, EOFError or TimeoutError."""
    async with asyncio.timeout(HELLO_SECONDS):
        while True:
            try:
                streams = await _connect(directory, name)
            except (FileNotFoundError, ConnectionRefusedError):
                if not zygote.is_alive(pid, began):
                    raise EOFError("it ended while it started") from None
                await asyncio.sleep(0.02)
                continue
            line = await _first_line(streams)
            if line:
                return Link(name, pid, began, json.loads(line), streams, child)
            if not zygote.is_alive(pid, began):
                raise EOFError("it ended while it started")
            await asyncio.sleep(0.02)


async def _first_line(streams: Streams) -> bytes:
    try:
        return await streams[0].readline()
    except BaseException as error:
        streams[1].close()
        if isinstance(error, OSError):
            return b""
        raise


async def _connect(directory: Path, name: str) -> Streams:
    """Connect through a descriptor of the directory: the path of a socket may have 107 bytes, a data directory more."""
    with _descriptor(directory) as number:
        path = f"/proc/self/fd/{number}/{name}.sock"
        return await asyncio.open_unix_connection(path, limit=_LINE_LIMIT_BYTES)


@contextlib.contextmanager
def _descriptor(directory: Path) -> Iterator[int]:
    number = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield number
    finally:
        os.close(number)


def put_down(pid: int, start: int, child: Child | None = None) -> None:
    """Kill a zygote that is of no use any more, and wait until it is gone if it is a `child` of this process."""
    if zygote.is_alive(pid, start):
        zygote.send_signal(pid, signal.SIGKILL)
    if child is not None:
        child.wait()


def _remove_files(directory: Path, name: str) -> None:
    for suffix in (".sock", ".json", ".log", ".json.tmp"):
        (directory / f"{name}{suffix}").unlink(missing_ok=True)
    shutil.rmtree(directory / f"{name}.tmp", ignore_errors=True)
