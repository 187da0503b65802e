"""Templates: attempts that are forked from a zygote which has their code imported, and cannot tell."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from aerodrome.propeller.runtimes import LocalRuntime, Pod, templates, zygote
from aerodrome.propeller.runtimes.templates import Code, Templates, code_of
from aerodrome.propeller.runtimes.zygote import plain
from aerodrome.propeller.runtimes.zygote.server import UNMET_SECONDS

from .harness import Open, Task, literals, make_pod, run_pod
from .test_flytekit import EXECUTION, distribution

LOOKING = '''
"""Tells what it sees."""
import dataclasses
import datetime as dt
import enum
import inspect
import json
import os
import sys
import traceback
import typing
from statistics import mean
import flytekit
from flytekit import Resources, task
from package import helper
from package.helper import NUMBER, where

class Colour(enum.Enum):
    RED = enum.auto()

@dataclasses.dataclass
class Point:
    x: int = NUMBER
    names: typing.List[str] = dataclasses.field(default_factory=list)

LIMIT = dt.timedelta(minutes=NUMBER)

@task(requests=Resources(cpu="1"), timeout=LIMIT, retries=2)
def look(a: int = 1) -> str:
    """Say it."""
    try:
        raise ValueError("here")
    except ValueError:
        lines = traceback.format_exc()
    module = sys.modules[__name__]
    return json.dumps({
        "file": __file__, "cached": __cached__, "origin": __spec__.origin, "loader": repr(type(__spec__.loader)),
        "mean": mean([1, 2]),
        "loader path": __spec__.loader.path, "spec cached": __spec__.cached, "same": __loader__ is __spec__.loader,
        "code": look.task_function.__code__.co_filename, "source": inspect.getsource(look.task_function)[:5],
        "helper": [helper.__file__, where(), where.__code__.co_filename],
        "package": list(sys.modules["package"].__path__),
        "places": list(sys.modules["package"].__spec__.submodule_search_locations),
        "traceback": lines, "tracked": str(look._module_file), "name": look.name, "in": look.instantiated_in,
        "cwd": os.getcwd(), "path": sys.path, "of the cache": [p for p in sys.path_importer_cache if "/cache/" in p],
        "env": sorted(os.environ), "argv": sys.argv, "modules": sorted(n for n in sys.modules if "aerodrome" in n),
        "finders": [str(each) for each in sys.meta_path if "aerodrome" in repr(each) or "_Finder" in repr(each)],
        "files": sorted(os.listdir(os.path.dirname(__file__))), "exists": os.path.exists(__file__),
        "attempt": os.environ["FLYTE_ATTEMPT_NUMBER"], "main": sys.modules["__main__"].__file__,
        "late": __import__("package.late").late.NAME, "pid": os.getpid(), "parent": os.getppid(),
        "entities": [e.name for e in flytekit.core.context_manager.FlyteEntities.entities],
    })
'''
LEAVING = """
from flytekit import task
@task
def leave() -> int:
    return 1
"""
HELPER = "NUMBER = 8\n\ndef where() -> str:\n    return __file__\n"


def templates_in(data: Path) -> list[int]:
    """The templates that serve, by pid."""
    found = [path for path in (data / "zygotes").glob("template*.json") if path.with_suffix(".sock").exists()]
    return [facts["pid"] for path in found if (facts := zygote.read_json(str(path)))]


async def template_of(runtime: LocalRuntime) -> int:
    """The template that the runtime uses, once it has met it."""
    async with asyncio.timeout(60):
        while not list(runtime._templates):  # noqa: ASYNC110  (nobody but this test waits for it)
            await asyncio.sleep(0.02)
    return next(iter(runtime._templates)).pid


async def attempt(
    runtime: LocalRuntime,
    tmp_path: Path,
    name: str,
    archive: Path,
    task: str = "look",
    module: str = "flow",
    **more: str,
) -> tuple[Task, Pod]:
    made = Task(tmp_path / name, module, task, literals())
    env = {**EXECUTION, "FLYTE_ATTEMPT_NUMBER": name[-1], **more}
    return made, await run_pod(runtime, make_pod(name, args=made.fast(archive), env=env))


async def test_an_attempt_cannot_tell_that_its_code_was_imported_before(
    forking: LocalRuntime, tmp_path: Path, data: Path
) -> None:
    files = {"flow": LOOKING, "package____init__": "", "package__helper": HELPER, "package__late": "NAME = __file__"}
    archive = distribution(tmp_path / "fast.tar.gz", **files)
    seen = []
    for number in range(templates.OFTEN + 2):
        if number == templates.OFTEN:
            template = await template_of(forking)
        task, pod = await attempt(forking, tmp_path, f"look-{number}", archive)
        assert pod["status"]["phase"] == "Succeeded", await forking.tail("tests", f"look-{number}")
        said = json.loads(task.outputs["o0"])
        parent = said.pop("parent")
        assert (parent == template) is (number >= templates.OFTEN) if number >= templates.OFTEN else True
        del said["pid"]
        folder = str(data / "work" / "tests" / f"look-{number}")
        assert said["file"] == f"{folder}/code/flow.py"
        assert said["attempt"] == str(number)
        seen.append(json.dumps(said, indent=1).replace(f"look-{number}", "look").replace(f'"{number}"', '"n"'))
    assert seen[0] == seen[-1]


async def test_a_module_that_does_something_is_imported_by_each_attempt(
    forking: LocalRuntime, tmp_path: Path, data: Path
) -> None:
    source = """
import os
from flytekit import task
ATTEMPT = os.environ["FLYTE_ATTEMPT_NUMBER"]
print("imported by", ATTEMPT)
@task
def look() -> str:
    return ATTEMPT
"""
    archive = distribution(tmp_path / "fast.tar.gz", flow=source)
    for number in range(templates.OFTEN + 2):
        task, _ = await attempt(forking, tmp_path, f"look-{number}", archive)
        assert task.outputs == {"o0": str(number)}
        assert f"imported by {number}" in await forking.tail("tests", f"look-{number}")
    assert not templates_in(data)


async def test_a_distribution_that_is_replaced_is_not_mistaken_for_the_earlier_one(
    forking: LocalRuntime, tmp_path: Path, data: Path
) -> None:
    archive = tmp_path / "fast.tar.gz"
    source = "from flytekit import task\n@task\ndef which() -> int:\n    return {}\n"
    distribution(archive, flow=source.format(1))
    for number in range(templates.OFTEN):
        await attempt(forking, tmp_path, f"which-{number}", archive, "which")
    await template_of(forking)
    task, _ = await attempt(forking, tmp_path, "which-8", archive, "which")
    assert task.outputs == {"o0": 1}
    archive.unlink()
    distribution(archive, flow=source.format(2))
    task, _ = await attempt(forking, tmp_path, "which-9", archive, "which")
    assert task.outputs == {"o0": 2}


async def test_a_folder_is_passed_on_only_as_it_was_laid(forking: LocalRuntime, tmp_path: Path, data: Path) -> None:
    source = """
import os
from flytekit import task
@task
def use() -> str:
    words = open("flow.py").read().count("mischief")
    said = f"{os.stat('flow.py').st_ctime_ns} {sorted(os.listdir('.'))} {words} {os.getcwd()}"
    match os.environ["FLYTE_ATTEMPT_NUMBER"]:
        case "3":
            open("flow.py", "r+").write("# mischief")
        case "5":
            open("more", "w").close()
        case "6":
            os.link("flow.py", os.environ["TMPDIR"] + "/../../kept.py")
        case "7":
            os.chmod("flow.py", 0o666)
    return said
"""
    archive = distribution(tmp_path / "fast.tar.gz", flow=source)
    said = []
    for number in range(10):
        if number == templates.OFTEN:
            await template_of(forking)
        made, _ = await attempt(forking, tmp_path, f"use-{number}", archive, "use")
        changed, rest = made.outputs["o0"].split(" ", 1)
        assert rest.endswith(f" 2 {data}/work/tests/use-{number}/code")  # the word is twice in the source
        assert "more" not in rest
        said.append(changed)
    assert [said[number] == said[number - 1] for number in range(4, 10)] == [False, True, False, False, False, True]


async def test_what_a_killed_template_ran_is_lost_and_the_rest_goes_on(
    forking: LocalRuntime, tmp_path: Path, data: Path
) -> None:
    source = """
import os, time
from flytekit import task
@task
def wait(seconds: int = 0) -> int:
    open(os.environ["SAID"], "w").close()
    time.sleep(300 if os.environ["FLYTE_ATTEMPT_NUMBER"] == "9" else 0)
    return os.getppid()
"""
    archive = distribution(tmp_path / "fast.tar.gz", flow=source)
    env = {"SAID": str(tmp_path / "said")}
    for number in range(templates.OFTEN):
        await attempt(forking, tmp_path, f"wait-{number}", archive, "wait", **env)
    pid = await template_of(forking)
    (tmp_path / "said").unlink()
    waiting = asyncio.create_task(attempt(forking, tmp_path, "wait-9", archive, "wait", **env))
    async with asyncio.timeout(30):
        while not (tmp_path / "said").exists():  # noqa: ASYNC110  (a file of another process raises no event)
            await asyncio.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    _, pod = await asyncio.wait_for(waiting, 30)
    assert pod["status"]["reason"] == "Lost"
    task, pod = await attempt(forking, tmp_path, "wait-8", archive, "wait", **env)
    assert pod["status"]["phase"] == "Succeeded"
    assert task.outputs["o0"] != pid


async def test_a_template_that_is_being_made_when_the_runtime_stops_goes_with_it(opened: Open, tmp_path: Path) -> None:
    archive = distribution(tmp_path / "fast.tar.gz", flow=LEAVING)
    async with opened(python=Path(sys.executable), slots=2) as runtime:
        for number in range(templates.OFTEN):  # the last asks for one, and is over before it is there
            await attempt(runtime, tmp_path, f"leave-{number}", archive, "leave")
        making = [task for task in asyncio.all_tasks() if task.get_name() == "make a template of flow"]
        began = asyncio.get_running_loop().time()
    assert len(making) == 1
    assert asyncio.get_running_loop().time() - began < UNMET_SECONDS / 2  # for which it waits for its platform


def test_practice_leaves_nothing_that_a_task_could_see(tmp_path: Path) -> None:
    program = f"""
import json, os, runpy, sys
zygote = runpy.run_path({zygote.PROGRAM!r})["load"]("practice")
preloaded = zygote.preloaded.Preloaded()
preloaded.load()
def state():
    from flytekit.core.context_manager import FlyteEntities
    from flytekit.interfaces.stats import client
    from flytekit.utils.asyn import loop_manager
    return [
        sorted(name for name in sys.modules if not name.startswith("flytekit")), len(FlyteEntities.entities),
        repr(client._stats_client), len(loop_manager._runner_map), zygote.surroundings.surroundings()["open files"],
        zygote.proc.thread_count(), dict(os.environ),
    ]
before = state()
print(json.dumps([zygote.practice.practise(preloaded), before == state(), os.listdir(os.environ["TMPDIR"])]))
"""
    environment = {**os.environ, "TMPDIR": str(tmp_path), "FLYTE_INTERNAL_EXECUTION_ID": "zygote"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True)
    undone, same, left = json.loads(done.stdout)
    assert undone
    assert same
    assert not [name for name in left if name.startswith("practice")]


# -- what is worth one -------------------------------------------------------------------------------------------------

COMMAND = (
    "pyflyte-fast-execute", "--additional-distribution", "/d.tar.gz", "--dest-dir", "/root", "--", "pyflyte-execute",
    "--inputs", "i", "--resolver", "flytekit.core.python_auto_container.default_task_resolver", "--",
    "task-module", "flow", "task-name", "look",
)  # fmt: skip


def test_only_code_from_a_distribution_and_by_flytekits_resolver_is_known() -> None:
    python = Path("/python")
    assert code_of(python, COMMAND, {"FLYTE_ATTEMPT_NUMBER": "1", "MINE": "2"}) == Code(python, "/d.tar.gz", "flow")
    assert code_of(python, COMMAND[6:], {}) is None
    assert code_of(python, ("sh", "-c", "true"), {}) is None
    assert code_of(python, tuple("mine" if "resolver" in each else each for each in COMMAND), {}) is None
    for variable in ("PYTHONPATH", "PYTHONHASHSEED", "FLYTE_ENABLE_VSCODE", "FLYTE_PYTHON_PACKAGE_ROOT"):
        assert code_of(python, COMMAND, {variable: "1"}) is None


def test_code_is_worth_a_template_when_it_is_asked_for_often_and_there_is_room() -> None:
    kept = Templates()
    codes = [Code(Path("/python"), f"/{number}.tar.gz", "flow") for number in range(templates.LIMIT + 1)]
    for turn in range(templates.OFTEN):
        assert kept.ask(codes[0], 100.0 * turn) is None
        assert not kept.is_worth(codes[0], 100.0 * turn)  # it is asked for too rarely
    for code in codes:
        for turn in range(templates.OFTEN):
            assert kept.ask(code, 1000.0 + turn) is None
        assert kept.is_worth(code, 1002.0) is (code != codes[-1])
        if code != codes[-1]:
            kept.comes(code)
            assert not kept.is_worth(code, 1002.0)
    kept.came(codes[0], None, "it prints")
    for turn in range(templates.OFTEN):
        kept.ask(codes[0], 1003.0 + turn)
    assert not kept.is_worth(codes[0], 1005.0)
    kept.ask(codes[-1], 1005.0)
    assert kept.is_worth(codes[-1], 1005.0)


# -- plain modules -----------------------------------------------------------------------------------------------------


PLAIN = [
    "",
    """'Doc.'
import os, sys
from os import path, environ
X: int = 3 * 4
Y, Z = 1, [2, {3: (4,)}]
__all__ = ["X"]""",
    """from flytekit import task, workflow, dynamic
@task
def f(a: int = 1) -> int:
    return open(a)
@workflow
def w():
    f()""",
    """import flytekit as fl
@fl.task(cache=True, cache_version='1', requests=fl.Resources(cpu='1'))
def f(): ...""",
    """from typing import List, Optional, NamedTuple, TYPE_CHECKING
if TYPE_CHECKING:
    import secret_things
class T(NamedTuple):
    a: Optional[List[int]] = None""",
    """import enum
class C(str, enum.Enum):
    A = 'a'
    def name_of(self):
        return print(self)""",
    """from dataclasses import dataclass, field
@dataclass(frozen=True)
class D:
    x: list = field(default_factory=list)
    @property
    def y(self):
        return launch()""",
    "def f(): ...\nif __name__ == '__main__':\n    f()\n",
    "import logging\nlog = logging.getLogger(__name__)\nadd = lambda a, b=2: print(a)\n",
    "from .helper import NUMBER\nfrom package import other\nTWICE = NUMBER * 2 + other.X\n",
]


@pytest.mark.parametrize("source", PLAIN)
def test_modules_that_only_define_are_plain(source: str) -> None:
    assert plain.objection(source.encode()) is None


@pytest.mark.parametrize(
    "source",
    [
        "print(1)",
        "def f(): ...\nf()",
        "def f(): ...\nX = f()",
        "import os\nX = os.environ['A']",
        "import os\nX = os.getpid()",
        "import os\nos.environ['A'] = '1'",
        "from os import *",
        "from sys import argv",
        "import sys\nX = sys.argv",
        "import time\nT = time.timezone",
        "X = open('/etc/passwd')",
        "import random\nX = random.random()",
        "for i in range(3): ...",
        "try:\n    import x\nexcept ImportError:\n    x = None",
        "if 1: ...",
        "def d(f): return f\n@d\ndef g(): ...",
        "from flytekit import task\ndef task(f): return f\n@task\ndef g(): ...",
        "from mine import task\n@task\ndef g(): ...",
        "def f(a=print()): ...",
        "def f(a: 'print()'): ...",
        "def f(a: 'List[print()]'): ...",
        "class A:\n    print(1)",
        "class A:\n    def __init_subclass__(cls): ...",
        "class M(type): ...\nclass A(metaclass=M): ...",
        "from mine import Base\nclass A(Base): ...",
        "from .mine import Base\nclass A(Base): ...",
        "import enum\nclass C(enum.Enum):\n    def _generate_next_value_(*a): print(a)\n    A = enum.auto()",
        "import enum\nclass B(enum.Enum):\n    X: int\nclass C(B):\n    def __init__(self, *a): print(a)\n    A = 1",
        "class A:\n    def __class_getitem__(cls, k): ...\nX = A[1]",
        "class A: ...\nX = A()",
        "class A: ...\nX = A[1]",
        "X = __file__",
        "X = __spec__.origin",
        "X = (lambda: 1)()",
        "X = [i for i in range(3)]",
        "sorted([1], key=print)",
        "X = sorted([1], key=print)",
        "def __getattr__(name): print(name)",
        "def print(): ...\nX = len([1])\nY = print()",
        "def len(x): ...\nX = len(1)",
        "import mine\nmine.x = 1",
        "(x := 1)",
        "X = f'{print()}'",
        "with open('x'): ...",
        "assert True",
        "del x",
        "this is no Python",
    ],
)
def test_modules_that_do_something_are_not_plain(source: str) -> None:
    assert plain.objection(source.encode())


def test_arguments_name_the_module_of_tasks() -> None:
    assert zygote.module_of_tasks(list(COMMAND)[7:]) == "flow"
    mapped = ["--resolver", "flytekit.core.array_node_map_task.ArrayNodeMapTaskResolver", "--", "vars", "",
              "resolver", "flytekit.core.python_auto_container.default_task_resolver", "task-module", "m"]  # fmt: skip
    assert zygote.module_of_tasks(mapped) == "m"
    assert zygote.module_of_tasks(["--resolver"]) is None
    assert zygote.module_of_tasks(["--resolver", "mine", "--", "task-module", "m"]) is None
