"""Tasks of nothing that a zygote runs before it serves: in a fork, to see that it can, and in itself, to be quicker."""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import functools
import gc
import importlib
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Mapping
from typing import Any

from .commands import FAMILY, MAP_RESOLVER
from .kernel import copied_pages, private_areas
from .messages import receive, send
from .preloaded import Preloaded, module
from .proc import thread_count
from .streams import redirect
from .surroundings import EXIT_HANDLERS, surroundings

_PRACTICE = 2
"""How often a zygote practises each command: the second time finds made what the first one made."""


def rehearse(preloaded: Preloaded) -> None:
    """Do in a child what each fork will do.

    What goes wrong with this flytekit is why it cannot be forked.  What goes well tells which memory a task
    touches, so that later children can copy it before they have a job instead of page by page while it waits.
    """
    ours, theirs = socket.socketpair()
    folder = tempfile.mkdtemp(prefix="rehearsal-")
    pid = os.fork()
    if pid == 0:
        try:
            send(theirs, _perform_rehearsal(preloaded, folder))
        finally:
            os._exit(0)
    theirs.close()
    said = receive(ours) or {"problem": "a rehearsal with this flytekit ended without a word", "touched": []}
    ours.close()
    os.waitpid(pid, 0)
    shutil.rmtree(folder, ignore_errors=True)
    preloaded.problem, preloaded.touched = said["problem"], said["touched"]
    if preloaded.problem is not None:
        preloaded.entrypoint = None


def practise(preloaded: Preloaded) -> bool:
    """Run tasks of nothing here, so that forks find made what flytekit makes on first use, and code that ran often.

    False if something of it cannot be undone: then this process is of no use any more.
    """
    folder = tempfile.mkdtemp(prefix="practice-")
    before = surroundings()
    kept = [os.dup(1), os.dup(2)], list(sys.path), set(sys.modules), tempfile.tempdir, list(sys.argv)
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    globals_before = {name: dict(vars(each)) for name, each in _of_flytekit()}
    entities: list[Any] = module("flytekit.core.context_manager").FlyteEntities.entities
    known = len(entities)
    runners = module("flytekit.utils.asyn").loop_manager
    try:
        with warnings.catch_warnings():  # and what was warned of is forgotten afterwards
            redirect(os.path.join(folder, "log"))
            _practise_in(preloaded, folder)
    finally:
        for stream, descriptor in enumerate(kept[0], start=1):
            os.dup2(descriptor, stream)
            os.close(descriptor)
        sys.path[:], tempfile.tempdir, sys.argv[:] = kept[1], kept[3], kept[4]
        for name in set(sys.modules) - kept[2]:
            if name.startswith("aerodrome_"):
                del sys.modules[name]
        sys.path_importer_cache.pop(folder, None)
        del entities[known:]
        for runner in runners._runner_map.values():
            atexit.unregister(runner._close)
            loop, thread = runner._TaskRunner__loop, runner._TaskRunner__runner_thread
            loop.call_soon_threadsafe(loop.stop)
            thread.join(5.0)
        runners._runner_map.clear()
        faulthandler.unregister(signal.SIGUSR1)
        for number, handler in handlers.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)
        for name, of_flytekit in _of_flytekit():
            _restore(vars(of_flytekit), globals_before.get(name, vars(of_flytekit)))
        for each in gc.get_objects():
            if type(each) is _CACHED and (each.__module__ or "").startswith("flytekit"):
                each.cache_clear()
        gc.collect()  # which closes what was left open
        shutil.rmtree(folder, ignore_errors=True)
    give_up = time.monotonic() + 5.0
    while thread_count() > 1 and time.monotonic() < give_up:  # a thread that was joined is yet to leave
        time.sleep(0.001)  # nobody is served before the practice is over
    return all(value == before[what] for what, value in surroundings().items() if what != EXIT_HANDLERS)


def _practise_in(preloaded: Preloaded, folder: str) -> None:
    literals: Any = importlib.import_module("flyteidl.core.literals_pb2")
    with open(os.path.join(folder, "aerodrome_practice.py"), "w") as file:
        file.write("from flytekit import task\n@task\ndef practise(a: int) -> int:\n    return a\n")
    one, many = literals.LiteralMap(), literals.LiteralMap()
    one.literals["a"].scalar.primitive.integer = 1
    many.literals["a"].collection.literals.add().scalar.primitive.integer = 1
    sys.path.insert(0, folder)
    resolver = "flytekit.core.python_auto_container.default_task_resolver"
    loader = ["task-module", "aerodrome_practice", "task-name", "practise"]
    ways = (
        (preloaded.entrypoint.execute_task_cmd, one, [resolver, "--", *loader]),
        (
            preloaded.entrypoint.map_execute_task_cmd,
            many,
            [MAP_RESOLVER, "--", "vars", "", "resolver", resolver, *loader],
        ),
    )
    index = {"BATCH_JOB_ARRAY_INDEX_VAR_NAME": "FLYTE_K8S_ARRAY_INDEX", "FLYTE_K8S_ARRAY_INDEX": "0"}
    os.environ.update(index)
    try:
        for turn in range(_PRACTICE):
            for number, (command, inputs, rest) in enumerate(ways):
                place = os.path.join(folder, f"{turn}-{number}")
                os.mkdir(place)
                tempfile.tempdir = place
                preloaded.renew_for_job(dict(os.environ))
                with open(os.path.join(place, "inputs.pb"), "wb") as file:
                    file.write(inputs.SerializeToString())
                files = ["--inputs", f"{place}/inputs.pb", "--output-prefix", f"{place}/out"]
                raw = ["--raw-output-data-prefix", f"{place}/raw", "--checkpoint-path", f"{place}/check"]
                with contextlib.suppress(SystemExit):
                    command.main(args=[*files, *raw, "--resolver", *rest], prog_name=FAMILY[0])
    finally:
        for name in index:
            del os.environ[name]


def _perform_rehearsal(preloaded: Preloaded, folder: str) -> dict[str, Any]:
    areas = private_areas()
    tempfile.tempdir = folder
    try:
        preloaded.renew_in_child()
        preloaded.renew_for_job({**os.environ, "FLYTE_SDK_": ""})  # with all that a job's variables may ask for
        commands = (preloaded.entrypoint.execute_task_cmd.main, preloaded.entrypoint.map_execute_task_cmd.main)
    except BaseException as error:  # noqa: BLE001  (it is handed to the zygote)
        return {"problem": f"this flytekit cannot be forked: {type(error).__name__}: {error}", "touched": []}
    redirect(os.path.join(folder, "log"))
    with open(os.path.join(folder, "aerodrome_rehearsal.py"), "w") as file:
        file.write("from flytekit import task\n@task\ndef rehearse() -> int:\n    return 1\n")
    inputs = os.path.join(folder, "inputs.pb")
    with open(inputs, "wb"):
        pass
    sys.path.insert(0, folder)
    places = ["--inputs", inputs, "--output-prefix", f"{folder}/out", "--raw-output-data-prefix", f"{folder}/raw"]
    resolver = ["--resolver", "flytekit.core.python_auto_container.default_task_resolver"]
    loader = ["--", "task-module", "aerodrome_rehearsal", "task-name", "rehearse"]
    with contextlib.suppress(BaseException):  # a task that fails has touched memory all the same
        commands[0](args=[*places, *resolver, *loader], prog_name=FAMILY[0])
    return {"problem": None, "touched": copied_pages(areas)}


_CACHED = type(functools.lru_cache(int))


def _of_flytekit() -> list[tuple[str, types.ModuleType]]:
    return [(name, each) for name, each in sys.modules.items() if name.partition(".")[0] == "flytekit"]


def _restore(present: dict[str, Any], before: Mapping[str, Any]) -> None:
    """Give the variables of a module their earlier values; modules that were imported into it meanwhile stay."""
    for name, value in list(present.items()):
        if name in before:
            if before[name] is not value:
                present[name] = before[name]
        elif not isinstance(value, types.ModuleType):
            del present[name]
