"""Nodes of each kind that are retried, out of time, failed, aborted or recovered, where no other file has them."""

import os
import time
from datetime import timedelta
from pathlib import Path

from flytekit import LaunchPlan, approve, conditional, dynamic, task, workflow
from flytekit.exceptions.user import FlyteRecoverableException


def note(folder: str, name: str) -> int:
    """Append a line to a file of that name; how many lines it had before."""
    path = Path(folder) / name
    before = len(path.read_text().splitlines()) if path.exists() else 0
    with path.open("a") as file:
        file.write(f"{os.getpid()}\n")
    return before


@task(retries=1)
def flaky(folder: str, name: str) -> int:
    """Succeeds the second time."""
    if note(folder, name) < 1:
        raise FlyteRecoverableException("not yet")
    return 1


@task
def once_broken(folder: str, name: str) -> int:
    """Fails the first time, which nobody retries here."""
    if note(folder, name) < 1:
        raise ValueError("broken once")
    return 1


@task
def broken(way: int) -> int:
    if way:
        raise ValueError("broken for good")
    return 1


@task
def endless(folder: str, name: str) -> int:
    note(folder, name)
    time.sleep(1000)
    return 1


@task(timeout=timedelta(seconds=1))
def overlong(folder: str, name: str) -> int:
    note(folder, name)
    time.sleep(1000)
    return 1


@workflow
def flaky_inside(folder: str) -> int:
    return flaky(folder=folder, name="flaky")


@workflow
def sub_retry(folder: str) -> int:
    return flaky_inside(folder=folder)


@workflow
def endless_inside(folder: str) -> int:
    return endless(folder=folder, name="endless")


@workflow
def sub_abort(folder: str) -> int:
    return endless_inside(folder=folder)


@workflow
def sub_timeout(folder: str) -> int:
    return endless_inside(folder=folder).with_overrides(timeout=timedelta(seconds=1))


@workflow
def branch(way: int, folder: str) -> int:
    return (
        conditional("way")
        .if_(way == 1)
        .then(flaky(folder=folder, name="flaky"))
        .elif_(way == 2)
        .then(broken(way=way))
        .elif_(way == 3)
        .then(overlong(folder=folder, name="overlong"))
        .elif_(way == 4)
        .then(endless(folder=folder, name="endless"))
        .else_()
        .fail("there is no such way")
    )


@workflow
def broken_once(folder: str) -> int:
    return once_broken(folder=folder, name="child")


plan = LaunchPlan.get_or_create(broken_once, "matrix.plan")


@workflow
def plan_failure(folder: str) -> int:
    return plan(folder=folder).with_overrides(retries=1)


@dynamic(timeout=timedelta(seconds=2))
def made_endless(folder: str) -> int:
    return endless(folder=folder, name="endless")


@workflow
def dynamic_timeout(folder: str) -> int:
    return made_endless(folder=folder)


@workflow
def gate_recovery(folder: str) -> int:
    approved = approve(flaky(folder=folder, name="before"), "sure", timeout=timedelta(hours=1))
    after = once_broken(folder=folder, name="after")
    approved >> after
    return after
