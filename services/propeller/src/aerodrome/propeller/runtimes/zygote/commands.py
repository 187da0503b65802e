"""Command lines: what a container's command asks for, and whether a fork can do it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

MAP_RESOLVER = "flytekit.core.array_node_map_task.ArrayNodeMapTaskResolver"
"""What flytekit loads the items of a map task by."""
FAMILY = ("pyflyte-execute", "pyflyte-fast-execute", "pyflyte-map-execute")


class Command(NamedTuple):
    """A container's command: flytekit's own by `name`, or any other with `name` empty."""

    name: str
    arguments: list[str]
    distribution: str | None
    """Reference of the code to lay into the attempt's folder, as `pyflyte-fast-execute` names it."""


def interpret(argv: list[str], folder: str) -> Command:
    """What a container's command asks for, with `pyflyte-fast-execute` resolved.

    Where fast registration is used, the inner command gets `--dynamic-addl-distro` and `--dynamic-dest-dir` before
    `--resolver`, as flytekit inserts them, with `folder` as the place where the code lies.  Raises ValueError for a
    `pyflyte-fast-execute` without a command.
    """
    distribution: str | None = None
    while argv and os.path.basename(argv[0]) == "pyflyte-fast-execute":
        rest = list(argv[1:])
        while rest and rest[0].startswith("--"):
            option, equals, value = rest.pop(0).partition("=")
            if option == "--":
                break
            if option not in ("--additional-distribution", "--dest-dir"):
                raise ValueError(f"pyflyte-fast-execute has no option {option}")
            if not equals:
                if not rest:
                    raise ValueError(f"the option {option} of pyflyte-fast-execute lacks its value")
                value = rest.pop(0)
            if option == "--additional-distribution":
                distribution = value
        if not rest:
            raise ValueError("pyflyte-fast-execute has no command to execute")
        argv = rest
        if distribution and "--resolver" in argv:
            place = argv.index("--resolver")
            dynamic = ["--dynamic-addl-distro", distribution, "--dynamic-dest-dir", folder]
            argv = argv[:place] + dynamic + argv[place:]
    name = os.path.basename(argv[0]) if argv else ""
    if name in FAMILY:
        return Command(name, argv[1:], distribution)
    return Command("", argv, distribution)


def needs_fresh_process(environment: Mapping[str, str]) -> bool:
    """Whether a variable is only read while a process or its modules start, so that a fork would come too late."""
    late = ("PYTHONPATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE")
    early = ("PYTHON", "LD_", "MALLOC_", "GLIBC_", "GRPC_", "FSSPEC_", "LC_", "_F_P_", "_F_TE_")
    return any(name.startswith(early) and name not in late for name in environment)


_READ_ON_CALL = (
    "FLYTE_INTERNAL_", "FLYTE_SDK_LOGGING", "FLYTE_SDK_RICH", "FLYTE_PLATFORM_", "FLYTE_SECRETS_",
    "FLYTE_ATTEMPT_NUMBER", "FLYTE_K8S_ARRAY_INDEX", "FLYTE_FAIL_ON_ERROR",
)  # fmt: skip
"""flytekit's variables that it reads for each task, and not when a task is defined."""


def allows_template(environment: Mapping[str, str]) -> bool:
    """Whether no variable is set that has a say in what an import of tasks makes, or where it finds them."""
    return not needs_fresh_process(environment) and not any(
        name == "PYTHONPATH" or (name.startswith("FLYTE_") and not name.startswith(_READ_ON_CALL))
        for name in environment
    )


def loader_of(arguments: list[str]) -> list[str]:
    """What a command hands to its resolver.  Raises ValueError if there is nothing."""
    return arguments[arguments.index("--") + 1 :]


def module_of_tasks(arguments: list[str]) -> str | None:
    """The module that flytekit's own resolvers import for these arguments; None where that is not known."""
    try:
        resolver = arguments[arguments.index("--resolver") + 1]
        loader = loader_of(arguments)
        if resolver == MAP_RESOLVER:
            resolver = loader[loader.index("resolver") + 1]
        if resolver != "flytekit.core.python_auto_container.default_task_resolver":
            return None
        return loader[loader.index("task-module") + 1]
    except (ValueError, IndexError):
        return None
