"""What the benchmark runs: tasks that do next to nothing, so that what is measured is the platform."""

from flytekit import map_task, task, workflow
from shapes import CHAIN, FAN


@task
def hello(name: str) -> str:
    return f"Hello, {name}"


@task
def inc(value: int) -> int:
    return value + 1


@task
def join(values: list[int]) -> int:
    return sum(values)


@workflow
def hello_world(name: str = "world") -> str:
    return hello(name=name)


@workflow
def chain(value: int = 0) -> int:
    for _ in range(CHAIN):
        value = inc(value=value)
    return value


@workflow
def fan_out(value: int = 0) -> int:
    return join(values=[inc(value=value) for _ in range(FAN)])


@workflow
def mapped(values: list[int]) -> list[int]:
    return map_task(inc)(value=values)
