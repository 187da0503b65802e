"""Small workflows of every kind of node; each attempt notes in the side file when it starts and when it ends."""

import functools
import os
import time
from datetime import timedelta
from pathlib import Path

from flytekit import LaunchPlan, conditional, dynamic, map_task, sleep, task, workflow
from flytekit.exceptions.user import FlyteRecoverableException


def note(side: str, what: str, name: str) -> None:
    """Append a line in one write: what happened, to whom, in which attempt, where."""
    line = f"{what} {name} {os.environ['FLYTE_ATTEMPT_NUMBER']} {os.getpid()} {Path.cwd()}\n"
    descriptor = os.open(side, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def work(side: str, name: str, seconds: float) -> None:
    note(side, "start", name)
    time.sleep(seconds)
    note(side, "end", name)


@task
def step(value: int, name: str, side: str, seconds: float) -> int:
    work(side, name, seconds)
    return value + 1


@workflow
def chain(side: str, seconds: float) -> int:
    one = step(value=0, name="one", side=side, seconds=seconds)
    two = step(value=one, name="two", side=side, seconds=seconds)
    return step(value=two, name="three", side=side, seconds=seconds)


@task
def total(values: list[int], side: str, seconds: float) -> int:
    work(side, "total", seconds)
    return sum(values)


@workflow
def fan(side: str, seconds: float) -> int:
    values = [step(value=number, name=f"part{number}", side=side, seconds=seconds) for number in range(4)]
    return total(values=values, side=side, seconds=seconds)


@task
def item(number: int, side: str, seconds: float) -> int:
    work(side, f"item{number}", seconds)
    return number * number


@workflow
def mapped(side: str, seconds: float) -> int:
    squares = map_task(functools.partial(item, side=side, seconds=seconds))(number=[0, 1, 2, 3])
    return total(values=squares, side=side, seconds=seconds)


launched_chain = LaunchPlan.get_or_create(chain, "mix.launched_chain")


@workflow
def nested(side: str, seconds: float) -> int:
    inner = chain(side=side, seconds=seconds)
    outer = launched_chain(side=side, seconds=seconds)
    return total(values=[inner, outer], side=side, seconds=seconds)


@dynamic
def spread(count: int, side: str, seconds: float) -> int:
    work(side, "spread", seconds)
    values = [step(value=number, name=f"made{number}", side=side, seconds=seconds) for number in range(count)]
    return total(values=values, side=side, seconds=seconds)


@workflow
def made(side: str, seconds: float) -> int:
    return spread(count=3, side=side, seconds=seconds)


@workflow
def chosen(side: str, seconds: float) -> int:
    first = step(value=0, name="first", side=side, seconds=seconds)
    pause = sleep(timedelta(milliseconds=300))
    picked = (
        conditional("sign")
        .if_(first > 0)
        .then(step(value=first, name="positive", side=side, seconds=seconds))
        .else_()
        .then(step(value=first, name="negative", side=side, seconds=seconds))
    )
    pause >> picked
    return picked


@task(retries=2)
def flaky(side: str, seconds: float) -> int:
    """Fails once by the user's own word; a lost attempt does not count."""
    note(side, "start", "flaky")
    time.sleep(seconds)
    failed = Path(f"{side}.failed")
    if not failed.exists():
        failed.touch()
        note(side, "fail", "flaky")
        raise FlyteRecoverableException("no luck at first")
    note(side, "end", "flaky")
    return 7


@workflow
def retried(side: str, seconds: float) -> int:
    return flaky(side=side, seconds=seconds)


@task(retries=1)
def broken(side: str, seconds: float) -> int:
    note(side, "start", "broken")
    time.sleep(seconds)
    note(side, "fail", "broken")
    if seconds >= 0:
        raise FlyteRecoverableException("no luck at all")
    return 1


@workflow
def failing(side: str, seconds: float) -> int:
    return broken(side=side, seconds=seconds)


@task(cache=True, cache_version="1", cache_serialize=True, cache_ignore_input_vars=("side", "seconds"))
def remembered(key: str, side: str, seconds: float) -> int:
    work(side, "remembered", seconds)
    return len(key)


@workflow
def cached(key: str, side: str, seconds: float) -> int:
    return remembered(key=key, side=side, seconds=seconds)


@task
def endless(name: str, side: str) -> int:
    """Leaves a child that has a session of its own."""
    import subprocess

    child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    note(side, "start", name)
    note(side, f"child{child.pid}", name)
    time.sleep(1000)
    return 1


@workflow
def lasting(side: str, seconds: float) -> int:
    return endless(name="lasting", side=side)


lasting_plan = LaunchPlan.get_or_create(lasting, "mix.lasting_plan")


@workflow
def aborted(side: str, seconds: float) -> int:
    own = endless(name="own", side=side)
    child = lasting_plan(side=side, seconds=seconds)
    return total(values=[own, child], side=side, seconds=seconds)
