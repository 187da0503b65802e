"""Real flytekit tasks, forked from the zygote: what they see, what they write, and that they share nothing."""

from __future__ import annotations

import asyncio
import io
import json
import os
import stat
import sys
import tarfile
from datetime import timedelta
from pathlib import Path

import pytest
from flyteidl.core import dynamic_job_pb2, errors_pb2

from aerodrome.propeller.runtimes import LocalRuntime
from aerodrome.propeller.runtimes.records import Directory

from .harness import Open, Task, literals, make_pod, run_pod, terminated, until

EXECUTION = {
    "FLYTE_INTERNAL_EXECUTION_PROJECT": "p",
    "FLYTE_INTERNAL_EXECUTION_DOMAIN": "d",
    "FLYTE_INTERNAL_EXECUTION_ID": "e",
    "FLYTE_INTERNAL_TASK_NAME": "t",
    "FLYTE_INTERNAL_TASK_VERSION": "v",
}

MODULE = """
import json, os, random, subprocess, sys, tempfile, threading, time
import flytekit
from flytekit import task, map_task, dynamic

@task
def add(a: int, b: int) -> int:
    print("adding", a, b)
    return a + b

@task
def fail(a: int) -> int:
    if a:
        raise ValueError(f"cannot do {a}")
    return a

@task
def leave(code: int):
    os._exit(code)

@task
def look() -> str:
    import numpy
    from flytekit.interfaces.random import random as flyte_random
    return json.dumps({
        "random": random.random(), "numpy": float(numpy.random.random()), "flyte": flyte_random.random(),
        "argv": sys.argv, "path": sys.path, "cwd": os.getcwd(), "main": sys.modules["__main__"].__file__,
        "threads": threading.active_count(), "env": dict(os.environ), "tmp": tempfile.gettempdir(),
        "sandbox": flytekit.current_context().working_directory, "pid": os.getpid(),
        "execution": flytekit.current_context().execution_id.name, "modules": sorted(sys.modules),
        "buffered": sys.stdout.line_buffering, "stdin": os.readlink("/proc/self/fd/0"),
        "seed": os.environ.get("PYTHONHASHSEED"), "hash": hash("x"),
    })

def square(x):
    return x * x

@task
def parallel(n: int) -> int:
    from concurrent.futures import ProcessPoolExecutor
    import multiprocessing
    total = 0
    for method in ("fork", "spawn"):
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as pool:
            total += sum(pool.map(square, range(n)))
    return total + int(subprocess.run([sys.executable, "-c", "print(1000)"], capture_output=True, check=True).stdout)

@dynamic
def many(n: int) -> int:
    return add(a=n, b=n)

@task
def at_exit(path: str):
    import atexit
    atexit.register(lambda: open(path, "a").write("handler "))
    threading.Thread(target=lambda: (time.sleep(0.3), open(path, "a").write("thread "))).start()
"""


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A directory with a module of tasks, as an image has it on PYTHONPATH."""
    folder = tmp_path / "user code"
    folder.mkdir()
    (folder / "tasks_here.py").write_text(MODULE)
    return folder


def here(code: Path, **more: str) -> dict[str, str]:
    return {**EXECUTION, "PYTHONPATH": str(code), **more}


def task(tmp_path: Path, name: str, *, folder: str = "t", module: str = "tasks_here", **inputs: int | str) -> Task:
    return Task(tmp_path / folder, module, name, literals(**inputs))


async def test_a_task_writes_its_outputs(forking: LocalRuntime, code: Path, tmp_path: Path) -> None:
    add = task(tmp_path, "add", a=2, b=3)
    pod = await run_pod(forking, make_pod("add", args=add.command(), env=here(code)))
    assert pod["status"]["phase"] == "Succeeded"
    assert add.outputs == {"o0": 5}
    assert "adding 2 3" in await forking.tail("tests", "add")


async def test_a_task_that_raises_writes_its_error_and_exits_well(
    forking: LocalRuntime, code: Path, tmp_path: Path
) -> None:
    fail = task(tmp_path, "fail", a=7)
    pod = await run_pod(forking, make_pod("fail", args=fail.command(), env=here(code)))
    assert pod["status"]["phase"] == "Succeeded"  # flytekit's contract: exit code 0, and an error document
    document = errors_pb2.ErrorDocument.FromString((fail.prefix / "error.pb").read_bytes())
    assert "cannot do 7" in document.error.message
    assert "cannot do 7" in await forking.tail("tests", "fail")

    again = task(tmp_path, "fail", folder="again", a=7)
    env = here(code, FLYTE_FAIL_ON_ERROR="true")
    pod = await run_pod(forking, make_pod("fail-on-error", args=again.command(), env=env))
    assert pod["status"]["phase"] == "Failed"
    assert terminated(pod)["exitCode"] == 1


async def test_wrong_options_end_with_clicks_code(forking: LocalRuntime, code: Path) -> None:
    pod = await run_pod(forking, make_pod("wrong", args=["pyflyte-execute", "--no-such-option"], env=here(code)))
    assert terminated(pod)["exitCode"] == 2
    assert "no-such-option" in terminated(pod)["message"]


async def test_a_task_that_leaves_hard_keeps_its_code(forking: LocalRuntime, code: Path, tmp_path: Path) -> None:
    leave = task(tmp_path, "leave", code=42)
    pod = await run_pod(forking, make_pod("leave", args=leave.command(), env=here(code)))
    assert terminated(pod)["exitCode"] == 42


async def test_a_task_sees_what_a_new_process_would_see(forking: LocalRuntime, code: Path, tmp_path: Path) -> None:
    look = task(tmp_path, "look")
    await run_pod(forking, make_pod("look", args=look.command(), env=here(code)))
    seen = json.loads(look.outputs["o0"])
    script = Path(sys.executable).parent / "pyflyte-execute"
    assert seen["argv"] == [str(script), *look.command()[1:]]
    assert seen["main"] == str(script)
    assert seen["path"][:2] == [str(script.parent), str(code)]
    assert not any("runtimes" in entry for entry in seen["path"])
    assert seen["cwd"].endswith("/work/tests/look/code")
    assert seen["tmp"].endswith("/work/tests/look/tmp")
    assert seen["sandbox"].startswith(seen["tmp"])
    assert seen["execution"] == "e"
    assert seen["stdin"] == "/dev/null"
    expected = {"PATH", "HOME", "LANG", "TMPDIR", "AERODROME_POD", "PYTHONPATH", *EXECUTION}
    assert set(seen["env"]) == expected
    assert not any(module.startswith("aerodrome") for module in seen["modules"])


async def test_forks_share_no_randomness_and_no_temporary_files(
    forking: LocalRuntime, code: Path, tmp_path: Path
) -> None:
    looks = [task(tmp_path, "look", folder=f"t{number}") for number in range(6)]
    await asyncio.gather(
        *(run_pod(forking, make_pod(f"l{n}", args=look.command(), env=here(code))) for n, look in enumerate(looks))
    )
    seen = [json.loads(look.outputs["o0"]) for look in looks]
    for what in ("random", "numpy", "flyte", "sandbox", "pid", "tmp"):
        assert len({each[what] for each in seen}) == len(looks), what


async def test_variables_that_come_too_late_for_a_fork_get_a_new_process(
    forking: LocalRuntime, code: Path, tmp_path: Path
) -> None:
    looks = [task(tmp_path, "look", folder=f"t{number}") for number in range(2)]
    for number, look in enumerate(looks):
        env = here(code, PYTHONHASHSEED="7")
        pod = await run_pod(forking, make_pod(f"seeded{number}", args=look.command(), env=env))
        assert pod["status"]["phase"] == "Succeeded"
    first, second = (json.loads(look.outputs["o0"]) for look in looks)
    assert first["hash"] == second["hash"]


async def test_user_modules_are_never_inherited(forking: LocalRuntime, tmp_path: Path) -> None:
    for version in (1, 2):
        folder = tmp_path / f"v{version}"
        folder.mkdir()
        source = f"from flytekit import task\n@task\ndef which() -> int:\n    return {version}\n"
        (folder / "same_name.py").write_text(source)
        which = Task(tmp_path / f"t{version}", "same_name", "which", literals())
        await run_pod(forking, make_pod(f"v{version}", args=which.command(), env=here(folder)))
        assert which.outputs == {"o0": version}


async def test_processes_and_pools_work_in_a_task(forking: LocalRuntime, code: Path, tmp_path: Path) -> None:
    parallel = task(tmp_path, "parallel", n=5)
    pod = await run_pod(forking, make_pod("parallel", args=parallel.command(), env=here(code)))
    assert pod["status"]["phase"] == "Succeeded", await forking.tail("tests", "parallel")
    assert parallel.outputs == {"o0": 1060}


async def test_threads_and_exit_handlers_of_a_task_are_awaited(
    forking: LocalRuntime, code: Path, tmp_path: Path
) -> None:
    at_exit = task(tmp_path, "at_exit", path=str(tmp_path / "said"))
    pod = await run_pod(forking, make_pod("at-exit", args=at_exit.command(), env=here(code)))
    assert pod["status"]["phase"] == "Succeeded"
    assert (tmp_path / "said").read_text() == "thread handler "


async def test_a_map_task_runs_each_index(forking: LocalRuntime, code: Path, tmp_path: Path) -> None:
    inputs = literals(b=10)
    for value in (1, 2, 3):
        inputs.literals["a"].collection.literals.add().scalar.primitive.integer = value
    for index in range(3):
        item = Task(tmp_path / f"i{index}", "tasks_here", "add", inputs)
        command = item.command("pyflyte-map-execute", "flytekit.core.array_node_map_task.ArrayNodeMapTaskResolver")
        place = command.index("--") + 1
        command[place:] = ["vars", "b", "resolver", "flytekit.core.python_auto_container.default_task_resolver",
                           *command[place:]]  # fmt: skip
        env = here(code, BATCH_JOB_ARRAY_INDEX_VAR_NAME="FLYTE_K8S_ARRAY_INDEX", FLYTE_K8S_ARRAY_INDEX=str(index))
        pod = await run_pod(forking, make_pod(f"map{index}", args=command, env=env))
        assert pod["status"]["phase"] == "Succeeded", await forking.tail("tests", f"map{index}")
        assert (item.prefix / "outputs.pb").exists(), await forking.tail("tests", f"map{index}")
        assert item.outputs == {"o0": 11 + index}


# -- fast registration -------------------------------------------------------------------------------------------------


def distribution(path: Path, **files: str) -> Path:
    """A distribution as `pyflyte register` makes it; `__` in a name stands for a folder."""
    with tarfile.open(path, "w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name.replace("__", "/") + ".py")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    return path


def versioned(version: int) -> str:
    return f"""
import os, sys
from flytekit import task
from package.helper import NUMBER
@task
def which() -> str:
    return f"{version} {{NUMBER}} {{os.getcwd()}} {{sys.path[0]}} {{os.environ['PYTHONPATH']}}"
"""


async def test_fast_registered_code_lies_in_the_attempts_own_directory(
    forking: LocalRuntime, tmp_path: Path, data: Path
) -> None:
    for version in (1, 2):
        archive = distribution(
            tmp_path / f"fast {version}.tar.gz", flow=versioned(version), package__helper="NUMBER = 8"
        )
        for turn in range(2):
            name = f"v{version}-{turn}"
            which = Task(tmp_path / name, "flow", "which", literals())
            pod = await run_pod(forking, make_pod(name, args=which.fast(archive), env=EXECUTION))
            assert pod["status"]["phase"] == "Succeeded", await forking.tail("tests", name)
            folder = str(data / "work" / "tests" / name / "code")
            assert which.outputs == {"o0": f"{version} 8 {folder} {folder} {folder}"}
    assert len(list((data / "cache" / "content").iterdir())) == 2


async def test_a_dynamic_task_names_the_attempts_directory_to_its_children(
    forking: LocalRuntime, tmp_path: Path, data: Path
) -> None:
    from flytekit.configuration import SERIALIZED_CONTEXT_ENV_VAR, ImageConfig, SerializationSettings

    settings = SerializationSettings(image_config=ImageConfig.auto(img_name="example.org/tasks:v1"))
    env = {**EXECUTION, SERIALIZED_CONTEXT_ENV_VAR: settings.serialized_context}
    archive = distribution(tmp_path / "fast.tar.gz", tasks_here=MODULE)
    many = task(tmp_path, "many", n=4)
    pod = await run_pod(forking, make_pod("many", args=many.fast(archive), env=env))
    assert pod["status"]["phase"] == "Succeeded", await forking.tail("tests", "many")
    futures = dynamic_job_pb2.DynamicJobSpec.FromString((many.prefix / "futures.pb").read_bytes())
    args = list(futures.tasks[0].container.args)
    assert args[:5] == ["pyflyte-fast-execute", "--additional-distribution", str(archive), "--dest-dir",
                        str(data / "work/tests/many/code")]  # fmt: skip


async def test_an_attempt_cannot_change_the_code_of_the_next(forking: LocalRuntime, tmp_path: Path) -> None:
    spoil = """
from flytekit import task
@task
def spoil() -> int:
    source = open(__file__).read()
    open(__file__, "w").write("raise SystemExit('spoilt')")
    return len(source)
"""
    archive = distribution(tmp_path / "fast.tar.gz", flow=spoil)
    for turn in range(2):
        attempt = Task(tmp_path / f"t{turn}", "flow", "spoil", literals())
        pod = await run_pod(forking, make_pod(f"s{turn}", args=attempt.fast(archive), env=EXECUTION))
        assert pod["status"]["phase"] == "Succeeded"
        assert attempt.outputs == {"o0": len(spoil)}


async def test_any_command_can_be_registered_fast(forking: LocalRuntime, tmp_path: Path) -> None:
    archive = distribution(tmp_path / "fast.tar.gz", program="print('from the distribution')")
    command = ["pyflyte-fast-execute", "--additional-distribution", str(archive), "--dest-dir", ".", "--", "python",
               "program.py"]  # fmt: skip
    pod = await run_pod(forking, make_pod("any", args=command, env=EXECUTION))
    assert pod["status"]["phase"] == "Succeeded"
    assert await forking.tail("tests", "any") == "from the distribution"


async def test_a_remote_distribution_is_fetched_by_flytekits_drivers(
    forking: LocalRuntime, tmp_path: Path, data: Path
) -> None:
    archive = distribution(tmp_path / "fast.tar.gz", flow=versioned(1), package__helper="NUMBER = 8")
    # fsspec's own name for "a local file", which the runtime does not know and so leaves to flytekit
    which = Task(tmp_path / "t", "flow", "which", literals())
    pod = await run_pod(forking, make_pod("remote", args=which.fast(f"local://{archive}"), env=EXECUTION))
    assert pod["status"]["phase"] == "Succeeded", await forking.tail("tests", "remote")
    assert which.outputs["o0"].startswith("1 8 ")


@pytest.mark.parametrize("case", ["missing", "broken", "escaping"])
async def test_a_distribution_that_cannot_be_used_says_why(forking: LocalRuntime, tmp_path: Path, case: str) -> None:
    archive = tmp_path / "fast.tar.gz"
    if case == "broken":
        archive.write_bytes(b"this is no archive")
    if case == "escaping":
        with tarfile.open(archive, "w:gz") as tar:
            tar.addfile(tarfile.TarInfo("../escaped.py"))
    which = Task(tmp_path / "t", "flow", "which", literals())
    pod = await run_pod(forking, make_pod("unusable", args=which.fast(archive), env=EXECUTION))
    assert pod["status"]["phase"] == "Failed"
    assert pod["status"]["reason"] == "StartError"
    assert str(archive) in pod["status"]["message"]


# -- the zygote itself -------------------------------------------------------------------------------------------------


async def test_tasks_are_forked_from_one_warm_process_which_stays_single_threaded(
    forking: LocalRuntime, code: Path, tmp_path: Path, data: Path
) -> None:
    for number in range(3):
        add = task(tmp_path, "add", folder=f"t{number}", a=number, b=1)
        await run_pod(forking, make_pod(f"a{number}", args=add.command(), env=here(code)))
    zygotes = [json.loads(path.read_text()) for path in (data / "zygotes").glob("*.json")]
    assert len(zygotes) == 1
    pid = zygotes[0]["pid"]
    assert len(os.listdir(f"/proc/{pid}/task")) == 1
    links = [os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")]
    assert not any("eventpoll" in link for link in links)


async def test_a_change_of_the_environment_gets_a_new_zygote(opened: Open, tmp_path: Path, plain_python: Path) -> None:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = plain_python.parent.parent / "lib" / version / "site-packages"
    packages.mkdir(parents=True)
    (plain_python.parent.parent / "pyvenv.cfg").write_text(f"home = {Path(sys.base_prefix) / 'bin'}\n")
    command = ["pyflyte-execute"]
    async with opened(slots=1) as runtime:
        pod = await run_pod(runtime, make_pod("before", args=command))
        assert "No module named 'flytekit'" in pod["status"]["message"]
        package = packages / "flytekit" / "bin"
        package.mkdir(parents=True)
        (package.parent / "__init__.py").write_text("raise ImportError('another problem')")
        (package / "__init__.py").touch()
        pod = await run_pod(runtime, make_pod("after", args=command))
        assert "another problem" in pod["status"]["message"]


async def test_delete_ends_a_forked_task(forking: LocalRuntime, tmp_path: Path) -> None:
    source = f"""
import os, time
from flytekit import task
@task
def wait() -> int:
    if os.fork() == 0:
        os.setsid()
    open(f"{tmp_path}/pid-{{os.getpid()}}", "w").close()
    time.sleep(300)
    return 1
"""
    archive = distribution(tmp_path / "fast.tar.gz", flow=source)
    wait = Task(tmp_path / "t", "flow", "wait", literals())
    await forking.start(make_pod("wait", args=wait.fast(archive), env=EXECUTION))
    await until(forking, "wait", "Running")
    async with asyncio.timeout(30):
        while len(found := list(tmp_path.glob("pid-*"))) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    await forking.delete("tests", "wait", grace=timedelta(seconds=5))
    for path in found:
        assert not Path(f"/proc/{path.name.removeprefix('pid-')}").exists()


def test_the_records_are_for_their_owner_only(data: Path) -> None:
    """Modes are given when folders are made; checked on a directory that was just made."""
    directory = Directory(data)
    directory.open()
    directory.close(properly=True)
    for folder in ("pods", "logs", "work", "cache", "zygotes"):
        assert stat.S_IMODE((data / folder).stat().st_mode) == 0o700
