"""What a zygote imported ahead of need, and what must be renewed in each fork of it."""

from __future__ import annotations

import gc
import importlib
import importlib.util
import os
import random
import signal
import sys
import tempfile
import traceback
from collections.abc import Mapping
from typing import Any, NamedTuple

from . import kernel
from .addresses import Addresses
from .proc import has_idle_core, thread_count
from .reading import Reader
from .spares import SCRATCH


class Preloaded:
    """What the zygote imported ahead of need; never user code."""

    def __init__(self) -> None:
        self.entrypoint: Any = None
        """flytekit's entry point, if commands can be run in a fork."""
        self.version: str | None = None
        self.problem: str | None = None
        """Why commands cannot be run in a fork, for people."""
        self.is_missing = False
        """Whether there is no flytekit that works, so that its commands cannot be run at all."""
        self.randoms: list[random.Random] = []
        self.path: list[str] = list(sys.path)
        self.touched: list[tuple[int, int]] = []
        """Start and size of the memory that a task touches."""
        self.readers: dict[str, Reader] = {}
        """Of the arguments of flytekit's commands, by the name of the command."""
        self._ahead: _Ahead | None = None

    def load(self) -> None:
        """Import flytekit's entry point, and warm what each task would otherwise warm for itself."""
        try:
            entrypoint = importlib.import_module("flytekit.bin.entrypoint")
        except ImportError as error:
            self.problem, self.is_missing = f"flytekit cannot be imported: {error}", True
            return
        except Exception as error:  # noqa: BLE001  (a broken package raises anything; whoever uses it is told)
            self.problem, self.is_missing = f"importing flytekit failed: {type(error).__name__}: {error}", True
            traceback.print_exc()
            return
        self.version = str(getattr(module("flytekit"), "__version__", "unknown"))
        if thread_count() > 1:
            self.problem = "importing flytekit starts threads in this environment"
            return
        parser = module("docstring_parser")
        if parser is not None:
            parser.parse("Sum.\n\nArgs:\n    a: one\n\nReturns:\n    it\n")  # compiles its many expressions
        connector = module("flytekit.extend.backend.base_connector")
        if connector is not None and hasattr(connector, "local_connector_loop"):
            connector.local_connector_loop.close()  # a loop must not be shared by forks
            connector.local_connector_loop = _LoopOnUse()
        for command in (entrypoint.execute_task_cmd, entrypoint.map_execute_task_cmd):
            reader = Reader.of(command)
            if reader is not None:
                self.readers[command.name] = reader
        self.entrypoint = entrypoint

    def skip(self, problem: str) -> None:
        """Import nothing, because of `problem`."""
        self.problem = problem
        self.is_missing = importlib.util.find_spec("flytekit") is None

    def copy_ahead(self) -> None:
        """Copy the memory that a task will touch, where the kernel can do it at once (Linux 5.14).

        It costs some CPU more than it saves the task, so it is done only while a core has nothing better to do.
        """
        if not has_idle_core():
            return
        for start, size in self.touched:
            if not kernel.populate(start, size):
                return

    def settle(self) -> None:
        """Make what is loaded immovable, so that forks share its memory."""
        gc.collect()
        self.randoms += [each for each in gc.get_objects() if issubclass(type(each), random.Random)]
        if not any(each is random.seed.__self__ for each in self.randoms):  # type: ignore[attr-defined]
            self.randoms.append(random.seed.__self__)  # type: ignore[attr-defined]
        gc.freeze()

    def renew_in_child(self) -> None:
        """Whatever must differ from one fork to the next and does not depend on the job."""
        for generator in self.randoms:
            generator.seed()
        numpy_random = module("numpy.random")
        if numpy_random is not None:
            numpy_random.seed()

    def renew_for_job(self, environment: Mapping[str, str], scratch: str | None = None) -> None:
        """Repeat what flytekit does at import with the environment and the temporary folder of the job.

        `scratch` is the folder in which flytekit works, if there is one already.
        """
        if self.entrypoint is None:
            return
        if any(
            name.startswith("FLYTE_SDK_") for name in environment
        ):  # without any, the zygote's own loggers are right
            loggers = module("flytekit.loggers")
            for logger in (loggers.logger, loggers.user_space_logger, loggers.developer_logger):
                logger.handlers.clear()
            loggers.initialize_global_loggers()
            if environment.get("FLYTE_SDK_RICH_TRACEBACKS") == "0":
                sys.excepthook = sys.__excepthook__
        folder = scratch or tempfile.mkdtemp(prefix="flyte-")
        if self._ahead is None:
            self._renew(folder)
            return
        self._name(folder)
        for place in (os.path.join(folder, each) for each in SCRATCH):
            if not os.path.isdir(place):
                os.mkdir(place)
        self._ahead.provider._data_config = module("flytekit.configuration").DataConfig.auto()
        self._ahead.addresses.move(folder)
        self._provide(self._ahead.provider)
        module("flytekit.core.context_manager").flyte_context_Var.set([self._ahead.context])
        signal.signal(signal.SIGINT, self._ahead.interrupted)

    def renew_ahead(self) -> None:
        """Do once, with a folder that stands in for those of jobs, what `renew_for_job` would do for each of them.

        The folder stays, as the one in which flytekit works in this process.
        """
        if self.entrypoint is None:
            return
        interrupted = signal.getsignal(signal.SIGINT)
        folder = tempfile.mkdtemp(prefix="stand-in-")
        try:
            self._renew(folder)
            context = module("flytekit.core.context_manager").FlyteContextManager.current_context()
            provider = module("flytekit.core.data_persistence").default_local_file_access_provider
            addresses = Addresses([context, provider], folder)
            made = {os.path.normpath(place) for place, _, _ in os.walk(folder)}
            is_known = "_data_config" in vars(provider) and context.file_access is provider
            is_known &= made == {os.path.normpath(os.path.join(folder, each)) for each in SCRATCH}
            if addresses.is_complete and is_known:
                self._ahead = _Ahead(context, provider, addresses, signal.getsignal(signal.SIGINT))
        except Exception:  # noqa: BLE001  (another flytekit, of which a rehearsal finds out whether it can be forked)
            self._ahead = None
        finally:
            signal.signal(signal.SIGINT, interrupted)

    def _renew(self, folder: str) -> None:
        """Let flytekit work in a folder, as it would had it been imported just now."""
        self._name(folder)
        persistence = module("flytekit.core.data_persistence")
        self._provide(
            persistence.FileAccessProvider(
                local_sandbox_dir=os.path.join(folder, "sandbox"),
                raw_output_prefix=os.path.join(folder, "raw"),
                data_config=module("flytekit.configuration").DataConfig.auto(),
            )
        )
        module("flytekit.core.context_manager").FlyteContextManager.initialize()

    @staticmethod
    def _name(folder: str) -> None:
        """Let flytekit's own settings name the folder in which it works."""
        config = module("flytekit.configuration").Config
        before = config.local_sandbox_path
        config.local_sandbox_path = folder
        defaults = config.__init__.__defaults__
        config.__init__.__defaults__ = tuple(folder if each == before else each for each in defaults)
        module("flytekit.core.data_persistence").flyte_tmp_dir = folder

    @staticmethod
    def _provide(provider: Any) -> None:
        for name in ("flytekit.core.data_persistence", "flytekit.core.context_manager"):
            module(name).default_local_file_access_provider = provider

    def fetch(self, reference: str, path: str) -> None:
        """Bring a remote file here by flytekit's own storage drivers and their configuration."""
        context_manager: Any = importlib.import_module("flytekit.core.context_manager")
        context_manager.FlyteContextManager.current_context().file_access.get_data(reference, path)


class _Ahead(NamedTuple):
    """What flytekit makes when it is imported, for a folder and a time that are to be changed."""

    context: Any
    provider: Any
    addresses: Addresses
    interrupted: Any
    """What it does on SIGINT."""


class _LoopOnUse:
    """An event loop that each process makes for itself when it uses it, which is when a task runs a connector."""

    def __getattr__(self, name: str) -> Any:
        loop = self.__dict__.get("loop")
        if loop is None:
            loop = self.__dict__["loop"] = module("asyncio").new_event_loop()
        return getattr(loop, name)


def module(name: str) -> Any:
    """A module that may have been imported; None if it was not."""
    return sys.modules.get(name)
