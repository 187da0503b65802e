"""The attempt: what runs in the forked child, from the fork to the end of the process."""

from __future__ import annotations

import atexit
import base64
import builtins
import contextlib
import os
import select
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
import types
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from . import kernel
from .commands import Command, interpret, needs_fresh_process
from .distributions import DistributionError, Distributions
from .faults import point
from .messages import receive, send
from .notes import write_json
from .preloaded import Preloaded
from .proc import MARKER
from .spares import make_scratch
from .streams import leave, redirect
from .template import Template

_signal: Any = vars(signal)["_signal"]
"""What `signal` is made of, which makes no enumeration of what it returns."""
NICENESS = 5
OOM_SCORE = b"300"


class StartError(Exception):
    """An attempt that cannot start for a reason that a person has to remove."""


def handlers_to_set() -> tuple[tuple[int, Any], ...]:
    """The signals for which a fork of this process has to set another handler, to begin as a new Python does."""
    begins = {
        signal.SIGPIPE: signal.SIG_IGN,
        signal.SIGXFSZ: signal.SIG_IGN,
        signal.SIGINT: signal.default_int_handler,
    }
    wanted = [(number, begins.get(number, signal.SIG_DFL)) for number in signal.valid_signals()]
    return tuple(
        (int(number), int(handler) if isinstance(handler, signal.Handlers) else handler)
        for number, handler in wanted
        if signal.getsignal(number) not in (handler, None)
    )


class Attempt:
    """The forked child: prepared ahead of need, then one job."""

    def __init__(
        self,
        control: socket.socket,
        preloaded: Preloaded,
        distributions: Distributions,
        handlers: Iterable[tuple[int, Any]],
        template: Template | None = None,
        *,
        hurries: bool = False,
    ) -> None:
        self._handlers = handlers
        self._hurries = hurries
        """Whether there is a core for it at once, so that how long it takes counts, and not how much."""
        self._template = template
        self._control = control
        self._preloaded = preloaded
        self._distributions = distributions
        self._pid = os.getpid()

    def live(self) -> NoReturn:
        """Prepare, wait for the job, do it, and leave the process."""
        code = 70
        try:
            self._prepare()
            job = receive(self._control)
            if job is None:
                os._exit(0)
            code = 1
            try:
                code = self._perform(job)
            except StartError as error:
                sys.stderr.write(f"{error}\n")
                send(self._control, {"start_error": str(error)})
                code = 128
        except BaseException:  # noqa: BLE001  (nothing may escape into the copy of the zygote's own loop)
            traceback.print_exc()
        finally:
            leave(code)

    def _prepare(self) -> None:
        os.setsid()
        kernel.become_subreaper()
        signal.set_wakeup_fd(-1)
        for number, handler in self._handlers:
            _signal.signal(number, handler)
        _signal.pthread_sigmask(signal.SIG_SETMASK, ())
        kernel.close_all_but(self._control.fileno())
        os.nice(NICENESS)
        with contextlib.suppress(OSError):
            descriptor = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(descriptor, OOM_SCORE)
            finally:
                os.close(descriptor)
        if self._hurries and not _is_waiting(self._control):
            self._preloaded.copy_ahead()
        self._preloaded.renew_in_child()

    def _perform(self, job: Mapping[str, Any]) -> int:
        folder: str = job["folder"]
        environment: dict[str, str] = job["environment"]
        redirect(job["log"])
        lay_secrets(job["secrets"]["folder"], job["secrets"]["files"])
        recycled: str | None = job["spare_code"]  # to become the folder
        for needed in (environment["TMPDIR"], *job["volumes"], *(() if recycled else (folder,))):
            os.makedirs(needed, mode=0o700, exist_ok=True)
        kernel.mark(environment.get(MARKER, ""))
        kernel.name_process(job["name"])
        _set_environment(environment)
        time.tzset()
        tempfile.tempdir = environment["TMPDIR"]  # as it is found, but for a file that is made to see whether one can
        sys.dont_write_bytecode = bool(environment.get("PYTHONDONTWRITEBYTECODE"))
        os.chdir(environment["TMPDIR"] if recycled else folder)  # an empty one, for now
        try:
            command = interpret(job["argv"], folder)
        except ValueError as error:
            raise StartError(str(error)) from error
        script = os.path.join(os.path.dirname(job["python"]), command.name) if command.name else ""
        fork = bool(command.name) and self._preloaded.entrypoint is not None and not needs_fresh_process(environment)
        template = self._template
        if template is not None and not template.fits(command, environment):
            fork, template = False, None  # a new process imports nothing but what it is to import
            os.makedirs(folder, mode=0o700, exist_ok=True)
            os.chdir(folder)
        if fork or command.distribution:
            scratch = os.path.join(environment["TMPDIR"], job["scratch"])
            make_scratch(scratch, job["spare_scratch"])
            self._preloaded.renew_for_job(environment, scratch)
        sys.path[:] = [p for p in environment.get("PYTHONPATH", "").split(os.pathsep) if p] + self._preloaded.path
        if command.distribution:
            fetch = None if self._preloaded.is_missing else self._preloaded.fetch
            try:
                if template is not None and fork:
                    template.settle_in(folder, recycled)
                else:
                    self._distributions.lay(command.distribution, folder, fetch)
            except DistributionError as error:
                raise StartError(str(error)) from error
            given = os.environ.get("PYTHONPATH")
            os.environ["PYTHONPATH"] = folder if not given else given + os.pathsep + folder
            sys.path.insert(0, folder)
        else:
            sys.path.insert(0, os.path.dirname(script))
        if job["working_dir"] and not command.distribution:
            os.chdir(job["working_dir"])
        if not fork:
            self._execute(command, job)
        self._control.close()
        self._become_main(script, command.arguments)
        point("task.begins")
        code = self._call(command)
        self._finish(code, job["record"])
        return code

    def _execute(self, command: Command, job: Mapping[str, Any]) -> NoReturn:
        if command.name:
            if self._preloaded.is_missing:
                raise StartError(
                    f"the environment of {job['python']} cannot run {command.name}: {self._preloaded.problem}; "
                    "install flytekit there, or let the image name select another environment"
                )
            argv = [job["python"], "-m", "flytekit.bin.entrypoint", command.name, *command.arguments]
        else:
            argv = command.arguments
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        try:
            os.execvp(argv[0], argv)
        except FileNotFoundError as error:
            raise StartError(
                f"there is no executable {argv[0]!r} on this machine or in the environment of {job['python']}; "
                "install it, or let the image name select an environment that has it"
            ) from error
        except OSError as error:
            raise StartError(f"{argv[0]!r} cannot be executed: {error.strerror}") from error

    @staticmethod
    def _become_main(script: str, arguments: list[str]) -> None:
        """Give the process the `__main__` that it would have, had it been started by flytekit's script."""
        main = types.ModuleType("__main__")
        main.__file__ = script
        main.__dict__["__builtins__"] = builtins
        sys.modules["__main__"] = main
        sys.argv[:] = [script, *arguments]
        if hasattr(sys, "orig_argv"):
            sys.orig_argv[:] = [sys.executable, script, *arguments]

    def _call(self, command: Command) -> int:
        entrypoint = self._preloaded.entrypoint
        function = entrypoint.execute_task_cmd if command.name == "pyflyte-execute" else entrypoint.map_execute_task_cmd
        reader = self._preloaded.readers.get(command.name)
        if reader is not None:
            reader.read_for(function, command.arguments)
        try:
            function.main(args=command.arguments, prog_name=command.name)
        except SystemExit as leave:
            if leave.code is None:
                return 0
            if isinstance(leave.code, int):
                return leave.code & 0xFF
            print(leave.code, file=sys.stderr)  # noqa: T201  (as the interpreter does)
            return 1
        except BaseException:  # noqa: BLE001  (as the interpreter does at its outermost frame)
            sys.excepthook(*sys.exc_info())
            return 1
        return 0

    def _finish(self, code: int, record: str) -> None:
        """What the interpreter does before it ends, then a note of the exit code in case the zygote is gone."""
        steps = getattr(threading, "_shutdown", None), stop_controllers, getattr(atexit, "_run_exitfuncs", None)
        for step in steps:
            if step is not None:
                try:
                    step()
                except BaseException:  # noqa: BLE001  (an exit handler's trouble is printed and does not change the code)
                    traceback.print_exc()
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        if os.getpid() == self._pid:  # not in a process that user code forked and that came back here
            point("task.done")
            with contextlib.suppress(OSError):
                write_json(record + ".leaving", {"code": code, "finished": time.time()})
            point("task.leaving")


def stop_controllers() -> None:
    """Stop the SDK's threads that look after what an eager task launched, and wait until they have.

    The SDK's own exit handlers do that too late: one of them stops the loop by which such a thread publishes its deck,
    and a later one waits for the thread.  If it publishes just then, it waits for that loop, and no exit comes.
    """
    for thread in threading.enumerate():
        controller = getattr(getattr(thread, "_target", None), "__self__", None)
        stopping = getattr(controller, "stopping_condition", None)
        if isinstance(stopping, threading.Event) and type(controller).__module__ == "flytekit.core.worker_queue":
            stopping.set()
            thread.join()


def _set_environment(environment: Mapping[str, str]) -> None:
    """Have these variables and no others; what is there already stays, which is cheaper than to make it anew."""
    for name in [name for name in os.environ if name not in environment]:
        del os.environ[name]
    for name, value in environment.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


def _is_waiting(connection: socket.socket) -> bool:
    """Whether something can be read from a connection at once."""
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


def lay_secrets(folder: str, files: Mapping[str, str]) -> None:
    """Write the secrets of an attempt (base 64, by relative path) where nobody else may read them."""
    for relative, content in files.items():
        path = os.path.join(folder, relative)
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
        with os.fdopen(descriptor, "wb") as file:
            file.write(base64.b64decode(content))
