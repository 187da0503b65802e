"""The local runtime by its public door, with processes that need no flytekit."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from aerodrome.plugins.api import ErrorKind
from aerodrome.plugins.config import K8sPluginConfig
from aerodrome.plugins.status import judge
from aerodrome.propeller.runtimes import LocalRuntime, Pod, local
from aerodrome.propeller.runtimes.pods import Key
from aerodrome.propeller.runtimes.records import Directory, Record
from aerodrome.stdlib.errors import FailedPrecondition, InvalidArgument, ResourceExhausted, Unavailable

from .harness import Open, appears, carriers, gone, make_pod, run_pod, say_pid, terminated, until

SLEEP = ["sleep", "300"]


async def test_a_command_that_ends_well_succeeds(runtime: LocalRuntime) -> None:
    pod = await run_pod(runtime, make_pod("good", ["sh", "-c", "echo hello; exit 0"]))
    assert pod["status"]["phase"] == "Succeeded"
    end = terminated(pod)
    assert end["exitCode"] == 0
    assert end["reason"] == "Completed"
    assert end["startedAt"] <= end["finishedAt"]
    assert "reason" not in pod["status"]
    assert await runtime.tail("tests", "good") == "hello"
    assert Path(pod["metadata"]["annotations"]["aerodrome/log-path"]).read_text() == "hello\n"


async def test_a_command_that_ends_badly_fails_with_its_code_and_its_last_words(runtime: LocalRuntime) -> None:
    pod = await run_pod(runtime, make_pod("bad", ["sh", "-c", "echo first; echo last >&2; exit 3"]))
    assert pod["status"]["phase"] == "Failed"
    assert "reason" not in pod["status"]
    end = terminated(pod)
    assert (end["exitCode"], end["reason"], end["message"]) == (3, "Error", "first\nlast")


async def test_a_signal_is_reported_as_128_and_its_number(runtime: LocalRuntime) -> None:
    end = terminated(await run_pod(runtime, make_pod("hit", ["sh", "-c", "kill -USR1 $$$$"])))
    assert (end["exitCode"], end["signal"], end["reason"]) == (128 + signal.SIGUSR1, signal.SIGUSR1, "Error")


async def test_a_kill_by_hand_is_no_lack_of_memory(runtime: LocalRuntime) -> None:
    end = terminated(await run_pod(runtime, make_pod("killed", ["sh", "-c", "kill -KILL $$$$"])))
    assert (end["exitCode"], end["signal"], end["reason"]) == (137, 9, "Error")


async def test_a_task_gets_the_pods_environment_and_nothing_of_the_platforms(
    opened: Open, plain_python: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLATFORM_SECRET", "do not leak")
    given = {"FLYTE_PLATFORM_URL": "localhost:30080", "FLYTE_PLATFORM_INSECURE": "true"}
    async with opened(environment=given) as runtime:
        script = "import json, os; print(json.dumps(dict(os.environ)))"
        pod = make_pod(
            "env", [str(plain_python), "-c", script], env={"A": "1", "B": "$(A)2", "C": "$(NO)", "D": "$$(A)"}
        )
        await run_pod(runtime, pod)
        seen = json.loads(await runtime.tail("tests", "env"))
    assert "PLATFORM_SECRET" not in seen
    expected = {"PATH", "HOME", "LANG", "TMPDIR", "AERODROME_POD", "A", "B", "C", "D", *given}
    assert set(seen) - {"LC_CTYPE", "PWD", "SHLVL", "_"} == expected
    assert (seen["B"], seen["C"], seen["D"]) == ("12", "$(NO)", "$(A)")
    assert seen["FLYTE_PLATFORM_URL"] == "localhost:30080"
    assert seen["PATH"].split(":")[0] == str(plain_python.parent)
    assert seen["AERODROME_POD"].startswith("tests/env@")


async def test_what_the_pod_says_wins_over_what_every_task_gets(opened: Open) -> None:
    async with opened(environment={"FLYTE_PLATFORM_URL": "here"}) as runtime:
        await run_pod(
            runtime, make_pod("wins", ["sh", "-c", "echo $FLYTE_PLATFORM_URL"], env={"FLYTE_PLATFORM_URL": "x"})
        )
        assert await runtime.tail("tests", "wins") == "x"


async def test_each_attempt_has_its_own_directory_which_goes_when_it_ends(runtime: LocalRuntime, data: Path) -> None:
    command = ["sh", "-c", 'pwd; ls -A; touch left; mkdir sealed; touch sealed/x; chmod 500 sealed; ls -d "$TMPDIR"']
    for name in ("one", "two"):
        await run_pod(runtime, make_pod(name, command))
    first, second = (await runtime.tail("tests", "one"), await runtime.tail("tests", "two"))
    assert first.splitlines() == [str(data / "work/tests/one/code"), str(data / "work/tests/one/tmp")]
    assert second.splitlines() == [str(data / "work/tests/two/code"), str(data / "work/tests/two/tmp")]
    for name in ("one", "two"):
        await runtime.delete("tests", name)
    assert list((data / "work").glob("*/*")) == []
    assert list((data / "pods").glob("*/*")) == []


async def test_an_existing_working_directory_is_honoured(runtime: LocalRuntime, tmp_path: Path) -> None:
    await run_pod(runtime, make_pod("there", ["pwd"], workingDir=str(tmp_path)))
    await run_pod(runtime, make_pod("nowhere", ["pwd"], workingDir=str(tmp_path / "missing")))
    assert await runtime.tail("tests", "there") == str(tmp_path)
    assert (await runtime.tail("tests", "nowhere")).endswith("/work/tests/nowhere/code")


async def test_the_log_outlives_the_pod(runtime: LocalRuntime) -> None:
    await run_pod(runtime, make_pod("gone", ["sh", "-c", "seq 100"]))
    await runtime.delete("tests", "gone")
    assert await runtime.get("tests", "gone") is None
    assert await runtime.tail("tests", "gone", lines=2) == "99\n100"


async def test_the_log_of_a_pod_that_never_was_is_empty(runtime: LocalRuntime) -> None:
    assert await runtime.tail("tests", "never") == ""
    with pytest.raises(InvalidArgument):
        await runtime.tail("tests", "../../../etc/passwd")


async def test_the_same_name_again_changes_nothing(runtime: LocalRuntime, tmp_path: Path) -> None:
    pod = make_pod("once", ["sh", "-c", f"echo run >> '{tmp_path}/runs'"])
    await asyncio.gather(*(runtime.start(pod) for _ in range(5)))
    await until(runtime, "once", "Succeeded")
    await runtime.start(pod)
    assert len(await runtime.list()) == 1
    assert (tmp_path / "runs").read_text() == "run\n"


async def test_a_deleted_name_may_be_used_again(runtime: LocalRuntime, tmp_path: Path) -> None:
    for _ in range(3):
        await run_pod(runtime, make_pod("again", ["sh", "-c", f"echo run >> '{tmp_path}/runs'"]))
        await runtime.delete("tests", "again")
    assert (tmp_path / "runs").read_text() == "run\n" * 3


@pytest.mark.parametrize(
    ("namespace", "name"), [("", "a"), ("ns", ""), ("ns", "../a"), ("a/b", "c"), ("ns", "A"), ("ns", "a" * 300)]
)
async def test_a_name_that_is_no_dns_name_is_refused(runtime: LocalRuntime, namespace: str, name: str) -> None:
    pod = make_pod("x", ["true"])
    pod["metadata"].update(namespace=namespace, name=name)
    with pytest.raises(InvalidArgument):
        await runtime.start(pod)


async def test_pods_are_listed_by_labels(runtime: LocalRuntime) -> None:
    await runtime.start(make_pod("a", ["true"], labels={"execution-id": "x", "node-id": "n0"}))
    await runtime.start(make_pod("b", ["true"], labels={"execution-id": "x", "node-id": "n1"}))
    names = [pod["metadata"]["name"] for pod in await runtime.list({"execution-id": "x", "node-id": "n1"})]
    assert names == ["b"]
    assert len(await runtime.list({"execution-id": "x"})) == 2
    assert await runtime.list({"execution-id": "y"}) == []


async def test_a_watch_shows_what_is_there_and_then_each_change(runtime: LocalRuntime) -> None:
    await run_pod(runtime, make_pod("before", ["true"]))
    seen: list[tuple[str, str, bool]] = []
    over = asyncio.Event()

    async def follow() -> None:
        async for pod in runtime.watch():
            metadata = pod["metadata"]
            seen.append((metadata["name"], pod["status"]["phase"], "deletionTimestamp" in metadata))
            if seen[-1] == ("after", "Succeeded", True):
                over.set()

    task = asyncio.create_task(follow())
    await run_pod(runtime, make_pod("after", ["true"]))
    await runtime.delete("tests", "after")
    await asyncio.wait_for(over.wait(), 30)
    task.cancel()
    assert seen[0] == ("before", "Succeeded", False)
    phases = list(dict.fromkeys(phase for name, phase, _ in seen if name == "after"))
    assert phases in (["Pending", "Running", "Succeeded"], ["Pending", "Succeeded"], ["Running", "Succeeded"])


@pytest.mark.parametrize("resource", ["nvidia.com/gpu", "gpu", "amd.com/gpu"])
async def test_a_gpu_request_fails_at_once(runtime: LocalRuntime, resource: str) -> None:
    await runtime.start(make_pod("gpu", ["true"], resources={"limits": {resource: "1"}}))
    pod = await runtime.get("tests", "gpu")
    assert pod is not None
    assert pod["status"]["phase"] == "Failed"
    assert pod["status"]["reason"] == "UnsatisfiableResources"
    assert resource in pod["status"]["message"]


async def test_a_request_beyond_the_machine_is_lowered_with_a_visible_warning(runtime: LocalRuntime) -> None:
    resources = {"requests": {"cpu": "5000", "memory": "900Ti"}}
    pod = await run_pod(runtime, make_pod("greedy", ["true"], resources=resources))
    assert pod["status"]["phase"] == "Succeeded"
    warning = pod["metadata"]["annotations"]["aerodrome/warning"]
    assert "cpu 5000" in warning
    assert "memory 900Ti" in warning


async def test_a_missing_executable_says_what_to_do(runtime: LocalRuntime) -> None:
    pod = await run_pod(runtime, make_pod("missing", ["no-such-program", "--flag"]))
    assert pod["status"]["reason"] == "StartError"
    assert "'no-such-program'" in pod["status"]["message"]
    assert "install it" in pod["status"]["message"]
    assert terminated(pod)["exitCode"] == 128


async def test_an_environment_without_flytekit_says_what_to_do(runtime: LocalRuntime) -> None:
    pod = await run_pod(runtime, make_pod("unfit", ["pyflyte-execute", "--inputs", "x"]))
    assert pod["status"]["reason"] == "StartError"
    assert "install flytekit there" in pod["status"]["message"]


async def test_a_pod_without_a_command_says_what_to_do(runtime: LocalRuntime) -> None:
    pod = await run_pod(runtime, make_pod("empty"))
    assert pod["status"]["reason"] == "StartError"
    assert "give the command" in pod["status"]["message"]


async def test_an_image_selects_an_environment(opened: Open, tmp_path: Path, plain_python: Path) -> None:
    other = tmp_path / "other env"
    (other / "bin").mkdir(parents=True)
    (other / "bin" / "python").symlink_to(os.readlink(plain_python))
    images = {"example.org:5000/special": other, "example.org/absent": tmp_path / "absent" / "python"}
    async with opened(images=images) as runtime:
        command = ["python", "-c", "import sys; print(sys.executable)"]
        digest = "@sha256:" + "0" * 64
        for name, image in (("tag", "example.org:5000/special:v7"), ("digest", f"example.org:5000/special{digest}")):
            await run_pod(runtime, make_pod(name, command, image=image))
            assert await runtime.tail("tests", name) == str(other / "bin" / "python")
        await run_pod(runtime, make_pod("default", command, image="example.org/another:v7"))
        assert await runtime.tail("tests", "default") == str(plain_python)
        pod = await run_pod(runtime, make_pod("absent", command, image="example.org/absent:1"))
        assert pod["status"]["reason"] == "StartError"
        assert "example.org/absent:1" in pod["status"]["message"]
        assert str(tmp_path / "absent" / "python") in pod["status"]["message"]


async def test_a_python_that_does_not_start_says_why(opened: Open, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho this is no python >&2\nexit 1\n")
    broken.chmod(0o755)
    async with opened(images={"broken": broken}) as runtime:
        pod = await run_pod(runtime, make_pod("broken", ["true"], image="broken"))
        assert pod["status"]["reason"] == "StartError"
        assert "this is no python" in pod["status"]["message"]


async def test_delete_ends_the_whole_tree_with_grace(runtime: LocalRuntime, tmp_path: Path) -> None:
    trap = f"trap 'echo tidied > {tmp_path}/tidied; exit 0' TERM"
    script = f"{trap}; {say_pid(tmp_path / 'main')}; while :; do sleep 0.05; done"
    await runtime.start(make_pod("polite", ["sh", "-c", script]))
    pid = int(await appears(tmp_path / "main"))
    await runtime.delete("tests", "polite", grace=timedelta(seconds=30))
    await gone(pid)
    assert (tmp_path / "tidied").read_text() == "tidied\n"
    assert await runtime.get("tests", "polite") is None


async def test_a_delete_before_the_process_leaves_none_however_slow_the_disk(
    runtime: LocalRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = Directory.end

    def slowly(self: Directory, key: Key, outcome: dict[str, Any]) -> None:
        time.sleep(0.3)
        end(self, key, outcome)

    monkeypatch.setattr(Directory, "end", slowly)
    await runtime.start(make_pod("early", ["sh", "-c", f": {tmp_path}/early; sleep 300; true"]))
    await runtime.delete("tests", "early", grace=timedelta(0))
    assert await runtime.list() == []
    await asyncio.sleep(0.3)  # one that was left would be at work by now
    assert not carriers(f"{tmp_path}/early")


async def test_delete_finds_children_that_left_for_sessions_of_their_own(runtime: LocalRuntime, tmp_path: Path) -> None:
    stubborn = "trap '' TERM; {say}; while :; do sleep 0.05; done"
    deep = stubborn.format(say=say_pid(tmp_path / "deep"))
    # In a new session, without any environment, and with its parent gone.
    left = f'env -i PATH=$PATH setsid sh -c "env -i PATH=$PATH setsid sh -c \\"{deep}\\" & exit 0"'
    command = f"{left}; {stubborn.format(say=say_pid(tmp_path / 'main'))}"
    await runtime.start(make_pod("stubborn", ["sh", "-c", command]))
    pids = [int(await appears(tmp_path / name)) for name in ("main", "deep")]
    assert carriers(str(tmp_path / "deep"))
    await runtime.delete("tests", "stubborn", grace=timedelta(seconds=0.2))
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


async def test_nothing_of_a_task_outlives_it(runtime: LocalRuntime, tmp_path: Path) -> None:
    script = (
        f'setsid sh -c "{say_pid(tmp_path / "left")}; sleep 300" & while [ ! -e {tmp_path}/left ]; do sleep 0.01; done'
    )
    pod = await run_pod(runtime, make_pod("leaver", ["sh", "-c", script]))
    assert pod["status"]["phase"] == "Succeeded"
    assert not Path(f"/proc/{(tmp_path / 'left').read_text().strip()}").exists()


async def test_deleting_twice_or_what_does_not_exist_is_fine(runtime: LocalRuntime, tmp_path: Path) -> None:
    await runtime.delete("tests", "nothing")
    await runtime.start(make_pod("twice", ["sh", "-c", f"{say_pid(tmp_path / 'pid')}; exec sleep 300"]))
    pid = int(await appears(tmp_path / "pid"))
    await asyncio.gather(*(runtime.delete("tests", "twice") for _ in range(3)))
    await gone(pid)
    assert await runtime.list() == []


async def test_a_pod_can_be_deleted_at_any_moment_of_its_life(runtime: LocalRuntime) -> None:
    for turn in range(40):
        await runtime.start(make_pod("brief", SLEEP))
        for _ in range(turn % 20):
            await asyncio.sleep(0)
        await runtime.delete("tests", "brief", grace=timedelta(0))
        assert await runtime.get("tests", "brief") is None
    assert carriers("tests/brief@") == []


async def test_slots_are_given_in_order_of_arrival(opened: Open, tmp_path: Path) -> None:
    async with opened(slots=1) as runtime:
        hold = f"{say_pid(tmp_path / 'pid')}; while [ ! -e {tmp_path}/go ]; do :; done"
        await runtime.start(make_pod("holder", ["sh", "-c", hold]))
        await appears(tmp_path / "pid")
        names = [f"n{number}" for number in range(8)]
        for name in names:
            await runtime.start(make_pod(name, ["sh", "-c", f"echo {name} >> {tmp_path}/order"]))
        pod = await runtime.get("tests", "n7")
        assert pod is not None
        assert pod["status"]["phase"] == "Pending"
        assert pod["status"]["conditions"][0]["reason"] == "Unschedulable"
        (tmp_path / "go").touch()
        for name in names:
            await until(runtime, name, "Succeeded")
        assert (tmp_path / "order").read_text().split() == names


async def test_slots_are_given_in_order_of_arrival_whichever_the_disk_records_first(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, others = Directory.write, threading.Event()

    def first_last(directory: Directory, key: Key, record: Record) -> None:
        if key.name == "n0":
            assert others.wait(30)
        write(directory, key, record)

    monkeypatch.setattr(Directory, "write", first_last)
    names = [f"n{number}" for number in range(3)]
    async with opened(slots=1) as runtime:
        pods = [make_pod(name, ["sh", "-c", f"echo {name} >> {tmp_path}/order"]) for name in names]
        starts = [asyncio.create_task(runtime.start(pod)) for pod in pods]
        await asyncio.wait(starts[1:])
        others.set()
        await asyncio.gather(*starts)
        for name in names:
            await until(runtime, name, "Succeeded")
    assert (tmp_path / "order").read_text().split() == names


async def test_an_idle_parent_gives_its_slot_to_its_child(opened: Open, tmp_path: Path) -> None:
    async with opened(slots=1) as runtime:
        # The parent ends only when the child has run, for which there is no slot but the parent's.
        await runtime.start(make_pod("parent", ["sh", "-c", f"while [ ! -e {tmp_path}/child ]; do sleep 1; done"]))
        await until(runtime, "parent", "Running")
        await runtime.start(make_pod("child", ["touch", str(tmp_path / "child")]))
        await until(runtime, "child", "Succeeded")
        await until(runtime, "parent", "Succeeded")


@pytest.mark.parametrize("is_scarce", [False, True])
async def test_there_is_a_slot_for_each_core_and_one_more_while_there_is_memory(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_scarce: bool
) -> None:
    monkeypatch.setattr(local, "available_memory_bytes", lambda: 0 if is_scarce else 1 << 60)
    cores = len(os.sched_getaffinity(0))
    room = cores if is_scarce else cores + 1
    async with opened() as runtime:
        for number in range(room + 1):
            work = f"{say_pid(tmp_path / f'{number}')}; while [ ! -e {tmp_path}/go ]; do :; done"
            await runtime.start(make_pod(f"busy-{number}", ["sh", "-c", work]))
        for number in range(room):
            await appears(tmp_path / f"{number}")
        pod = await runtime.get("tests", f"busy-{room}")
        assert pod is not None
        assert pod["status"]["conditions"][0]["reason"] == "Unschedulable"
        (tmp_path / "go").touch()
        await until(runtime, f"busy-{room}", "Succeeded")


async def test_a_busy_task_keeps_its_slot(opened: Open, tmp_path: Path) -> None:
    async with opened(slots=1) as runtime:
        busy = f"{say_pid(tmp_path / 'pid')}; while [ ! -e {tmp_path}/go ]; do :; done"
        await runtime.start(make_pod("busy", ["sh", "-c", busy]))
        await appears(tmp_path / "pid")
        await runtime.start(make_pod("next", ["true"]))
        await asyncio.sleep(4)  # longer than an idle task would keep it
        pod = await runtime.get("tests", "next")
        assert pod is not None
        assert pod["status"]["phase"] == "Pending"
        (tmp_path / "go").touch()
        await until(runtime, "next", "Succeeded")


async def test_a_directory_belongs_to_one_runtime(opened: Open, data: Path, plain_python: Path) -> None:
    async with opened() as runtime:
        await run_pod(runtime, make_pod("a", ["true"]))
        second = LocalRuntime(data, python=plain_python)
        with pytest.raises(FailedPrecondition, match="in use by another platform"):
            await second.run()
        with pytest.raises(FailedPrecondition, match="in use by another platform"):
            await second.start(make_pod("b", ["true"]))
    async with opened() as later:
        assert [pod["metadata"]["name"] for pod in await later.list()] == ["a"]


async def test_a_stop_waits_for_what_runs(opened: Open, tmp_path: Path) -> None:
    async with opened(grace=timedelta(seconds=60)) as runtime:
        wait = f"{say_pid(tmp_path / 'pid')}; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; echo done"
        await runtime.start(make_pod("slow", ["sh", "-c", wait]))
        await appears(tmp_path / "pid")
        asyncio.get_running_loop().call_later(0.3, (tmp_path / "go").touch)
    async with opened() as runtime:
        pod = await runtime.get("tests", "slow")
        assert pod is not None
        assert pod["status"]["phase"] == "Succeeded"
        assert await runtime.tail("tests", "slow") == "done"


async def test_a_stop_ends_what_does_not_finish_and_keeps_what_never_started(opened: Open, tmp_path: Path) -> None:
    async with opened(slots=1, grace=timedelta(seconds=0.1)) as runtime:
        await runtime.start(make_pod("long", ["sh", "-c", f"{say_pid(tmp_path / 'pid')}; while :; do :; done"]))
        pid = int(await appears(tmp_path / "pid"))
        await runtime.start(make_pod("waits", ["touch", str(tmp_path / "ran")]))
    await gone(pid)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(Unavailable):
        await runtime.start(make_pod("late", ["true"]))
    async with opened() as runtime:
        pod = await runtime.get("tests", "long")
        assert pod is not None
        assert (pod["status"]["phase"], pod["status"]["reason"]) == ("Failed", "Shutdown")
        await until(runtime, "waits", "Succeeded")
        assert (tmp_path / "ran").exists()


async def test_the_queue_keeps_its_order_over_a_restart(opened: Open, tmp_path: Path) -> None:
    names = [f"n{number}" for number in range(6)]
    async with opened(slots=1, grace=timedelta(0)) as runtime:
        await runtime.start(make_pod("holder", ["sh", "-c", f"{say_pid(tmp_path / 'pid')}; while :; do :; done"]))
        await appears(tmp_path / "pid")
        for name in names:
            await runtime.start(make_pod(name, ["sh", "-c", f"echo {name} >> {tmp_path}/order"]))
    async with opened(slots=1) as runtime:
        for name in names:
            await until(runtime, name, "Succeeded")
    assert (tmp_path / "order").read_text().split() == names


async def test_a_start_that_is_cancelled_never_happened(runtime: LocalRuntime, tmp_path: Path, data: Path) -> None:
    for turn in range(20):
        starting = asyncio.create_task(runtime.start(make_pod("never", ["touch", str(tmp_path / "ran")])))
        for _ in range(turn % 3 + 1):
            await asyncio.sleep(0)
        starting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await starting
        if starting.cancelled():
            assert await runtime.get("tests", "never") is None
            assert not (data / "pods/tests/never.json").exists()
        await runtime.delete("tests", "never")


async def test_a_disk_without_room_refuses_the_start(runtime: LocalRuntime, data: Path) -> None:
    assert await runtime.list() == []
    (data / "pods").joinpath("tests").write_text("in the way")  # no record can be written
    with pytest.raises(ResourceExhausted):
        await runtime.start(make_pod("full", ["true"]))
    assert await runtime.list() == []


async def test_many_pods_at_once_all_run_once(runtime: LocalRuntime, tmp_path: Path) -> None:
    names = [f"m{number}" for number in range(60)]
    await asyncio.gather(*(runtime.start(make_pod(n, ["sh", "-c", f"echo {n} >> {tmp_path}/ran"])) for n in names))
    for name in names:
        await until(runtime, name, "Succeeded")
    assert sorted((tmp_path / "ran").read_text().split()) == sorted(names)


async def test_a_lot_of_output_and_a_large_environment_pass(runtime: LocalRuntime) -> None:
    script = "import os; print(len(os.environ['BIG'])); print('x' * 1000000)"
    pod = make_pod("big", ["python3", "-c", script], env={"BIG": "y" * 100_000})
    done = await run_pod(runtime, pod)
    assert done["status"]["phase"] == "Succeeded"
    assert len(await runtime.tail("tests", "big")) <= 65_536
    assert Path(done["metadata"]["annotations"]["aerodrome/log-path"]).read_text().startswith("100000\n")


async def test_a_task_runs_below_the_platforms_priority_in_its_own_session(runtime: LocalRuntime) -> None:
    script = "import os; print(os.nice(0), os.getsid(0) == os.getpid(), sorted(os.listdir('/proc/self/fd')))"
    await run_pod(runtime, make_pod("nice", [sys.executable, "-c", script]))
    niceness, own, descriptors = (await runtime.tail("tests", "nice")).split(" ", 2)
    assert int(niceness) == os.nice(0) + 5
    assert own == "True"
    assert descriptors == "['0', '1', '2', '3']"  # 3 is the listing itself


async def test_signals_are_as_a_new_process_has_them(runtime: LocalRuntime) -> None:
    await run_pod(runtime, make_pod("signals", ["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"]))
    lines = (await runtime.tail("tests", "signals")).splitlines()
    own = 0b11 << 31  # signals 32 and 33 are the C library's own: posix_spawn leaves them ignored, and nobody can tell
    assert [int(line.split()[1], 16) & ~own for line in lines] == [0, 0]


MEMORY = Path("/sys/fs/cgroup/memory")


@pytest.mark.skipif(not os.access(MEMORY / "cgroup.procs", os.W_OK), reason="needs a memory cgroup that it may make")
async def test_a_kill_by_the_kernel_for_lack_of_memory_is_told_from_others(runtime: LocalRuntime) -> None:
    group = MEMORY / f"aerodrome-test-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text("50000000")
        script = f"echo $$$$ > {group}/cgroup.procs; exec python3 -c 'x = bytearray(300_000_000)'"
        pod = await run_pod(runtime, make_pod("oom", ["sh", "-c", script]))
        assert pod["status"]["phase"] == "Failed"
        assert "reason" not in pod["status"]
        end = terminated(pod)
        assert (end["exitCode"], end["reason"]) == (137, "OOMKilled")
    finally:
        group.rmdir()


EAT = "import time; eaten = bytearray(200 << 20); print('eaten', flush=True); time.sleep(60)"


async def test_a_pod_that_exceeds_its_memory_limit_is_ended_as_out_of_memory(runtime: LocalRuntime) -> None:
    limited = {"limits": {"memory": "100Mi"}, "requests": {"memory": "100Mi"}}
    pod = await run_pod(runtime, make_pod("eater", [sys.executable, "-c", EAT], resources=limited))
    assert terminated(pod)["reason"] == "OOMKilled"
    assert "its limit is 100 MiB" in terminated(pod)["message"]
    info = judge(pod, K8sPluginConfig(), datetime.now(UTC))
    assert info.failure is not None
    assert (info.failure.code, info.failure.kind, info.failure.retryable) == ("OOMKilled", ErrorKind.USER, True)
    assert "its limit is 100 MiB" in info.failure.message


async def test_memory_that_nobody_asked_for_limits_nothing(runtime: LocalRuntime) -> None:
    defaulted = {"aerodrome/defaulted-resources": "memory"}
    pod = make_pod("free", [sys.executable, "-c", EAT], resources={"limits": {"memory": "1Mi"}}, annotations=defaulted)
    await runtime.start(pod)
    await until(runtime, "free", "Running")
    while "eaten" not in await runtime.tail("tests", "free"):  # noqa: ASYNC110  (a file of another process)
        await asyncio.sleep(0.02)
    await runtime.sample()
    known = await runtime.get("tests", "free")
    assert known is not None
    assert known["status"]["phase"] == "Running"


def with_volume(pod: Pod, volume: str, path: str) -> Pod:
    pod["spec"]["volumes"] = [{"name": volume, "emptyDir": {}}]
    pod["spec"]["containers"][0]["volumeMounts"] = [{"name": volume, "mountPath": path}]
    return pod


async def test_a_volume_that_begins_empty_is_a_folder_until_the_pod_is_deleted(runtime: LocalRuntime) -> None:
    assert await runtime.list() == []  # it is open
    folder = runtime.volume("tests", "volumes", "scratch")
    folder.mkdir(parents=True)
    (folder / "given").write_text("before")
    command = ["sh", "-ec", "cd /var/scratch; cat given; echo after > /var/scratch/made; ls $PLACE"]
    pod = make_pod("volumes", command, env={"PLACE": "/var/scratch"})
    await run_pod(runtime, with_volume(pod, "scratch", "/var/scratch/"))
    assert await runtime.tail("tests", "volumes") == "beforegiven\nmade"
    assert (folder / "made").read_text() == "after\n"
    assert " " not in str(folder), "a shell would take it apart"
    await runtime.delete("tests", "volumes")
    assert not folder.exists()


@pytest.mark.parametrize("name", ["../outside", "..", "a/b"])
async def test_a_volume_cannot_be_outside(runtime: LocalRuntime, name: str) -> None:
    pod = await run_pod(runtime, with_volume(make_pod("bad", ["ls", "/nonexistent-mount"]), name, "/nonexistent-mount"))
    assert pod["status"]["phase"] == "Failed"
    assert "/nonexistent-mount" in await runtime.tail("tests", "bad")
