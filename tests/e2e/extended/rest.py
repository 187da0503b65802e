"""One workflow for each way in which nodes may go, with a node of each kind in it that may go so.

Tasks note that they run in files of the folder that they are given; `job` is another one, for connectors.
"""

import functools
import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from connectors import NoteDown, SlowJob  # type: ignore[import-not-found]
from flytekit import (
    ContainerTask,
    LaunchPlan,
    WorkflowFailurePolicy,
    approve,
    eager,
    kwtypes,
    map_task,
    sleep,
    task,
    wait_for_input,
    workflow,
)
from flytekit.core.base_task import TaskMetadata
from flytekit.core.task import Echo
from flytekit.exceptions.user import FlyteRecoverableException
from flytekit.extras.tasks.shell import OutputLocation, ShellTask
from flytekit.types.file import FlyteFile
from pods import InPod  # type: ignore[import-not-found]

GO_ON = WorkflowFailurePolicy.FAIL_AFTER_EXECUTABLE_NODES_COMPLETE
KEPT = {"cache": True, "cache_version": "1"}
SECOND = timedelta(seconds=1)
SECOND_TIME = '[ "$(wc -l < "$0/raw")" -gt 1 ]'
SECOND_SCRIPT = '[ "$(wc -l < "$folder/shell")" -gt 1 ]'
"""They fail the first time."""


def note(folder: str, name: str) -> int:
    """Append this process to a file of that name; how many lines it had before."""
    path = Path(folder) / name
    before = len(path.read_text().splitlines()) if path.exists() else 0
    with path.open("a") as file:
        file.write(f"{os.getpid()}\n")
    return before


def named(made: Any, name: str, **overrides: object) -> Any:
    """The node of what was called gets this id."""
    return made.with_overrides(node_name=name, **overrides)


def raw(way: str, then: str, **metadata: object) -> ContainerTask:
    """A container that notes its shell (in a command of Kubernetes `$$` is a `$`) and goes on with `then`."""
    return ContainerTask(
        name=f"rest.raw_{way}",
        image="example.org/has-no-environment:v1",
        inputs=kwtypes(folder=str),
        outputs=kwtypes(o0=int),
        output_data_dir="/var/outputs",
        command=["sh", "-ec", f'echo $$$$ >> "$0/raw"; {then}', "{{.inputs.folder}}"],
        metadata=TaskMetadata(**metadata),
    )


def shell(way: str, then: str, **metadata: object) -> ShellTask:
    """A script that notes its shell, goes on with `then` and leaves a file."""
    script = f"set -e; folder='{{inputs.folder}}'; echo $$ >> \"$folder/shell\"; {then}; echo done > '{{outputs.out}}'"
    return ShellTask(
        name=f"rest.shell_{way}",
        script=script,
        inputs=kwtypes(folder=str),
        output_locs=[OutputLocation(var="out", var_type=FlyteFile, location="out.txt")],
        metadata=TaskMetadata(**metadata),
    )


# All is well, and is kept


raw_fine = raw("fine", "echo 7 > /var/outputs/o0", **KEPT)
shell_fine = shell("fine", "true", **KEPT)
async_fine = SlowJob(name="rest.async_fine", metadata=TaskMetadata(**KEPT))
sync_fine = NoteDown(name="rest.sync_fine", metadata=TaskMetadata(**KEPT))
echo_fine = Echo(name="rest.echo_fine", inputs={"folder": str}, metadata=TaskMetadata(**KEPT))


def pod_fine(folder: str) -> int:
    return note(folder, "pod")


pod_fine = InPod(pod_fine, metadata=TaskMetadata(**KEPT))


@task(cache=True, cache_version="1")
def part_fine(number: int, folder: str) -> int:
    note(folder, f"map{number}")
    return number


@task(cache=True, cache_version="1")
def inside_fine(number: int, folder: str) -> int:
    note(folder, f"child{number}")
    return number


@workflow
def child_fine(number: int, folder: str) -> int:
    return inside_fine(number=number, folder=folder)


plan_fine = LaunchPlan.get_or_create(child_fine, "rest.plan_fine")


@workflow
def fine(folder: str, job: str) -> tuple[list[int], list[int]]:
    named(raw_fine(folder=folder), "raw")
    named(shell_fine(folder=folder), "shell")
    named(pod_fine(folder=folder), "pod")
    named(async_fine(folder=job, order="well"), "async")
    named(sync_fine(folder=folder, order="at once"), "sync")
    named(echo_fine(folder=folder), "echo")
    mapped = named(map_task(functools.partial(part_fine, folder=folder))(number=[0, 1]), "map")
    plans = named(map_task(plan_fine)(number=[0, 1], folder=[folder, folder]), "plans")
    named(plan_fine(number=2, folder=folder), "plan")
    return mapped, plans


# The first attempt fails, and another follows


raw_flaky = raw("flaky", f"{SECOND_TIME}; echo 1 > /var/outputs/o0", retries=1)
shell_flaky = shell("flaky", SECOND_SCRIPT, retries=1)
async_flaky = SlowJob(name="rest.async_flaky", metadata=TaskMetadata(retries=1))
sync_flaky = NoteDown(name="rest.sync_flaky", metadata=TaskMetadata(retries=1))


def pod_flaky(folder: str) -> int:
    if note(folder, "pod") < 1:
        raise FlyteRecoverableException("not yet")
    return 1


pod_flaky = InPod(pod_flaky, metadata=TaskMetadata(retries=1))


@task(retries=1)
def part_flaky(number: int, folder: str) -> int:
    if note(folder, f"map{number}") < number:
        raise FlyteRecoverableException("not yet")
    return number


@task(retries=1)
def handler_flaky(folder: str) -> None:
    if note(folder, "handler") < 1:
        raise FlyteRecoverableException("not yet")


@task
def broken(folder: str) -> int:
    if folder:
        raise ValueError(f"{folder} is broken for good")
    return 1


@workflow(on_failure=handler_flaky)
def handled_flaky(folder: str) -> int:
    return broken(folder=folder)


@workflow(failure_policy=GO_ON)
def flaky(folder: str, job: str) -> None:
    named(raw_flaky(folder=folder), "raw")
    named(shell_flaky(folder=folder), "shell")
    named(pod_flaky(folder=folder), "pod")
    named(async_flaky(folder=job, order="flaky"), "async")
    named(sync_flaky(folder=folder, order="once"), "sync")
    named(map_task(functools.partial(part_flaky, folder=folder))(number=[0, 1]), "map")
    named(handled_flaky(folder=folder), "handler")


# They take too long


echo_plain = Echo(name="rest.echo_plain", inputs={"folder": str})

raw_overlong = raw("overlong", "exec sleep 1000", timeout=SECOND)
shell_overlong = shell("overlong", "exec sleep 1000", timeout=SECOND)
async_overlong = SlowJob(name="rest.async_overlong", metadata=TaskMetadata(timeout=3 * SECOND))
sync_overlong = NoteDown(name="rest.sync_overlong", metadata=TaskMetadata(timeout=2 * SECOND))


def pod_overlong(folder: str) -> int:
    note(folder, "pod")
    time.sleep(1000)
    return 1


pod_overlong = InPod(pod_overlong, metadata=TaskMetadata(timeout=SECOND))


@task(timeout=SECOND)
def part_overlong(number: int, folder: str) -> int:
    note(folder, f"map{number}")
    time.sleep(1000)
    return number


@task
def endless(number: int, folder: str, name: str) -> int:
    note(folder, f"{name}{number}")
    time.sleep(1000)
    return number


@workflow
def child_endless(number: int, folder: str) -> int:
    return endless(number=number, folder=folder, name="child")


plan_endless = LaunchPlan.get_or_create(child_endless, "rest.plan_endless")


@task(timeout=SECOND)
def handler_overlong(folder: str) -> None:
    note(folder, "handler")
    time.sleep(1000)


@workflow(on_failure=handler_overlong)
def handled_overlong(folder: str) -> int:
    return broken(folder=folder)


@workflow(failure_policy=GO_ON)
def overlong(folder: str, job: str) -> None:
    named(raw_overlong(folder=folder), "raw")
    named(shell_overlong(folder=folder), "shell")
    named(pod_overlong(folder=folder), "pod")
    named(async_overlong(folder=job, order="hang"), "async")
    named(sync_overlong(folder=folder, order="late"), "sync")
    named(map_task(functools.partial(part_overlong, folder=folder))(number=[0]), "map")
    named(map_task(plan_endless)(number=[0], folder=[folder]), "plans", timeout=4 * SECOND)
    named(approve(echo_plain(folder=folder), "never approved", timeout=SECOND), "approve")
    named(sleep(timedelta(hours=1)), "sleep", timeout=SECOND)
    named(handled_overlong(folder=folder), "handler")


# They go on until somebody aborts them


raw_endless = raw("endless", "exec sleep 1000")
shell_endless = shell("endless", "exec sleep 1000")
async_endless = SlowJob(name="rest.async_endless")
sync_endless = NoteDown(name="rest.sync_endless")


def pod_endless(folder: str) -> int:
    note(folder, "pod")
    time.sleep(1000)
    return 1


pod_endless = InPod(pod_endless)


@task
def handler_endless(folder: str) -> None:
    note(folder, "handler")
    time.sleep(1000)


@workflow(on_failure=handler_endless)
def handled_endless(folder: str) -> int:
    return broken(folder=folder)


@workflow(failure_policy=GO_ON)
def lasting(folder: str, job: str) -> None:
    named(raw_endless(folder=folder), "raw")
    named(shell_endless(folder=folder), "shell")
    named(pod_endless(folder=folder), "pod")
    named(async_endless(folder=job, order="hang"), "async")
    mapped = functools.partial(endless, folder=folder, name="map")
    named(map_task(mapped)(number=[0, 1]), "map")
    named(map_task(plan_endless)(number=[0], folder=[folder]), "plans")
    named(wait_for_input("never given", timeout=timedelta(hours=1), expected_type=int), "signal")
    named(approve(echo_plain(folder=folder), "never approved", timeout=timedelta(hours=1)), "approve")
    named(sleep(timedelta(hours=1)), "sleep")
    named(handled_endless(folder=folder), "handler")


@workflow
def answering(folder: str) -> int:
    return sync_endless(folder=folder, order="late")


# They fail, and a recovery runs them again, but not what was fine


raw_once = raw("once", f"{SECOND_TIME}; echo 1 > /var/outputs/o0")
shell_once = shell("once", SECOND_SCRIPT)
async_once = SlowJob(name="rest.async_once")
sync_once = NoteDown(name="rest.sync_once")
raw_done = raw("done", "echo 1 > /var/outputs/o0")
async_done = SlowJob(name="rest.async_done")
sync_done = NoteDown(name="rest.sync_done")


def pod_once(folder: str) -> int:
    if note(folder, "pod") < 1:
        raise ValueError("broken once")
    return 1


pod_once = InPod(pod_once)


def pod_done(folder: str) -> int:
    return note(folder, "pod_done")


pod_done = InPod(pod_done)


@task
def part_once(number: int, folder: str, name: str) -> int:
    """Number 1 fails the first time."""
    if note(folder, f"{name}{number}") < number:
        raise ValueError(f"{name} {number} is broken once")
    return number


@workflow
def child_once(number: int, folder: str) -> int:
    return part_once(number=number, folder=folder, name="child")


plan_once = LaunchPlan.get_or_create(child_once, "rest.plan_once")


@task
def handler_once(folder: str) -> None:
    if note(folder, "handler") < 1:
        raise ValueError("the handler is broken once")


@workflow(on_failure=handler_once)
def handled_once(folder: str) -> int:
    return broken(folder=folder)


@task(cache=True, cache_version="1")
def handler_kept(folder: str) -> int:
    return note(folder, "handler_kept")


@workflow(on_failure=handler_kept)
def handled_kept(folder: str) -> int:
    return broken(folder=folder)


@workflow(failure_policy=GO_ON)
def once_broken(folder: str, job: str, done: str) -> None:
    named(raw_once(folder=folder), "raw")
    named(shell_once(folder=folder), "shell")
    named(pod_once(folder=folder), "pod")
    named(async_once(folder=job, order="once"), "async")
    named(sync_once(folder=folder, order="once"), "sync")
    mapped = functools.partial(part_once, folder=folder, name="map")
    named(map_task(mapped)(number=[0, 1]), "map")
    named(map_task(plan_once)(number=[0, 1], folder=[folder, folder]), "plans")
    named(handled_once(folder=folder), "handler")
    named(handled_kept(folder=folder), "handler-kept")
    named(raw_done(folder=done), "raw-done")
    named(pod_done(folder=done), "pod-done")
    named(async_done(folder=done, order="well"), "async-done")
    named(sync_done(folder=done, order="at once"), "sync-done")
    named(echo_plain(folder=done), "echo-done")
    named(wait_for_input("given", timeout=timedelta(hours=1), expected_type=int), "signal-done")
    named(sleep(timedelta(milliseconds=100)), "sleep-done")


# Eager workflows, which are tasks that launch others


@task
def step_once(folder: str) -> int:
    if note(folder, "step") < 1:
        raise ValueError("the step is broken once")
    return 1


@eager
async def eager_once(folder: str) -> int:
    note(folder, "eager")
    return step_once(folder=folder)


@eager(metadata=TaskMetadata(timeout=timedelta(seconds=6)))
async def eager_overlong(folder: str) -> int:
    return endless(number=0, folder=folder, name="eager")


@eager(metadata=TaskMetadata(retries=1, **KEPT))
async def eager_flaky(folder: str) -> int:
    if note(folder, "eager") < 1:
        raise FlyteRecoverableException("not yet")
    return step_plain(folder=folder)


@task
def step_plain(folder: str) -> int:
    return note(folder, "step")
