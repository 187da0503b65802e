"""Launch plans inside workflows, gates, dynamic workflows, and what of them is recovered."""

import atexit
import functools
import os
import time
from datetime import timedelta
from pathlib import Path

from flytekit import (
    LaunchPlan,
    WorkflowFailurePolicy,
    approve,
    conditional,
    dynamic,
    eager,
    map_task,
    sleep,
    task,
    wait_for_input,
    workflow,
)
from flytekit.exceptions.user import FlyteRecoverableException
from flytekit.types.error.error import FlyteError


def note(folder: str, name: str) -> int:
    """Append a line to a file of that name; how many lines it had before."""
    path = Path(folder) / name
    before = len(path.read_text().splitlines()) if path.exists() else 0
    with path.open("a") as file:
        file.write(f"{os.getpid()}\n")
    return before


@task
def plus_one(value: int) -> int:
    return value + 1


@task
def counted(value: int, folder: str, name: str) -> int:
    note(folder, name)
    return value + 1


@task
def until_told(value: int, folder: str, name: str) -> int:
    """Fails for as long as there is no file `mended`."""
    note(folder, name)
    if not (Path(folder) / "mended").exists():
        raise ValueError(f"{name} is broken")
    return value + 1


@task
def endless(folder: str, name: str) -> int:
    note(folder, name)
    time.sleep(1000)
    return 1


# Launch plans


@workflow
def child(value: int) -> int:
    return plus_one(value=value)


child_plan = LaunchPlan.get_or_create(child, "nodes.child_plan")


@workflow
def parent(value: int) -> int:
    return plus_one(value=child_plan(value=child_plan(value=value)))


@workflow
def failing_child(value: int, folder: str) -> int:
    return until_told(value=counted(value=value, folder=folder, name="inner"), folder=folder, name="broken")


failing_plan = LaunchPlan.get_or_create(failing_child, "nodes.failing_plan")


@workflow
def failing_parent(value: int, folder: str) -> int:
    return failing_plan(value=counted(value=value, folder=folder, name="outer"), folder=folder)


@workflow
def endless_child(folder: str) -> int:
    return endless(folder=folder, name="endless")


endless_plan = LaunchPlan.get_or_create(endless_child, "nodes.endless_plan")


@workflow
def middle(folder: str) -> int:
    return endless_plan(folder=folder)


middle_plan = LaunchPlan.get_or_create(middle, "nodes.middle_plan")


@workflow
def endless_parent(folder: str) -> int:
    return middle_plan(folder=folder)


@workflow
def overlong_parent(folder: str) -> int:
    return endless_plan(folder=folder).with_overrides(timeout=timedelta(seconds=2))


# Gates


@workflow
def gated(value: int) -> int:
    given = wait_for_input("number", timeout=timedelta(hours=1), expected_type=int)
    approved = approve(plus_one(value=given), "sure", timeout=timedelta(hours=1))
    pause = sleep(timedelta(milliseconds=300))
    last = plus_one(value=approved)
    pause >> last
    return last


@workflow
def impatient() -> int:
    return wait_for_input("never", timeout=timedelta(seconds=1), expected_type=int)


@workflow
def waiting_inside(value: int) -> int:
    return gated(value=value)


gated_plan = LaunchPlan.get_or_create(gated, "nodes.gated_plan")


@workflow
def gated_parent(value: int) -> int:
    return plus_one(value=gated_plan(value=value))


@workflow
def long_pause() -> None:
    sleep(timedelta(seconds=4))


# Retries that wait


@task(retries=1)
def noting_when(number: int, folder: str) -> int:
    """Notes the time, and fails the first time."""
    path = Path(folder) / str(number)
    with path.open("a") as file:
        file.write(f"{time.time()}\n")
    if len(path.read_text().splitlines()) < 2:
        raise FlyteRecoverableException("not yet")
    return number


@workflow
def patient_items(folder: str) -> list[int]:
    return map_task(functools.partial(noting_when, folder=folder))(number=[0, 1])


# Dynamic workflows


@dynamic
def spread(count: int) -> list[int]:
    return [plus_one(value=number) for number in range(count)]


@workflow
def dynamic_simple(count: int) -> list[int]:
    return spread(count=count)


@dynamic
def everything(value: int) -> int:
    mapped = map_task(plus_one)(value=[value, value + 1])
    first = child(value=value)
    second = child_plan(value=first)
    deeper = spread(count=2)
    deeper >> second
    mapped >> second
    return second


@workflow
def dynamic_everything(value: int) -> int:
    return everything(value=value)


@dynamic
def spread_broken(value: int, folder: str) -> int:
    note(folder, "spread")
    fine = counted(value=value, folder=folder, name="fine")
    return until_told(value=fine, folder=folder, name="broken")


@workflow
def dynamic_broken(value: int, folder: str) -> int:
    return spread_broken(value=value, folder=folder)


@dynamic(retries=2)
def spread_flaky(folder: str) -> int:
    if note(folder, "flaky") < 1:
        raise FlyteRecoverableException("not yet")
    return plus_one(value=1)


@workflow
def dynamic_flaky(folder: str) -> int:
    return spread_flaky(folder=folder)


@dynamic
def spread_endless(folder: str) -> int:
    return endless(folder=folder, name="endless")


@workflow
def dynamic_endless(folder: str) -> int:
    return spread_endless(folder=folder)


@dynamic
def spread_gated() -> int:
    return plus_one(value=wait_for_input("inner", timeout=timedelta(hours=1), expected_type=int))


@workflow
def dynamic_gated() -> int:
    return spread_gated()


# Failure nodes and eager workflows


@task
def clean_up(value: int, folder: str, err: FlyteError | None = None) -> None:
    (Path(folder) / "cleaned").write_text(err.message if err else "no error")


@workflow(on_failure=clean_up)
def tidy(value: int, folder: str) -> int:
    return until_told(value=value, folder=folder, name="broken")


@workflow
def tidy_around(value: int, folder: str) -> int:
    return tidy(value=value, folder=folder)


@eager
async def eagerly(value: int) -> int:
    launched = child(value=value)
    return plus_one(value=launched)


@eager
async def eagerly_leaving(value: int) -> int:
    """While it leaves, the SDK's thread that looks after what it launched gets to publish its deck once more."""
    atexit.register(time.sleep, 3.0)
    return plus_one(value=value)


@eager
async def eagerly_endless(folder: str) -> int:
    return endless_child(folder=folder)


# Recovery of everything together


@workflow
def part(value: int, folder: str) -> int:
    return until_told(value=counted(value=value, folder=folder, name="part"), folder=folder, name="broken-part")


@workflow(failure_policy=WorkflowFailurePolicy.FAIL_AFTER_EXECUTABLE_NODES_COMPLETE)
def everything_broken(value: int, folder: str) -> list[int]:
    done = counted(value=value, folder=folder, name="done")
    nested = part(value=done, folder=folder)
    launched = failing_plan(value=done, folder=folder)
    made = spread_broken(value=done, folder=folder)
    chosen = (
        conditional("which")
        .if_(done > 0)
        .then(counted(value=done, folder=folder, name="chosen"))
        .else_()
        .fail("it is not positive")
    )
    after = counted(value=nested, folder=folder, name="after")
    return [nested, launched, made, chosen, after]
