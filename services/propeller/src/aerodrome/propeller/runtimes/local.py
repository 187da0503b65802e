"""The local runtime: a kubelet in miniature, which runs pods as processes of this machine.

It takes V1Pods, queues them for a slot, has a zygote run the primary container's command, and reports V1PodStatus.
What must survive lies on disk (`records`), what a pod means is in `pods`, who may run is in `slots`, and processes are
made by a `zygote`.  It decides nothing about tasks: what a failed pod means is the plugins' business.

How attempts get from one state to the next: QUEUED until there is a slot; LAUNCHING until the zygote says that a
process has the job; RUNNING until it is reaped; ENDED.  After a crash each record is resolved by what exists: an
outcome on disk, a zygote that knows it, a process.  One whose process nobody saw end is lost, and one that never had a
process is queued.
"""

from __future__ import annotations

import asyncio
import bisect
import dataclasses
import os
import signal
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from aerodrome.plugins.pods.secrets import asks_for_secrets, secrets_of
from aerodrome.propeller.runtimes import pods, zygote, zygotes
from aerodrome.propeller.runtimes.pods import Key, Machine, Outcome, Plan, Pod, Situation, State
from aerodrome.propeller.runtimes.records import Directory, Found, Record
from aerodrome.propeller.runtimes.secrets import Delivery, SecretFolders, SecretRefused, SecretStore
from aerodrome.propeller.runtimes.slots import Activity, Holder, may_enter
from aerodrome.propeller.runtimes.templates import Code, Templates, code_of
from aerodrome.stdlib import faults
from aerodrome.stdlib.blocking import Lanes, Pace
from aerodrome.stdlib.clock import Clock, SystemClock
from aerodrome.stdlib.errors import (
    AerodromeError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from aerodrome.stdlib.logger import get_logger

log = get_logger(__name__)

GRACE = timedelta(seconds=30)
OUTLIVE = timedelta(seconds=60)
CACHE_LIMIT_BYTES = 5 << 30

_OPEN_SECONDS = 120.0
_SAMPLE_SECONDS = 1.0
_FOLLOW_SECONDS = 0.2
_EVICT_SECONDS = 300.0
_STOP_SECONDS = 5.0
"""What is left when the drain ends has this long between SIGTERM and SIGKILL."""
_SETTLE_SECONDS = 10.0
"""How long to wait for a zygote beyond the time that it was given."""
_RESTART_SECONDS = 1.0
_RECORD_LANES = 4
"""Threads that write records at the same time, each of which has to wait for the disk."""
_RECORD_SECONDS = 0.02
"""How long one of them works at a time, of what was asked for at the same time."""
_CLEAN_LANES = 2
"""Threads that remove directories at the same time: a millisecond each as a rule, and the loop is not to wait."""
_CLEAN_SECONDS = 0.02
"""How long one of them works at a time, of what has ended meanwhile."""
_OOM_KILLED = "OOMKilled"
_MIB = 1 << 20
_MESSAGE_LINES = 20
_MESSAGE_CHARACTERS = 2_048
_LAUNCH_TRIES = 3
_WARM_LIMIT = 16
"""Children that wait ahead of need at most, each of which holds some 13 MB of its own."""
_MEMORY_RESERVE = 0.05

_NOTHING: Mapping[str, Any] = MappingProxyType({})


class _Attempt:
    """What the runtime knows of one attempt."""

    def __init__(self, key: Key, pod: Pod, created: float) -> None:
        self.key = key
        self.pod = pod
        self.created = created
        self.plan: Plan | None = None
        self.warnings: tuple[str, ...] = ()
        self.state = State.QUEUED
        self.note = "waits for a slot"
        self.link: zygotes.Link | None = None
        """The zygote that has it; None while there is none, or when it died."""
        self.pid: int | None = None
        self.start = 0
        self.started: float | None = None
        self.outcome: Outcome | None = None
        self.tries = 0
        self.idle = False
        self.too_much: str | None = None
        """What it is told when it is ended because it uses more memory than it may."""
        self.activity: Activity | None = None
        self.durable = asyncio.Event()
        self.ended = asyncio.Event()
        """Set when no process is left and the outcome is known."""
        self.cleaned = asyncio.Event()
        self.failed: AerodromeError | None = None
        """Why it could not be made durable."""
        self.deleting: float | None = None
        self.removed = asyncio.Event()


class _Changes:
    """The pods that one watcher has yet to see as they stand by then."""

    def __init__(self) -> None:
        self._latest: dict[Key, _Attempt] = {}
        self._some = asyncio.Event()

    def add(self, attempt: _Attempt) -> None:
        self._latest.pop(attempt.key, None)
        self._latest[attempt.key] = attempt
        self._some.set()

    async def next(self) -> _Attempt:
        while not self._latest:
            self._some.clear()
            await self._some.wait()
        return self._latest.pop(next(iter(self._latest)))


class LocalRuntime:
    """Runs pods as processes of this machine; see `Runtime` for what its methods promise.

    `directory` holds everything durable, and belongs to one runtime at a time.  `python` is the environment of every
    image that `images` (image name, with or without tag, to a Python or the root of an environment) does not list.
    `environment` is given to every task.  `slots` is one more than the number of cores if not given, so that none of
    them idles while an attempt ends and the next one begins, and no more than that number while memory is scarce.
    `grace` is how long a stop waits for what runs, and the time between SIGTERM and SIGKILL where the pod says nothing.
    `outlive` is how long tasks go on without the platform.  `keep_logs` is how long logs of attempts stay that are
    gone, if it is not zero.  `secrets` is where the secrets are that pods ask for.
    """

    def __init__(
        self,
        directory: Path,
        *,
        slots: int | None = None,
        python: Path = Path(sys.executable),
        images: Mapping[str, Path] = _NOTHING,
        environment: Mapping[str, str] = _NOTHING,
        clock: Clock | None = None,
        cache_limit: int = CACHE_LIMIT_BYTES,
        grace: timedelta = GRACE,
        outlive: timedelta = OUTLIVE,
        keep_logs: timedelta = timedelta(0),
        secrets: SecretStore | None = None,
    ) -> None:
        self._secrets = secrets or SecretStore()
        self._directory = Directory(Path(os.path.abspath(directory)))
        cores = len(os.sched_getaffinity(0))
        self._slots = slots if slots is not None else cores + 1
        self._slots_in_any_case = slots if slots is not None else cores
        self._machine = Machine(cores, memory_bytes())
        self._python = _interpreter(python)
        self._images = {name: _interpreter(path) for name, path in images.items()}
        self._environment = dict(environment)
        self._clock: Clock = clock or SystemClock()
        self._grace = grace
        self._keep_logs = keep_logs
        self._cache = zygote.Distributions(str(self._directory.root / "cache"), cache_limit)
        self._settings = zygotes.Settings(
            warm=max(1, min(self._slots, _WARM_LIMIT)),
            outlive_seconds=outlive.total_seconds(),
            grace_seconds=_STOP_SECONDS,
            cache=self._directory.root / "cache",
            cache_limit_bytes=cache_limit,
        )
        self._pace = Pace()
        self._recording = Lanes(lanes=_RECORD_LANES, seconds=_RECORD_SECONDS)
        self._cleaning = Lanes(lanes=_CLEAN_LANES, seconds=_CLEAN_SECONDS)
        self._secret_folders = SecretFolders(self._directory.root)
        self._attempts: dict[Key, _Attempt] = {}
        self._live: dict[Key, _Attempt] = {}
        self._queue: deque[_Attempt] = deque()
        self._arriving: deque[_Attempt] = deque()
        """Those that are being recorded."""
        self._links: dict[str, zygotes.Link] = {}
        """Every zygote that is connected, by name."""
        self._templates = Templates()
        self._attending: set[asyncio.Task[None]] = set()
        self._making: set[asyncio.Task[None]] = set()
        """What makes templates."""
        self._starting: dict[Path, asyncio.Lock] = {}
        self._watchers: set[_Changes] = set()
        self._group: asyncio.TaskGroup | None = None
        self._opened = asyncio.Event()
        self._open_failure: BaseException | None = None
        self._stopping = False

    # -- what callers use --

    async def start(self, pod: Pod) -> None:
        """Accept a pod: it is durable when this returns.  The same namespace and name again changes nothing.

        Raises InvalidArgument for a name that Kubernetes would refuse, Unavailable while stopping, ResourceExhausted
        if the record cannot be written.  A pod that cannot run here is accepted, and is Failed at once.
        """
        await self._ready()
        key = pods.key_of(pod)
        known = self._attempts.get(key)
        if known is not None:
            await known.durable.wait()
            if known.failed is not None:
                raise known.failed
            return
        if self._stopping:
            raise Unavailable("the platform is stopping, and starts nothing more")
        attempt = _Attempt(key, pod, self._now())
        self._attempts[key] = attempt
        refusal = self._plan(attempt)
        self._arriving.append(attempt)
        try:
            await self._record(attempt)
            if refusal is None:
                faults.point("pod.recorded")
        finally:
            self._arrived()
        if refusal is not None:
            await self._end(attempt, refusal)
            return
        self._changed(attempt)

    def _arrived(self) -> None:
        """Queue those that are durable in the order in which they were asked for, whichever the disk wrote first."""
        while self._arriving and self._arriving[0].durable.is_set():
            attempt = self._arriving.popleft()
            if attempt.failed is None and attempt.plan is not None:
                self._queue.append(attempt)
        self._admit()

    async def _record(self, attempt: _Attempt) -> None:
        """Make an attempt durable; cancelled, it is as if it had never been asked for."""
        record = Record(attempt.pod, attempt.created, self._directory.boot)
        writing = self._recording.submit(partial(self._directory.write, attempt.key, record))
        try:
            await asyncio.shield(writing)
        except OSError as error:
            attempt.failed = ResourceExhausted(f"the pod {attempt.key} could not be recorded: {error.strerror}")
            raise attempt.failed from error
        except asyncio.CancelledError:
            attempt.failed = Unavailable(f"the start of the pod {attempt.key} was cancelled")
            await asyncio.wait([writing])
            await asyncio.to_thread(self._directory.remove, attempt.key)
            raise
        except Exception as error:
            attempt.failed = Unavailable(f"the pod {attempt.key} could not be recorded: {error}")
            raise
        finally:
            if attempt.failed is not None:
                del self._attempts[attempt.key]
            attempt.durable.set()

    async def get(self, namespace: str, name: str) -> Pod | None:
        """The pod with its status; None if there is none."""
        await self._ready()
        attempt = self._attempts.get(Key(namespace, name))
        return None if attempt is None or not attempt.durable.is_set() else self._shown(attempt)

    async def list(self, labels: Mapping[str, str] = _NOTHING) -> list[Pod]:
        """Every pod that has all of `labels`."""
        await self._ready()
        return [
            self._shown(attempt)
            for attempt in self._attempts.values()
            if attempt.durable.is_set() and _has_labels(attempt.pod, labels)
        ]

    async def watch(self) -> AsyncIterator[Pod]:
        """Every pod that there is, then each one that changes, at its latest.

        One that is being deleted has `metadata.deletionTimestamp`, and comes a last time when nothing of it is left.
        """
        await self._ready()
        changes = _Changes()
        for attempt in self._attempts.values():
            if attempt.durable.is_set():
                changes.add(attempt)
        self._watchers.add(changes)
        try:
            while True:
                yield self._shown(await changes.next())
        finally:
            self._watchers.discard(changes)

    async def tail(self, namespace: str, name: str, lines: int = 50) -> str:
        """The last lines of its log, at most 64 KiB, secrets masked; empty if it printed nothing.  Outlives the pod."""
        key = pods.key_of({"metadata": {"namespace": namespace, "name": name}})
        return self.mask(await asyncio.to_thread(self._directory.tail, key, lines))

    async def delete(self, namespace: str, name: str, *, grace: timedelta | None = None) -> None:
        """End a pod and forget it: SIGTERM, `grace`, SIGKILL, to everything that it started.

        Returns when nothing of it is left.  A pod that does not exist is fine; the log stays.
        """
        await self._ready()
        attempt = self._attempts.get(Key(namespace, name))
        if attempt is None:
            return
        await attempt.durable.wait()
        if attempt.failed is not None:
            return
        if attempt.deleting is not None:
            await attempt.removed.wait()
            return
        attempt.deleting = self._now()
        try:
            await self._delete(attempt, grace)
        except BaseException:
            attempt.deleting = None  # whoever else waits will be told by the next delete, which starts over
            raise

    async def _delete(self, attempt: _Attempt, grace: timedelta | None) -> None:
        self._changed(attempt)
        await self._terminate(attempt, grace if grace is not None else self._grace_of(attempt), "Deleted")
        await attempt.cleaned.wait()
        if not await self._pace.run(self._directory.remove_small, attempt.key):
            await asyncio.to_thread(self._directory.remove, attempt.key)
        del self._attempts[attempt.key]
        attempt.removed.set()
        self._changed(attempt)

    async def forget_pods(self, namespace: str, names: Sequence[str]) -> None:
        """Delete pods with their logs; fine if there is none."""
        try:
            keys = [pods.key_of({"metadata": {"namespace": namespace, "name": name}}) for name in names]
        except InvalidArgument:  # no pod was ever accepted by these names
            return
        for key in keys:
            await self.delete(*key)

        def forget() -> None:
            for key in keys:
                self._directory.forget(key)

        await asyncio.to_thread(forget)

    async def run(self) -> None:
        """Own the directory until cancelled; then start nothing more, wait for what runs, and end what is left.

        Raises FailedPrecondition if another runtime owns the directory.
        """
        try:
            await asyncio.to_thread(self._directory.open)
            await asyncio.to_thread(self._secret_folders.open)
        except BaseException as error:
            self._open_failure = error
            self._opened.set()
            raise
        self._pace.open()
        properly = False
        parts: list[asyncio.Task[None]] = []
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                try:
                    await self._take_over()
                    self._opened.set()
                    parts = [
                        group.create_task(self._sample_forever(), name="sample attempts"),
                        group.create_task(self._follow_forever(), name="follow attempts without a zygote"),
                        group.create_task(self._evict_forever(), name="evict code distributions"),
                    ]
                    if not any(self._usable(link, self._python) for link in self._links.values()):
                        parts.append(group.create_task(self._warm(), name="warm the default environment"))
                    await asyncio.Event().wait()
                finally:
                    await self._drain()
                    for part in parts:
                        part.cancel()
                    properly = True
        finally:
            self._group = None
            self._pace.close()
            if properly:
                self._secret_folders.close()
            self._directory.close(properly=properly)
            if not self._opened.is_set():
                self._open_failure = Unavailable("the local runtime ended while it started")
                self._opened.set()

    # -- what is shown --

    def _now(self) -> float:
        return self._clock.now().timestamp()

    async def _ready(self) -> None:
        if not self._opened.is_set():
            try:
                async with asyncio.timeout(_OPEN_SECONDS):
                    await self._opened.wait()
            except TimeoutError as error:
                raise Unavailable("the local runtime does not run: nobody has started its run()") from error
        if isinstance(self._open_failure, AerodromeError):
            raise type(self._open_failure)(self._open_failure.message) from self._open_failure
        if self._open_failure is not None:
            raise Unavailable(f"the local runtime could not start: {self._open_failure}") from self._open_failure

    def _shown(self, attempt: _Attempt) -> Pod:
        metadata = dict(attempt.pod["metadata"])
        annotations = {**(metadata.get("annotations") or {}), pods.LOG_PATH: self._directory.log(attempt.key)}
        if attempt.warnings:
            annotations[pods.WARNING] = "; ".join(attempt.warnings)
        metadata["annotations"] = annotations
        if attempt.deleting is not None:
            metadata["deletionTimestamp"] = pods.time_text(attempt.deleting)
        plan = attempt.plan
        situation = Situation(
            state=attempt.state,
            container=plan.container if plan is not None else attempt.key.name,
            image=plan.image if plan is not None else "",
            created=attempt.created,
            started=attempt.started,
            pid=attempt.pid,
            outcome=attempt.outcome,
            note=attempt.note,
        )
        return {**attempt.pod, "metadata": metadata, "status": pods.status(situation)}

    def _changed(self, attempt: _Attempt) -> None:
        for watcher in self._watchers:
            watcher.add(attempt)

    # -- from queued to running --

    def _plan(self, attempt: _Attempt) -> Outcome | None:
        """Plan an attempt; an outcome if it can never run here."""
        try:
            attempt.plan = pods.plan(attempt.pod, self._machine)
        except pods.Refused as refusal:
            return self._outcome(pods.STARTED_NOT, refusal.reason, refusal.message)
        attempt.warnings = attempt.plan.warnings
        for warning in attempt.warnings:
            log.warning("a pod does not get all that it asks for", pod=str(attempt.key), warning=warning)
        return None

    def _outcome(self, code: int, reason: str, message: str) -> Outcome:
        return Outcome(code=code, finished=self._now(), reason=reason, message=message)

    def _admit(self) -> None:
        """Let the first of the queue run while there is room."""
        while self._queue and not self._stopping and self._group is not None:
            attempt = self._queue[0]
            if attempt.state is not State.QUEUED:
                self._queue.popleft()
                continue
            if not self._has_room(attempt):
                return
            self._queue.popleft()
            attempt.state = State.LAUNCHING
            attempt.note = "waits for its environment to be warm"
            self._live[attempt.key] = attempt
            self._group.create_task(self._launch(attempt), name=f"launch {attempt.key}")
            self._changed(attempt)

    def _has_room(self, attempt: _Attempt) -> bool:
        holders = [Holder(each.idle, each.plan.memory_bytes if each.plan else 0) for each in self._live.values()]
        wanted = attempt.plan.memory_bytes if attempt.plan else 0
        if not may_enter(holders, self._slots, self._machine.memory_bytes, wanted):
            return False
        if len(holders) < self._slots_in_any_case:
            return True
        # More than there are cores, or than slots as some are idle: fine, as long as the machine itself has memory.
        return self._has_memory()

    async def _launch(self, attempt: _Attempt) -> None:
        plan = attempt.plan
        if plan is None:
            raise RuntimeError(f"{attempt.key} was admitted without a plan")
        python = self._interpreter_of(plan.image)
        try:
            link = await self._environment_of(python, plan.image)
        except Unavailable as error:
            if attempt.state is State.LAUNCHING:
                attempt.tries += 1
                self._put_back(attempt, error.message)
                self._admit()
            return
        except AerodromeError as error:
            if attempt.state is State.LAUNCHING:
                await self._end(attempt, self._outcome(pods.STARTED_NOT, "StartError", error.message))
            return
        folder = self._secret_folders.folder(*attempt.key, Path(self._directory.work(attempt.key)))
        try:
            secrets = await self._secrets_of(attempt, folder)
        except SecretRefused as refusal:
            if attempt.state is State.LAUNCHING:
                await self._end(attempt, self._outcome(pods.STARTED_NOT, refusal.reason, refusal.message))
            return
        if attempt.state is not State.LAUNCHING or attempt.deleting is not None:  # its end is being written down
            return
        attempt.tries += 1
        if link.lost:  # while its secrets were read; what the zygote had was put where it belongs without this one
            self._put_back(attempt, "the zygote of its environment ended")
            self._admit()
            return
        job = self._job(attempt, plan, python)
        job["environment"].update(secrets.environment)
        link = self._template_for(job, python, link) or link
        attempt.link = link
        job["secrets"] = {"folder": folder, "files": secrets.files}
        link.send(job)

    def _template_for(self, job: Mapping[str, Any], python: Path, base: zygotes.Link) -> zygotes.Link | None:
        """A zygote that has the code of a job imported; None if there is none, which may be a matter of time."""
        if base.problem is not None or self._group is None:
            return None
        code = code_of(python, tuple(job["argv"]), job["environment"])
        if code is None:
            return None
        now = self._clock.boottime()
        link = self._templates.ask(code, now)
        if link is not None and link.template_of == base.kind:
            return link
        if link is None and self._templates.is_worth(code, now) and self._has_memory():
            self._templates.comes(code)
            making = self._group.create_task(self._make_template(code, base), name=f"make a template of {code.module}")
            self._making.add(making)
            making.add_done_callback(self._making.discard)
        return None

    async def _make_template(self, code: Code, base: zygotes.Link) -> None:
        link: zygotes.Link | None = None
        objection: str | None = None
        try:
            link = await zygotes.template(self._directory.root / "zygotes", base, code.reference, code.arguments)
        except FailedPrecondition as error:
            objection = error.message
            log.info("tasks of a module import it each for itself", module=code.module, why=objection)
        except AerodromeError as error:
            log.warning("a template could not be made", module=code.module, error=error.message)
        finally:
            self._templates.came(code, link, objection)
        if link is not None:
            self._attach(link)

    def _has_memory(self) -> bool:
        return available_memory_bytes() > self._machine.memory_bytes * _MEMORY_RESERVE

    async def _secrets_of(self, attempt: _Attempt, folder: str) -> Delivery:
        """The secrets that a pod asks for, read anew for each attempt.  Raises SecretRefused."""
        try:
            wanted = secrets_of(attempt.pod)
        except InvalidArgument as error:
            raise SecretRefused("StartError", error.message) from error
        return await asyncio.to_thread(self._secrets.deliver, wanted, folder) if wanted else Delivery()

    def volume(self, namespace: str, name: str, volume: str) -> Path:
        """Where a volume of a pod is that begins empty; it may be filled before the pod starts, and goes with it.

        To be asked once the runtime is open, as it is when any other of its methods has answered.
        """
        return self._directory.volumes(pods.key_of({"metadata": {"namespace": namespace, "name": name}})) / volume

    def mask(self, text: str) -> str:
        """`text` without the values of secrets that tasks were given."""
        return self._secrets.mask(text)

    def _job(self, attempt: _Attempt, plan: Plan, python: Path) -> dict[str, Any]:
        work = self._directory.work(attempt.key)
        temporary = f"{work}/tmp"
        environment = {**zygotes.base_environment(python, Path(temporary)), **self._environment, **plan.environment}
        if "PATH" in plan.environment:
            environment["PATH"] = f"{python.parent}{os.pathsep}{plan.environment['PATH']}"
        places = {path: str(self.volume(*attempt.key, volume)) for path, volume in plan.mounts.items()}
        environment = {name: pods.relocated(value, places) for name, value in environment.items()}
        environment["TMPDIR"] = temporary
        environment[zygote.MARKER] = self._directory.marker(attempt.key)
        given = pods.relocated(plan.working_dir or "", places)
        return {
            "op": "start",
            "key": str(attempt.key),
            "name": attempt.key.name,
            "record": self._directory.record(attempt.key),
            "log": self._directory.log(attempt.key),
            "folder": f"{work}/code",
            "working_dir": given
            if given in places.values() or (os.path.isabs(given) and os.path.isdir(given))
            else None,
            "python": str(python),
            "argv": [pods.relocated(each, places) for each in plan.argv],
            "volumes": list(places.values()),
            "environment": environment,
        }

    def _interpreter_of(self, image: str) -> Path:
        """The Python that an image name selects: by all of it, without its digest, or without its tag."""
        name, _, _ = image.partition("@")
        folder, slash, last = name.rpartition("/")
        for candidate in (image, name, f"{folder}{slash}{last.partition(':')[0]}"):
            if candidate in self._images:
                return self._images[candidate]
        return self._python

    def _usable(self, link: zygotes.Link, python: Path) -> bool:
        return not link.lost and not link.stopping and link.kind == self._settings.kind(python)

    async def _environment_of(self, python: Path, image: str) -> zygotes.Link:
        """The warm zygote of a Python, started if need be.  Raises NotFound or Unavailable."""
        async with self._starting.setdefault(python, asyncio.Lock()):
            for link in self._links.values():
                if self._usable(link, python):
                    return link
            if not os.access(python, os.X_OK):
                raise NotFound(
                    f"the image {image!r} selects the Python environment {python}, which is not there: create it, or "
                    "name another one for this image"
                )
            link = await zygotes.start(self._directory.root / "zygotes", python, self._settings)
            if link.problem is not None:
                log.warning(
                    "tasks of an environment are spawned instead of forked", python=str(python), why=link.problem
                )
            self._attach(link)
            self._retire_others()
            return link

    def _retire_others(self) -> None:
        """Let go the zygotes whose environment, program or settings are not the present ones, once they are done."""
        for link in self._links.values():
            kind = link.template_of or link.kind
            if not link.stopping and kind != self._settings.kind(link.python):
                self._retire(link)

    @staticmethod
    def _retire(link: zygotes.Link) -> None:
        link.stopping = True
        link.send({"op": "retire"})

    async def _warm(self) -> None:
        try:
            await self._environment_of(self._python, "default")
        except AerodromeError as error:
            log.warning("the default environment could not be warmed", python=str(self._python), error=error.message)

    async def _warm_again(self) -> None:
        await self._clock.sleep(_RESTART_SECONDS)  # a zygote that dies at once is not to be started all the time
        if not self._stopping:
            await self._warm()

    # -- zygotes --

    def _attach(self, link: zygotes.Link) -> None:
        if self._group is None:
            raise RuntimeError("a zygote was attached to a runtime that does not run")
        self._links[link.name] = link
        task = self._group.create_task(self._attend(link), name=f"attend zygote {link.name}")
        self._attending.add(task)
        task.add_done_callback(self._attending.discard)

    async def _attend(self, link: zygotes.Link) -> None:
        await link.listen(lambda message: self._hear(link, message))
        self._links.pop(link.name, None)
        self._templates.ended(link)
        await link.gone(self._directory.root / "zygotes")
        orphans = [attempt for attempt in self._live.values() if attempt.link is link]
        if orphans or not (self._stopping or link.stopping):
            log.warning("a zygote is gone", zygote=link.name, pid=link.pid, attempts=len(orphans))
        for attempt in orphans:
            attempt.link = None
            await self._resolve(attempt)
        link.resolved.set()
        self._admit()
        if not self._stopping and not link.stopping and link.template_of is None and self._group is not None:
            self._group.create_task(self._warm_again(), name="warm the default environment again")

    def _hear(self, link: zygotes.Link, message: zygotes.Message) -> None:
        if message["op"] == "templated":
            waiting = link.templating.get(message["name"])
            if waiting is None:  # the order was withdrawn
                zygotes.put_down(message["pid"], message["start"])
            elif not waiting.done():
                waiting.set_result(message)
            return
        attempt = self._live.get(Key(*message["key"].split("/", 1)))
        if attempt is None or attempt.link is not link or self._group is None:
            return
        match message["op"]:
            case "started":
                self._has_started(attempt, message)
            case "refused":
                outcome = self._outcome(pods.STARTED_NOT, "Lost", message["message"])
                self._group.create_task(self._end(attempt, outcome), name=f"end {attempt.key}")
            case "exited":
                attempt.started = attempt.started or message["started"]
                outcome = Outcome.read(message)
                self._group.create_task(self._end(attempt, outcome, written=True), name=f"end {attempt.key}")
            case op:
                log.warning("a zygote said what nobody understands", zygote=link.name, op=op)

    def _has_started(self, attempt: _Attempt, process: Mapping[str, Any]) -> None:
        attempt.pid, attempt.start, attempt.started = process["pid"], process["start"], process["started"]
        attempt.state = State.RUNNING
        attempt.activity = Activity(gives_way=attempt.plan is not None and attempt.plan.gives_way)
        faults.point("pod.running")
        self._changed(attempt)

    # -- how attempts end --

    async def _end(self, attempt: _Attempt, outcome: Outcome, *, written: bool = False) -> None:
        """Let an attempt be over, of which no process is left."""
        if attempt.state is State.ENDED:
            return
        if not written:
            await self._write_outcome(attempt, outcome)
        faults.point("pod.ended")
        if outcome.reason == _OOM_KILLED and attempt.too_much is not None:
            outcome = dataclasses.replace(outcome, message=attempt.too_much)
        if outcome.code != 0 and outcome.message is None:
            said = await asyncio.to_thread(self._directory.tail, attempt.key, _MESSAGE_LINES)
            outcome = dataclasses.replace(outcome, message=said[-_MESSAGE_CHARACTERS:] or None)
        if attempt.ended.is_set():  # somebody else was quicker
            return
        attempt.state = State.ENDED
        attempt.outcome = outcome
        attempt.link = None
        self._live.pop(attempt.key, None)
        attempt.ended.set()
        self._changed(attempt)
        self._admit()
        if self._opened.is_set():  # otherwise all such directories are removed together
            await self._cleaning.run(partial(self._directory.clean, attempt.key))
            if asks_for_secrets(attempt.pod):
                await asyncio.to_thread(self._secret_folders.remove, *attempt.key)
        attempt.cleaned.set()

    async def _write_outcome(self, attempt: _Attempt, outcome: Outcome) -> None:
        try:
            await asyncio.to_thread(self._directory.end, attempt.key, outcome.written())
        except OSError as error:
            log.warning("the end of a pod could not be recorded", pod=str(attempt.key), error=str(error))

    async def _terminate(self, attempt: _Attempt, grace: timedelta, reason: str) -> None:
        """End an attempt and its processes, and wait until nothing is left; its zygote may die meanwhile."""
        deadline = time.monotonic() + grace.total_seconds()
        while not attempt.ended.is_set():
            link, seconds = attempt.link, max(0.0, deadline - time.monotonic())
            if link is not None:
                await self._terminate_by(link, attempt, seconds, reason)
            elif attempt.pid is not None:
                await asyncio.to_thread(end_processes, attempt.pid, attempt.start, self._marker(attempt), seconds)
                await self._bury(attempt, self._outcome(pods.UNKNOWN_CODE, reason, "it was ended by the platform"))
            else:
                await self._end(attempt, self._outcome(pods.UNKNOWN_CODE, reason, "it was ended before it started"))

    async def _terminate_by(self, link: zygotes.Link, attempt: _Attempt, seconds: float, reason: str) -> None:
        """Have a zygote end its attempt; returns when it did, or when the zygote is gone and the attempt resolved."""
        link.send({"op": "end", "key": str(attempt.key), "grace": seconds, "reason": reason})
        waits = [asyncio.create_task(event.wait()) for event in (attempt.ended, link.resolved)]
        try:
            done, _ = await asyncio.wait(waits, timeout=seconds + _SETTLE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                log.warning("a zygote does not end an attempt, and is killed", pod=str(attempt.key), pid=link.pid)
                zygote.send_signal(link.pid, signal.SIGKILL)
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _marker(self, attempt: _Attempt) -> str:
        return self._directory.marker(attempt.key)

    def _grace_of(self, attempt: _Attempt) -> timedelta:
        plan = attempt.plan
        return plan.grace if plan is not None and plan.grace is not None else self._grace

    async def _resolve(self, attempt: _Attempt) -> None:
        """Find out what became of a live attempt without a zygote, and put it where it belongs."""
        key = attempt.key
        ended = await asyncio.to_thread(self._directory.outcome, key)
        process = await asyncio.to_thread(self._directory.process, key)
        if process:
            attempt.started = process.get("started")
        if ended is not None:
            await self._end(attempt, Outcome.read(ended), written=True)
        elif process is None:
            self._put_back(attempt, "the zygotes of its environment ended")
        elif process and zygote.is_alive(process["pid"], process["start"]):
            self._live[key] = attempt
            self._has_started(attempt, process)
        else:
            pid, began = process.get("pid", 0), process.get("start", 0)
            await asyncio.to_thread(end_processes, pid, began, self._marker(attempt), 0.0)
            await self._bury(attempt, self._lost())

    def _put_back(self, attempt: _Attempt, why: str) -> None:
        """Queue an attempt, at its place, that never had a process because of `why`; it is lost after some tries."""
        if attempt.deleting is not None or attempt.tries >= _LAUNCH_TRIES:
            message = f"its process could not be started {attempt.tries} times: {why}"
            if self._group is not None:
                outcome = self._outcome(pods.STARTED_NOT, "Lost", message)
                self._group.create_task(self._end(attempt, outcome), name=f"end {attempt.key}")
            return
        self._unlaunch(attempt)

    def _unlaunch(self, attempt: _Attempt) -> None:
        self._live.pop(attempt.key, None)
        attempt.state = State.QUEUED
        attempt.note = "waits for a slot"
        bisect.insort(self._queue, attempt, key=lambda each: each.created)
        self._changed(attempt)

    def _lost(self) -> Outcome:
        message = "its process vanished, and nobody saw how it ended; what it wrote is not used"
        return self._outcome(pods.UNKNOWN_CODE, "Lost", message)

    async def _bury(self, attempt: _Attempt, otherwise: Outcome) -> None:
        """End an attempt whose processes are gone and were not reaped, by its own word or else by `otherwise`."""
        said = await asyncio.to_thread(self._directory.leaving, attempt.key)
        await self._end(attempt, Outcome(said["code"], said["finished"]) if said is not None else otherwise)

    # -- taking over and stopping --

    async def _take_over(self) -> None:
        """Resolve what an earlier run left."""
        for link in await zygotes.adopt(self._directory.root / "zygotes"):
            self._attach(link)
        running = {key: link for link in self._links.values() for key in link.running}
        everything = await asyncio.to_thread(self._directory.found)
        for found in everything:
            await self._take_over_one(found, running.get(str(found.key)))
        await asyncio.to_thread(self._directory.clean_others, set(self._live))
        await asyncio.to_thread(self._secret_folders.remove_others, set(self._live))
        for key_text, link in running.items():
            if Key(*key_text.split("/", 1)) not in self._attempts:
                link.send({"op": "end", "key": key_text, "grace": 0.0, "reason": "Deleted"})
        self._retire_others()
        if everything:
            log.info("pods of an earlier run were taken over", pods=len(everything), live=len(self._live))
        self._admit()

    async def _take_over_one(self, found: Found, link: zygotes.Link | None) -> None:
        attempt = _Attempt(found.key, found.record.pod, found.record.created)
        attempt.durable.set()
        self._attempts[found.key] = attempt
        refusal = self._plan(attempt)
        attempt.started = (found.process or {}).get("started")
        if found.outcome is not None:
            await self._end(attempt, Outcome.read(found.outcome), written=True)
        elif link is not None:
            attempt.link = link
            self._live[found.key] = attempt
            self._has_started(
                attempt, {"started": found.record.created, **(found.process or {}), **link.running[str(found.key)]}
            )
        elif refusal is not None:
            await self._end(attempt, refusal)
        elif found.record.boot != self._directory.boot and not self._directory.closed_properly:
            await self._bury(attempt, self._lost())  # what was written then may be missing now
        else:
            await self._resolve(attempt)

    async def _drain(self) -> None:
        """Wait for what runs, end what is left, and let the zygotes go."""
        self._stopping = True
        for attempt in list(self._live.values()):
            if attempt.link is None and attempt.pid is None:  # has no process, so it waits for the next run
                self._unlaunch(attempt)
        if self._live:
            log.info("waiting for running pods", pods=len(self._live), grace_seconds=self._grace.total_seconds())
            await self._until_ended(self._grace.total_seconds())
        left = [attempt for attempt in self._live.values() if attempt.link is not None or attempt.pid is not None]
        if left:
            log.warning("ending pods that did not finish in time", pods=len(left))
            stop = timedelta(seconds=_STOP_SECONDS)
            await asyncio.gather(*(self._terminate(attempt, stop, "Shutdown") for attempt in left))
        for making in self._making:
            making.cancel()
        if self._making:
            await asyncio.wait(self._making)
        for link in list(self._links.values()):
            link.send({"op": "retire"})
        if self._attending:
            await asyncio.wait(self._attending, timeout=_SETTLE_SECONDS)
        for link in list(self._links.values()):
            log.warning("a zygote does not end, and is killed", zygote=link.name, pid=link.pid)
            zygote.send_signal(link.pid, signal.SIGKILL)

    async def _until_ended(self, seconds: float) -> None:
        """Wait until nothing is live, at most for `seconds` of the clock."""
        waits = asyncio.create_task(self._clock.sleep(seconds))
        try:
            while self._live and not waits.done():
                ends = [asyncio.create_task(each.ended.wait()) for each in self._live.values()]
                await asyncio.wait([waits, *ends], return_when=asyncio.FIRST_COMPLETED, timeout=1.0)
                for each in ends:
                    each.cancel()
        finally:
            waits.cancel()

    # -- what goes on all the time --

    async def _sample_forever(self) -> None:
        while True:
            await self._clock.sleep(_SAMPLE_SECONDS)
            await self.sample()

    async def sample(self) -> None:
        """See who works and who waits, let the queue have the slots of those who wait, and the templates go."""
        self._retire_templates()
        running = [attempt for attempt in self._live.values() if attempt.state is State.RUNNING]
        if not running:
            self._admit()
            return
        seen = await asyncio.to_thread(_look, [attempt.pid for attempt in running if attempt.pid is not None])
        now = self._clock.boottime()
        for attempt in running:
            if attempt.activity is not None and attempt.pid in seen:
                family, waited_seconds = seen[attempt.pid]
                cpu_seconds = sum(each.cpu_seconds for each in family.values())
                attempt.idle = attempt.activity.observe(now, cpu_seconds, waited_seconds)
                await self._limit_memory(attempt, family)
        self._admit()

    def _retire_templates(self) -> None:
        """Let go the templates that are not needed any more, or all of them if the machine is short of memory."""
        kept = list(self._templates)
        if kept:
            unneeded = self._templates.idle(self._clock.boottime()) if self._has_memory() else kept
            for link in unneeded:
                if not link.stopping:
                    self._retire(link)

    async def _limit_memory(self, attempt: _Attempt, pids: Iterable[int]) -> None:
        """End an attempt that uses more memory than it asked to be limited to, as the kernel does in a container."""
        limit = attempt.plan.memory_limit_bytes if attempt.plan is not None else 0
        if not limit or attempt.too_much is not None or self._group is None:
            return
        used = await asyncio.to_thread(zygote.private_bytes, pids)
        if used > limit and attempt.state is State.RUNNING:
            attempt.too_much = f"it used {used / _MIB:.0f} MiB of memory, and its limit is {limit / _MIB:.0f} MiB"
            log.info("a pod uses too much memory, and is ended", pod=str(attempt.key), used=used, limit=limit)
            ending = self._terminate(attempt, timedelta(0), _OOM_KILLED)
            self._group.create_task(ending, name=f"limit the memory of {attempt.key}")

    async def _follow_forever(self) -> None:
        """Watch the attempts whose zygote died: nobody will report their end."""
        while True:
            await asyncio.sleep(_FOLLOW_SECONDS)
            for attempt in list(self._live.values()):
                if attempt.link is None and attempt.pid is not None and not zygote.is_alive(attempt.pid, attempt.start):
                    marker = self._marker(attempt)
                    await asyncio.to_thread(end_processes, attempt.pid, attempt.start, marker, 0.0)
                    await self._bury(attempt, self._lost())

    async def _evict_forever(self) -> None:
        while True:
            await self._clock.sleep(_EVICT_SECONDS)
            for content in await asyncio.to_thread(self._cache.evict):
                log.info("an unpacked code distribution was evicted", content=content)
            if self._keep_logs:
                before = self._now() - self._keep_logs.total_seconds()
                removed = await asyncio.to_thread(self._directory.forget_logs, before)
                if removed:
                    log.info("old logs were removed", logs=removed)


def _look(pids: Iterable[int]) -> dict[int, tuple[dict[int, zygote.Process], float]]:
    """Of each attempt, by its first process: all its processes, and how long they have waited for a processor."""
    table = zygote.processes()
    families = {pid: zygote.descendants(table, [pid]) for pid in pids}
    return {pid: (family, zygote.waited_seconds(family)) for pid, family in families.items()}


def end_processes(pid: int, start: int, marker: str, grace_seconds: float) -> None:
    """End every process of an attempt that has no zygote: SIGTERM, grace, SIGKILL.  Blocks until nothing is left."""
    left = zygote.members(pid, start, marker)
    for each in left if grace_seconds > 0 else ():
        zygote.send_signal(each, signal.SIGTERM)
    deadline = time.monotonic() + grace_seconds
    while left and time.monotonic() < deadline:
        time.sleep(0.02)
        left = zygote.members(pid, start, marker)
    give_up = time.monotonic() + _SETTLE_SECONDS
    while left:
        for each in left:
            zygote.send_signal(each, signal.SIGKILL)
        time.sleep(0.01)
        left = zygote.members(pid, start, marker)
        if left and time.monotonic() > give_up:
            log.error("processes of a pod cannot be killed", marker=marker, pids=sorted(left))
            return


def memory_bytes() -> int:
    """The memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def available_memory_bytes(path: Path = Path("/proc/meminfo")) -> int:
    """The memory that a new process could have without swapping."""
    for line in path.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return memory_bytes()


def _interpreter(path: Path) -> Path:
    """The Python of a path that names either it or the root of its environment; links stay as they are."""
    absolute = Path(os.path.abspath(path.expanduser()))
    return absolute / "bin" / "python" if absolute.is_dir() else absolute


def _has_labels(pod: Pod, labels: Mapping[str, str]) -> bool:
    has = pod["metadata"].get("labels") or {}
    return all(has.get(name) == value for name, value in labels.items())
