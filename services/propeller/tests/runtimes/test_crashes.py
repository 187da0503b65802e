"""What is left after the platform, the zygote, or both were killed, and that nothing ever runs twice."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from aerodrome.propeller.runtimes import Pod, zygote
from aerodrome.propeller.runtimes.records import Directory

from .harness import Open, Task, appears, carriers, gone, literals, make_pod, run_pod, say_pid, terminated, until

HOST = """
import asyncio, json, sys
from datetime import timedelta
from pathlib import Path
from aerodrome.propeller.runtimes import LocalRuntime

async def main():
    settings = json.loads(sys.argv[1])
    runtime = LocalRuntime(Path(settings["data"]), python=Path(settings["python"]), slots=settings["slots"],
                           outlive=timedelta(seconds=settings["outlive"]))
    running = asyncio.create_task(runtime.run())
    for pod in settings["pods"]:
        await runtime.start(pod)
    print("started", flush=True)
    await running

asyncio.run(main())
"""


class Platform:
    """A runtime in a process of its own, to be killed."""

    def __init__(self, process: asyncio.subprocess.Process, data: Path) -> None:
        self.process = process
        self._data = data

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)

    @property
    def zygotes(self) -> list[int]:
        found = [zygote.read_json(str(path)) for path in (self._data / "zygotes").glob("*.json")]
        return [each["pid"] for each in found if each]

    def kill_zygotes(self) -> None:
        for pid in self.zygotes:
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def platform(data: Path, plain_python: Path) -> Any:
    """Starts a platform that has accepted some pods."""

    @asynccontextmanager
    async def run(
        *pods: Pod, python: Path = plain_python, slots: int = 4, outlive: float = 60
    ) -> AsyncIterator[Platform]:
        settings = {"data": str(data), "python": str(python), "slots": slots, "outlive": outlive, "pods": pods}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", HOST, json.dumps(settings), stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        try:
            assert await asyncio.wait_for(process.stdout.readline(), 60) == b"started\n"
            yield Platform(process, data)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    return run


def waiting(tmp_path: Path, name: str, then: str = "echo done") -> Pod:
    """A pod that counts its runs, says its pid, and waits for a file."""
    count = f"echo run >> '{tmp_path}/{name}.runs'"
    wait = f"while [ ! -e '{tmp_path}/{name}.go' ]; do sleep 0.02; done"
    return make_pod(name, ["sh", "-c", f"{count}; {say_pid(tmp_path / f'{name}.pid')}; {wait}; {then}"])


def runs(tmp_path: Path, name: str) -> int:
    return len((tmp_path / f"{name}.runs").read_text().split())


async def test_a_new_platform_takes_over_what_the_killed_one_left(platform: Any, opened: Open, tmp_path: Path) -> None:
    async with platform(waiting(tmp_path, "a", "exit 3"), waiting(tmp_path, "b")) as first:
        pids = [int(await appears(tmp_path / f"{name}.pid")) for name in "ab"]
        first.kill()
        await first.process.wait()
        (tmp_path / "b.go").touch()  # ends while there is no platform
        await gone(pids[1])
        async with opened() as runtime:
            ended = await until(runtime, "b", "Succeeded")
            assert terminated(ended)["exitCode"] == 0
            pod = await runtime.get("tests", "a")
            assert pod is not None
            assert pod["status"]["phase"] == "Running"
            assert pod["status"]["containerStatuses"][0]["containerID"] == f"process://{pids[0]}"
            (tmp_path / "a.go").touch()
            pod = await until(runtime, "a", "Failed")
            assert terminated(pod)["exitCode"] == 3
    assert (runs(tmp_path, "a"), runs(tmp_path, "b")) == (1, 1)


async def test_the_zygote_of_a_killed_platform_is_used_again(platform: Any, opened: Open, plain_python: Path) -> None:
    async with platform(slots=2) as first:
        async with asyncio.timeout(30):
            while not first.zygotes:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        before = first.zygotes
        first.kill()
        await first.process.wait()
        async with opened(slots=2, outlive=timedelta(seconds=60)) as runtime:
            await run_pod(runtime, make_pod("a", ["true"]))
            assert Platform(first.process, runtime._directory.root).zygotes == before


async def test_what_was_queued_when_the_platform_was_killed_runs_later_and_once(
    platform: Any, opened: Open, tmp_path: Path
) -> None:
    names = ["hold", "q1", "q2", "q3"]
    async with platform(*(waiting(tmp_path, name) for name in names), slots=1) as first:
        await appears(tmp_path / "hold.pid")
        first.kill()
        await first.process.wait()
    for name in names:
        (tmp_path / f"{name}.go").touch()
    async with opened(slots=1) as runtime:
        for name in names:
            await until(runtime, name, "Succeeded")
    assert [runs(tmp_path, name) for name in names] == [1, 1, 1, 1]


async def test_a_killed_zygote_loses_only_what_nobody_can_know(opened: Open, tmp_path: Path, data: Path) -> None:
    async with opened() as runtime:
        await runtime.start(waiting(tmp_path, "a"))
        pid = int(await appears(tmp_path / "a.pid"))
        for path in (data / "zygotes").glob("*.json"):
            os.kill(json.loads(path.read_text())["pid"], signal.SIGKILL)
        done = await run_pod(runtime, make_pod("next", ["true"]))  # by a new zygote
        assert done["status"]["phase"] == "Succeeded"
        pod = await runtime.get("tests", "a")
        assert pod is not None
        assert pod["status"]["phase"] == "Running"  # it lives, so nothing is lost yet
        (tmp_path / "a.go").touch()
        await gone(pid)
        pod = await until(runtime, "a", "Failed")
        assert pod["status"]["reason"] == "Lost"  # a spawned command leaves no word of its own
    assert runs(tmp_path, "a") == 1


async def test_an_orphan_can_be_deleted_with_all_that_it_started(opened: Open, tmp_path: Path, data: Path) -> None:
    async with opened() as runtime:
        child = f"setsid sh -c \"trap '' TERM; {say_pid(tmp_path / 'child')}; while :; do sleep 0.05; done\" &"
        pod = make_pod(
            "a", ["sh", "-c", f"{child} {say_pid(tmp_path / 'main')}; trap '' TERM; while :; do sleep 0.05; done"]
        )
        await runtime.start(pod)
        pids = [int(await appears(tmp_path / name)) for name in ("main", "child")]
        for path in (data / "zygotes").glob("*.json"):
            os.kill(json.loads(path.read_text())["pid"], signal.SIGKILL)
        await runtime.delete("tests", "a", grace=timedelta(seconds=0.2))
        for pid in pids:
            found = zygote.process(pid)
            assert found is None or found.state in "ZX"
        assert await runtime.get("tests", "a") is None


async def test_after_both_were_killed_the_living_go_on_and_the_dead_are_lost(
    platform: Any, opened: Open, tmp_path: Path
) -> None:
    async with platform(waiting(tmp_path, "alive"), waiting(tmp_path, "dead")) as first:
        alive, dead = [int(await appears(tmp_path / f"{name}.pid")) for name in ("alive", "dead")]
        os.kill(first.process.pid, signal.SIGSTOP)  # so that it sees nothing of what follows
        first.kill_zygotes()
        first.kill()
        await first.process.wait()
        os.kill(dead, signal.SIGKILL)
        await gone(dead)
        async with opened() as runtime:
            pod = await until(runtime, "dead", "Failed")
            assert pod["status"]["reason"] == "Lost"
            assert terminated(pod)["exitCode"] == 137
            living = await runtime.get("tests", "alive")
            assert living is not None
            assert living["status"]["phase"] == "Running"
            await runtime.delete("tests", "alive", grace=timedelta(seconds=1))
            await gone(alive)
    assert (runs(tmp_path, "alive"), runs(tmp_path, "dead")) == (1, 1)


async def test_a_forked_task_says_itself_how_it_ended_when_both_are_gone(
    platform: Any, opened: Open, tmp_path: Path
) -> None:
    source = f"""
import os, time
from flytekit import task
@task
def wait() -> int:
    open("{tmp_path}/new", "w").write(str(os.getpid()))
    os.rename("{tmp_path}/new", "{tmp_path}/pid")
    while not os.path.exists("{tmp_path}/go"):
        time.sleep(0.02)
    return 7
"""
    (tmp_path / "orphaned.py").write_text(source)
    wait = Task(tmp_path / "t", "orphaned", "wait", literals())
    pod = make_pod("wait", args=wait.command(), env={"PYTHONPATH": str(tmp_path), "FLYTE_INTERNAL_EXECUTION_ID": "e"})
    async with platform(pod, python=Path(sys.executable)) as first:
        pid = int(await appears(tmp_path / "pid"))
        first.kill()
        await first.process.wait()
        first.kill_zygotes()
        (tmp_path / "go").touch()
        await gone(pid)
        async with opened() as runtime:
            pod = await until(runtime, "wait", "Succeeded", "Failed")
            assert pod["status"]["phase"] == "Succeeded"
            assert wait.outputs == {"o0": 7}


async def test_tasks_end_when_the_platform_stays_away(platform: Any, opened: Open, tmp_path: Path, data: Path) -> None:
    async with platform(waiting(tmp_path, "a"), outlive=0.5) as first:
        pid = int(await appears(tmp_path / "a.pid"))
        zygotes = first.zygotes
        first.kill()
        await first.process.wait()
        await gone(pid)
        for each in zygotes:
            await gone(each)
    assert carriers(str(data)) == []
    async with opened() as runtime:
        pod = await runtime.get("tests", "a")
        assert pod is not None
        assert (pod["status"]["phase"], pod["status"]["reason"]) == ("Failed", "Shutdown")


async def test_nothing_runs_twice_however_often_the_platform_is_killed(
    platform: Any, opened: Open, tmp_path: Path, data: Path
) -> None:
    names = [f"p{number}" for number in range(12)]
    pods = [make_pod(name, ["sh", "-c", f"echo run >> '{tmp_path}/{name}.runs'; sleep 0.1"]) for name in names]
    for delay in (0.0, 0.05, 0.15, 0.3):
        async with platform(*pods, slots=2) as host:
            await asyncio.sleep(delay)
            if delay > 0.1:
                host.kill_zygotes()
            host.kill()
            await host.process.wait()
    async with opened(slots=4) as runtime:
        for name in names:
            pod = await until(runtime, name, "Succeeded", "Failed")
            if pod["status"]["phase"] == "Failed":
                assert pod["status"]["reason"] == "Lost"
    for name in names:
        counted = tmp_path / f"{name}.runs"
        assert not counted.exists() or runs(tmp_path, name) == 1


async def test_an_attempt_of_an_earlier_boot_is_lost_unless_the_stop_was_orderly(
    opened: Open, tmp_path: Path, data: Path
) -> None:
    record = data / "pods" / "tests" / "a.json"
    async with opened() as runtime:
        await run_pod(runtime, make_pod("done", ["true"]))
    record.write_text(json.dumps({"pod": waiting(tmp_path, "a"), "created": 1.0, "boot": "another boot"}))
    (data / "state.json").write_text(json.dumps({"identity": "x", "closed": False}))
    async with opened() as runtime:
        pod = await runtime.get("tests", "a")
        assert pod is not None
        assert pod["status"]["reason"] == "Lost"
        done = await runtime.get("tests", "done")
        assert done is not None
        assert done["status"]["phase"] == "Succeeded"
        await runtime.delete("tests", "a")
    record.write_text(json.dumps({"pod": make_pod("a", ["true"]), "created": 1.0, "boot": "another boot"}))
    async with opened() as runtime:  # the stop above was orderly, so that it surely never started
        await until(runtime, "a", "Succeeded")


async def test_a_record_that_was_never_completed_is_as_if_it_had_not_been(opened: Open, data: Path) -> None:
    async with opened() as runtime:
        await run_pod(runtime, make_pod("a", ["true"]))
    (data / "pods" / "tests" / "torn.json").write_text('{"pod": {"metadata"')
    async with opened() as runtime:
        assert [pod["metadata"]["name"] for pod in await runtime.list()] == ["a"]
        assert (await run_pod(runtime, make_pod("torn", ["true"])))["status"]["phase"] == "Succeeded"


async def test_a_zygote_that_hangs_does_not_keep_a_pod_alive(
    opened: Open, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aerodrome.propeller.runtimes.local._SETTLE_SECONDS", 0.5)
    async with opened() as runtime:
        await runtime.start(waiting(tmp_path, "a"))
        pid = int(await appears(tmp_path / "a.pid"))
        for path in (data / "zygotes").glob("*.json"):
            os.kill(json.loads(path.read_text())["pid"], signal.SIGSTOP)
        await runtime.delete("tests", "a", grace=timedelta(seconds=0.2))
        await gone(pid)


async def test_ctrl_c_reaches_the_platform_only(platform: Any, tmp_path: Path) -> None:
    async with platform(waiting(tmp_path, "a")) as host:
        pid = int(await appears(tmp_path / "a.pid"))
        for each in (pid, *host.zygotes):
            assert os.getsid(each) == each
            assert os.getpgid(each) != os.getpgid(host.process.pid)


def test_the_runtime_has_no_lock_left_after_its_process_died(data: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from aerodrome.propeller.runtimes.records import Directory\n"
        "Directory(Path(sys.argv[1])).open(); import os; os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(data)], check=False)
    directory = Directory(data)
    directory.open()
    assert not directory.closed_properly
    directory.close(properly=True)
