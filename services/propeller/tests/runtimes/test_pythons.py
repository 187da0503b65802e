"""The zygote under every Python that is at hand, with a stand-in for flytekit's entry point."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from .harness import Open, make_pod, run_pod, terminated

ENTRYPOINT = """
import json, os, random, sys, threading

class Command:
    def __init__(self, name):
        self.name = name

    def make_context(self, name, args):
        return None

    def main(self, args, prog_name):
        random_number = random.random()
        if "--fail" in args:
            raise ValueError("as asked")
        if "--code" in args:
            sys.exit(int(args[-1]))
        print(json.dumps({"argv": sys.argv, "random": random_number, "pid": os.getpid(), "parent": os.getppid(),
                          "path": sys.path[:2], "cwd": os.getcwd(), "version": sys.version_info[:2],
                          "register": os.register_at_fork.__module__,
                          "native": threading.main_thread().native_id == threading.get_native_id(),
                          "threads": threading.active_count(), "main": sys.modules["__main__"].__file__}))
        threading.Thread(target=print, args=("from a thread",)).start()
        sys.exit()

execute_task_cmd = Command("pyflyte-execute")
map_execute_task_cmd = Command("pyflyte-map-execute")
"""


STAND_IN = {
    "__init__": "__version__ = 'stand-in'",
    "bin/__init__": "import flytekit.core.context_manager",
    "bin/entrypoint": ENTRYPOINT + "if __name__ == '__main__': execute_task_cmd.main(sys.argv[2:], sys.argv[1])",
    "loggers": """
import logging
logger = user_space_logger = developer_logger = logging.getLogger("flytekit")
def initialize_global_loggers(): pass
""",
    "configuration": """
from dataclasses import dataclass
@dataclass
class Config:
    local_sandbox_path: str = "/nowhere"
class DataConfig:
    auto = staticmethod(lambda: None)
""",
    "core/__init__": "",
    "core/data_persistence": """
class FileAccessProvider:
    def __init__(self, local_sandbox_dir, raw_output_prefix, data_config): pass
""",
    "core/context_manager": """
from flytekit import configuration, loggers
from flytekit.core import data_persistence
class FlyteContextManager:
    initialize = staticmethod(lambda: None)
""",
}


def pythons() -> list[str]:
    """Every CPython from 3.9 on that is on the path and works, the one of the tests apart from its environment too."""
    found = []
    for minor in range(9, 16):
        path = shutil.which(f"python3.{minor}")
        if path and subprocess.run([path, "-c", "import ctypes"], capture_output=True, check=False).returncode == 0:
            found.append(path)
    return found


@pytest.fixture(params=pythons(), ids=lambda path: Path(path).name)
def python(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """An environment of one of them in which there is something called flytekit."""
    root = tmp_path / "environment"
    script = "import sys, venv; venv.create(sys.argv[1], symlinks=True); print('%d.%d' % sys.version_info[:2])"
    made = subprocess.run([request.param, "-c", script, str(root)], capture_output=True, check=True, text=True)
    package = root / "lib" / f"python{made.stdout.strip()}" / "site-packages" / "flytekit"
    for name, text in STAND_IN.items():
        (package / f"{name}.py").parent.mkdir(parents=True, exist_ok=True)
        (package / f"{name}.py").write_text(text)
    return root / "bin" / "python"


async def test_a_command_is_forked(opened: Open, python: Path) -> None:
    async with opened(python=python, slots=2) as runtime:
        seen = []
        for number in range(3):
            pod = await run_pod(runtime, make_pod(f"a{number}", args=["pyflyte-execute", "--number", str(number)]))
            said = await runtime.tail("tests", f"a{number}")
            assert pod["status"]["phase"] == "Succeeded", said
            first, second = said.splitlines()
            assert second == "from a thread"
            seen.append(json.loads(first))
        assert len({each["parent"] for each in seen}) == 1  # the zygote
        assert len({each["random"] for each in seen}) == 3
        assert seen[2]["argv"] == [str(python.parent / "pyflyte-execute"), "--number", "2"]
        assert seen[2]["main"] == seen[2]["argv"][0]
        assert seen[2]["threads"] == 1
        assert seen[2]["native"] or seen[2]["version"] == [3, 13]  # which forgets it in any fork
        assert seen[2]["register"] == "posix"  # nothing of the zygote is left there
        assert seen[2]["path"][0] == str(python.parent)

        pod = await run_pod(runtime, make_pod("coded", args=["pyflyte-map-execute", "--code", "9"]))
        assert terminated(pod)["exitCode"] == 9
        pod = await run_pod(runtime, make_pod("failed", args=["pyflyte-execute", "--fail"]))
        assert terminated(pod)["exitCode"] == 1
        assert "ValueError: as asked" in terminated(pod)["message"]
        pod = await run_pod(
            runtime, make_pod("other", ["python", "-c", "import flytekit; print(flytekit.__version__)"])
        )
        assert await runtime.tail("tests", "other") == "stand-in"


HOOK = """
HOOKED = []
os.register_at_fork(after_in_child=lambda: HOOKED.append(os.getpid()))
Command.main = lambda self, args, prog_name: print(HOOKED[-1:] == [os.getpid()])
"""


async def test_what_somebody_wants_done_after_a_fork_is_done(opened: Open, python: Path) -> None:
    [package] = python.parent.parent.glob("lib/python3*/site-packages/flytekit")
    with (package / "bin" / "entrypoint.py").open("a") as file:
        file.write(HOOK)
    async with opened(python=python, slots=1) as runtime:
        pod = await run_pod(runtime, make_pod("a", args=["pyflyte-execute"]))
        said = await runtime.tail("tests", "a")
        assert pod["status"]["phase"] == "Succeeded", said
        assert said == "True"


@pytest.mark.parametrize(
    ("module", "more", "why"),
    [
        (
            "__init__",
            "import threading, time\nthreading.Thread(target=time.sleep, args=(9,), daemon=True).start()",
            "starts threads",
        ),
        ("loggers", "del initialize_global_loggers", "initialize_global_loggers"),
    ],
)
async def test_a_flytekit_that_cannot_be_forked_is_spawned(
    opened: Open, python: Path, module: str, more: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    [package] = python.parent.parent.glob("lib/python3*/site-packages/flytekit")
    with (package / f"{module}.py").open("a") as file:
        file.write(f"\n{more}\n")
    async with opened(python=python, slots=1) as runtime:
        pod = await run_pod(runtime, make_pod("a", args=["pyflyte-execute", "--x"]))
        said = await runtime.tail("tests", "a")
        assert pod["status"]["phase"] == "Succeeded", said
        assert json.loads(said.splitlines()[0])["argv"][1:] == ["pyflyte-execute", "--x"]
    assert why in capsys.readouterr().err
