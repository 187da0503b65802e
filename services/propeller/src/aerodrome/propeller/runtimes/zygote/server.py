"""The process that forks, reaps, and answers the platform."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
import types
from collections.abc import Mapping
from typing import Any, NoReturn

from . import PROGRAM, kernel, practice
from .attempt import Attempt, handlers_to_set
from .distributions import Distributions
from .faults import point
from .forking import Forks
from .messages import PROTOCOL, receive, send
from .notes import claim, write_json
from .preloaded import Preloaded
from .proc import descendants, oom_kills, own_children, process, processes, send_signal, thread_count
from .spares import Lent, Spares
from .streams import leave, redirect
from .template import NotTemplated, Template

FORKS_IN_A_ROW = 2
"""What a fork makes shared again, the zygote copies when it next writes to it: once for children forked in a row."""
UNMET_SECONDS = 10.0
"""How long a warm zygote waits for the platform that started it, which is there at once unless it died."""


class Running:
    """An attempt that the zygote started."""

    def __init__(self, job: Mapping[str, Any], pid: int, start: int, control: socket.socket, lent: Lent) -> None:
        self.job = job
        self.key: str = job["key"]
        self.record: str = job["record"]
        self.pid = pid
        self.start = start
        self.started = time.time()
        self.control = control
        self.lent = lent
        self.oom_kills = oom_kills()
        self.reason: str | None = None
        """Why it is being ended, if it is."""
        self.deadline: float | None = None
        """Monotonic time of its SIGKILL."""


class Zygote:
    """The process that forks, reaps, and answers the platform."""

    def __init__(
        self, settings: Mapping[str, Any], preloaded: Preloaded | None = None, forks: Forks | None = None
    ) -> None:
        self._settings = dict(settings)
        self._template: Template | None = None
        self._spares = Spares(f"{settings['name']}.tmp", settings["warm"], None)
        self._templates: set[int] = set()
        """The templates that were forked from this zygote, by pid."""
        self._name: str = settings["name"]
        self._python: str = settings["python"]
        self._warm_wanted: int = settings["warm"]
        self._outlive: float = settings["outlive"]
        self._grace: float = settings["grace"]
        self._patience_alone = min(self._outlive, UNMET_SECONDS)
        self._preloaded = preloaded or Preloaded()
        self._forks = forks or Forks()
        self._distributions = Distributions(settings["cache"], settings["cache_limit"])
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._platform: socket.socket | None = None
        self._incoming = b""
        self._outgoing = b""
        self._alone_since: float | None = time.monotonic()
        self._retired = False
        self._stopping = False
        self._fork_again_at = 0.0
        self._warm: dict[int, socket.socket] = {}
        self._running: dict[int, Running] = {}
        self._handlers: tuple[tuple[int, Any], ...] = ()
        """What a child changes in how signals are handled, which must not come meanwhile."""
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)

    def run(self, without: str | None, *, cold: bool = False) -> None:
        """Serve until retired, or until left alone for too long.

        `without` preloading for that reason, if given; `cold`, so without practice, if that was found to be harmful.
        """
        kernel.obey_permissions()
        self._introduce()
        self._listen()
        self._forks.watch()
        if without is None:
            self._preloaded.load()
        else:
            self._preloaded.skip(without)
        if self._preloaded.entrypoint is not None and not cold:
            self._practise()
        self._preloaded.renew_ahead()
        self._preloaded.settle()
        if self._preloaded.entrypoint is not None:
            practice.rehearse(self._preloaded)
        if without is None and self._preloaded.problem is not None and not self._preloaded.is_missing:
            self._restart_without(self._preloaded.problem)
        self._serve()

    def _introduce(self) -> None:
        """Take the signals of a zygote, and say under its name which process it is."""
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._on_terminate)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        kernel.become_subreaper()
        kernel.name_process("aerodrome-zygote")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._name + ".sock")
        itself = process(os.getpid())
        write_json(self._name + ".json", {"pid": os.getpid(), "start": itself.start if itself else 0})

    def _listen(self) -> None:
        self._listener.bind(self._name + ".sock")
        self._listener.listen(8)
        self._listener.setblocking(False)

    def _serve(self) -> None:
        self._forks.unwatch()
        self._handlers = handlers_to_set()  # it changes no more
        self._alone_since = time.monotonic()  # the platform that started this is already in the listener's queue
        try:
            while not (self._finished() or self._alone_too_long()):
                self._turn()
        finally:
            self._dismiss()
            for suffix in (".sock", ".json"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._name + suffix)

    def _dismiss(self) -> None:
        """End the children that got no job, so that nothing is left when the zygote is gone."""
        while self._warm:
            pid, control = self._warm.popitem()
            control.close()
            send_signal(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)

    def _practise(self) -> None:
        try:
            if practice.practise(self._preloaded):
                return
        except Exception:  # noqa: BLE001  (another flytekit, which can be forked all the same)
            traceback.print_exc()
        os.execv(sys.executable, [sys.executable, PROGRAM, "--cold", *sys.argv[-1:]])

    def _restart_without(self, problem: str) -> NoReturn:
        """Start over without preloading: its threads make forks unsafe, or its forks would be of no use."""
        os.execv(sys.executable, [sys.executable, PROGRAM, "--without", problem, *sys.argv[-1:]])

    def _on_terminate(self, number: int, frame: types.FrameType | None) -> None:
        self._stopping = True
        self._retired = True

    def _finished(self) -> bool:
        return self._retired and not self._running

    def _alone_too_long(self) -> bool:
        if self._alone_since is None or time.monotonic() - self._alone_since < self._patience_alone:
            return False
        self._stopping = self._retired = True
        return not self._running

    def _turn(self) -> None:
        """One round: hear, reap, refill, and keep the deadlines."""
        poll = select.poll()
        poll.register(self._wake_read, select.POLLIN)
        poll.register(self._listener, select.POLLIN)
        if self._platform is not None:
            poll.register(self._platform, select.POLLIN | (select.POLLOUT if self._outgoing else 0))
        ready = dict(poll.poll(self._patience() * 1000))
        if self._wake_read in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_read, 4096)
        if self._platform is not None and self._platform.fileno() in ready:
            self._hear()
        if self._listener.fileno() in ready:
            self._accept()
        self._reap()
        self._keep_deadlines()
        self._flush()
        refill = self._refill_due()
        if refill is not None and refill <= time.monotonic():
            for _ in range(min(FORKS_IN_A_ROW, self._warm_wanted)):
                if not self._fork():
                    break

    def _patience(self) -> float:
        """Seconds until something is due without being asked for."""
        now = time.monotonic()
        refill = self._refill_due()
        if refill is not None and refill <= now:
            return 0.0
        due = [] if refill is None else [refill]
        due += [each.deadline for each in self._running.values() if each.deadline is not None]
        if self._alone_since is not None:
            due.append(self._alone_since + self._patience_alone)
        if not due:
            return 60.0
        return min(60.0, max(0.05, min(due) - now))

    # -- the platform --

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return
        if self._platform is not None:
            # Its lock on the data directory says that the earlier platform is dead; take in what it had still sent.
            self._platform.settimeout(5)
            with contextlib.suppress(OSError):
                while self._platform is not None:
                    self._hear()
            self._forget_platform()
        connection.setblocking(False)
        self._platform = connection
        self._incoming = self._outgoing = b""
        self._alone_since = None
        self._patience_alone = self._outlive
        running = [{"key": each.key, "pid": each.pid, "start": each.start} for each in self._running.values()]
        self._say(
            {
                "op": "hello",
                "protocol": PROTOCOL,
                "python": self._python,
                "flytekit": self._preloaded.version,
                "problem": self._preloaded.problem,
                "stopping": self._retired or self._stopping,
                "running": running,
            }
        )

    def _forget_platform(self) -> None:
        if self._platform is not None:
            self._platform.close()
            self._platform = None
            self._alone_since = time.monotonic()

    def _say(self, message: Mapping[str, Any]) -> None:
        if self._platform is not None:
            self._outgoing += json.dumps(message).encode() + b"\n"
            self._flush()

    def _flush(self) -> None:
        while self._platform is not None and self._outgoing:
            try:
                self._outgoing = self._outgoing[self._platform.send(self._outgoing) :]
            except (BlockingIOError, TimeoutError):
                return
            except OSError:
                self._forget_platform()

    def _hear(self) -> None:
        if self._platform is None:
            return
        try:
            part = self._platform.recv(1 << 20)
        except BlockingIOError:
            return
        except OSError:
            part = b""
        if not part:
            self._forget_platform()
            return
        *lines, self._incoming = (self._incoming + part).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if message["op"] == "start":
                self._start(message)
            elif message["op"] == "end":
                self._end(message)
            elif message["op"] == "retire":
                self._retired = True
            elif message["op"] == "template":
                self._fork_template(message)

    # -- attempts --

    def _start(self, job: dict[str, Any]) -> None:
        if self._retired:
            return
        while True:
            if not self._warm and not self._fork():
                self._say(self._refusal(job, "no process could be made for it; the machine has none left"))
                return
            pid, control = self._warm.popitem()
            found = process(pid)
            if found is None or found.state in "ZX":
                control.close()
                continue
            lent = self._spares.lend()
            running = Running({**job, **lent.written()}, pid, found.start, control, lent)
            try:
                claimed = claim(running.record, {"pid": pid, "start": found.start, "started": running.started})
            except OSError as error:
                self._warm[pid] = control
                self._spares.give_back(running.lent)
                self._say(self._refusal(job, f"its process could not be recorded: {error.strerror}"))
                return
            if not claimed:
                self._warm[pid] = control
                self._spares.give_back(running.lent)
                return
            point("process.claimed")
            try:
                send(control, running.job)
            except OSError:
                self._spares.give_back(running.lent)
                os.unlink(running.record + ".pid")  # it died before it could learn what to do
                control.close()
                continue
            control.setblocking(False)
            self._running[pid] = running
            point("process.started")
            self._say(
                {"op": "started", "key": running.key, "pid": pid, "start": found.start, "started": running.started}
            )
            return

    @staticmethod
    def _refusal(job: Mapping[str, Any], message: str) -> dict[str, Any]:
        return {"op": "refused", "key": job["key"], "message": message}

    def _end(self, message: Mapping[str, Any]) -> None:
        for running in self._running.values():
            if running.key == message["key"]:
                self._terminate(running, message["reason"], message["grace"])

    def _terminate(self, running: Running, reason: str | None, grace: float) -> None:
        deadline = time.monotonic() + grace
        if running.deadline is None and grace > 0:  # without grace there is nothing to say first
            for pid in descendants(processes(), [running.pid]):
                send_signal(pid, signal.SIGTERM)
        elif running.deadline is not None and running.deadline <= deadline:
            return
        running.reason = reason
        running.deadline = deadline

    def _keep_deadlines(self) -> None:
        if self._stopping:
            for running in self._running.values():
                if running.deadline is None:
                    self._terminate(running, "Shutdown", self._grace)
        now = time.monotonic()
        for running in self._running.values():
            if running.deadline is not None and running.deadline <= now:
                send_signal(running.pid, signal.SIGKILL)  # the rest comes here, and is killed when this is reaped
                running.deadline = now + 1.0

    def _fork(self) -> bool:
        """Fork one more waiting child; False, and a pause, if the machine does not allow it."""
        if thread_count() > 1:
            raise RuntimeError("the zygote has more than one thread, so it must not fork")
        ours, theirs = socket.socketpair()
        signal.pthread_sigmask(signal.SIG_BLOCK, [number for number, _ in self._handlers])
        try:
            pid = self._forks.fork()
            if pid == 0:
                ours.close()
                hurries = len(self._running) < (os.cpu_count() or 1)
                Attempt(
                    theirs, self._preloaded, self._distributions, self._handlers, self._template, hurries=hurries
                ).live()
        except OSError as error:
            sys.stderr.write(f"no child could be forked: {error.strerror}\n")
            ours.close()
            self._fork_again_at = time.monotonic() + 1.0
            return False
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            theirs.close()
        ours.settimeout(30)
        self._warm[pid] = ours
        return True

    # -- templates --

    def _fork_template(self, order: Mapping[str, Any]) -> None:
        """Fork a zygote that imports the code of a distribution; that it serves, it says itself."""
        if self._retired:
            return
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            pid = os.fork()
            if pid == 0:
                self._become_template(order)
        except OSError as error:
            self._say({"op": "templated", "name": order["name"], "pid": 0, "start": 0, "message": error.strerror})
            return
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
        self._templates.add(pid)
        found = process(pid)
        self._say({"op": "templated", "name": order["name"], "pid": pid, "start": found.start if found else 0})

    def _become_template(self, order: Mapping[str, Any]) -> NoReturn:
        """Be a zygote of its own: nothing of the one that it was forked from stays open."""
        code = 70
        try:
            os.setsid()
            signal.set_wakeup_fd(-1)
            for open_socket in (self._listener, self._platform, *self._warm.values()):
                if open_socket is not None:
                    open_socket.close()
            for running in self._running.values():
                running.control.close()
            os.close(self._wake_read)
            os.close(self._wake_write)
            name: str = order["name"]
            redirect(name + ".log")
            os.mkdir(name + ".tmp", 0o700)
            os.environ["TMPDIR"] = tempfile.tempdir = os.path.abspath(name + ".tmp")
            successor = Zygote({**self._settings, "name": name}, self._preloaded, self._forks)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            successor.run_as_template(order["reference"], order["arguments"])
            shutil.rmtree(name + ".tmp", ignore_errors=True)
            code = 0
        except NotTemplated as why:
            sys.stderr.write(f"{why}\n")
            code = 3
        except BaseException:  # noqa: BLE001  (nothing may escape into the copy of the other zygote's loop)
            traceback.print_exc()
        finally:
            leave(code)

    def run_as_template(self, reference: str, arguments: list[str]) -> None:
        """Import what a command of flytekit with these arguments does, then serve like any other zygote.

        Raises NotTemplated.
        """
        self._introduce()
        try:
            self._forks.watch()
            self._template = Template.load(reference, arguments, self._distributions)
            self._spares = Spares(f"{self._name}.tmp", self._warm_wanted, self._template)
            self._preloaded.settle()
            kernel.use_large_pages()
            self._listen()
            self._serve()
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._name + ".json")

    def _refill_due(self) -> float | None:
        """Monotonic time at which more children should be forked ahead of need; None while there are enough."""
        missing = self._warm_wanted - len(self._warm)
        return None if self._retired or missing < min(FORKS_IN_A_ROW, self._warm_wanted) else self._fork_again_at

    def _reap(self) -> None:
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None:
                return
            pid = found.si_pid
            running = self._running.get(pid)
            if running is None:
                os.waitpid(pid, 0)
                if pid in self._templates:
                    self._templates.discard(pid)
                    self._kill_strays()
                control = self._warm.pop(pid, None)
                if control is not None:  # a waiting child died by itself, and the next one may too
                    control.close()
                    self._fork_again_at = time.monotonic() + 1.0
                continue
            alone = self._kill_strays()
            _, status = os.waitpid(pid, 0)
            del self._running[pid]
            if alone:
                self._spares.keep(running.job, running.lent)
            self._report(running, status)

    def _kill_strays(self) -> bool:
        """Kill what ended attempts left behind: every child that is neither waiting nor an attempt nor a template.

        What a template left that was killed is among it, and so ends with it.  False if something would not die.
        """
        known = (self._warm, self._running, self._templates)
        give_up = time.monotonic() + 5.0
        while time.monotonic() < give_up:
            strays = [pid for pid in own_children() if not any(pid in each for each in known)]
            if not strays:
                return True
            for pid in strays:
                send_signal(pid, signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
            time.sleep(0.001)  # what was killed is yet to die; the zygote has nothing more urgent to do
        return False

    def _report(self, running: Running, status: int) -> None:
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        code = 128 + number if number is not None else os.WEXITSTATUS(status)
        reason = running.reason if code else None
        message = None
        said = receive(running.control)
        running.control.close()
        if said is not None and "start_error" in said:
            reason, message = "StartError", said["start_error"]
        elif reason is None and code == 128 + signal.SIGKILL and oom_kills() > running.oom_kills:
            reason = "OOMKilled"
        outcome = {"code": code, "signal": number, "reason": reason, "message": message, "finished": time.time()}
        point("process.reaped")
        try:
            write_json(running.record + ".exit", outcome)
            point("process.ended")
        except OSError:  # a full disk: the platform is told all the same, and what cannot be told is a lost attempt
            traceback.print_exc()
        self._say({"op": "exited", "key": running.key, "started": running.started, **outcome})


def main(arguments: list[str]) -> None:
    """Run a zygote in the current directory; the last argument is its settings as JSON."""
    settings = json.loads(arguments[-1])
    Zygote(settings).run(without=arguments[1] if arguments[0] == "--without" else None, cold=arguments[0] == "--cold")
    shutil.rmtree(settings["name"] + ".tmp", ignore_errors=True)
