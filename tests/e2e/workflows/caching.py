"""Cached tasks in every place where tasks can be; each run of one leaves a line in the file `marker`."""

import functools
import time
from pathlib import Path

from flytekit import LaunchPlan, conditional, dynamic, map_task, task, workflow
from flytekit.types.file import FlyteFile


def note(marker: str, what: str) -> None:
    with Path(marker).open("a") as file:
        file.write(f"{what}\n")


@task(cache=True, cache_version="1", cache_ignore_input_vars=("marker",))
def double(x: int, marker: str) -> int:
    note(marker, f"double {x}")
    return 2 * x


@task(cache=True, cache_version="1", cache_ignore_input_vars=("marker",))
def pair(x: int, y: str, marker: str) -> tuple[int, str]:
    note(marker, f"pair {x} {y}")
    return x, y


@task(cache=True, cache_version="1", cache_ignore_input_vars=("marker",))
def write(text: str, marker: str) -> FlyteFile:
    note(marker, f"write {text}")
    path = Path("written.txt")
    path.write_text(text)
    return FlyteFile(str(path))


@task(cache=True, cache_version="1", cache_serialize=True, cache_ignore_input_vars=("marker", "seconds"))
def slowly(x: int, seconds: float, marker: str) -> int:
    note(marker, f"slowly {x}")
    time.sleep(seconds)
    return x + 1


@task(cache=True, cache_version="1", cache_serialize=True, cache_ignore_input_vars=("marker",))
def fail_once(x: int, marker: str) -> int:
    note(marker, f"fail {x}")
    if Path(marker).read_text().count("fail") == 1:
        raise ValueError("the first run fails")
    return x


@dynamic(cache=True, cache_version="1", cache_ignore_input_vars=("marker",))
def make(x: int, marker: str) -> int:
    note(marker, f"make {x}")
    return double(x=x, marker=marker)


@workflow
def once(x: int, marker: str) -> int:
    return double(x=x, marker=marker)


@workflow
def once_newer(x: int, marker: str) -> int:
    return double(x=x, marker=marker).with_overrides(cache=True, cache_version="2")


@workflow
def paired(x: int, y: str, marker: str) -> tuple[int, str]:
    return pair(x=x, y=y, marker=marker)


@workflow
def nested(x: int, marker: str) -> int:
    return once(x=x, marker=marker)


@workflow
def chosen(x: int, marker: str) -> int:
    return conditional("sign").if_(x > 0).then(double(x=x, marker=marker)).else_().then(double(x=0, marker=marker))


launch_once = LaunchPlan.get_or_create(once, name="caching.launch_once")


@workflow
def launched(x: int, marker: str) -> int:
    return launch_once(x=x, marker=marker)


@workflow
def made(x: int, marker: str) -> int:
    return make(x=x, marker=marker)


@workflow
def mapped(xs: list[int], marker: str) -> list[int]:
    return map_task(functools.partial(double, marker=marker))(x=xs)


@workflow
def written(text: str, marker: str) -> FlyteFile:
    return write(text=text, marker=marker)


@workflow
def alone(x: int, seconds: float, marker: str) -> int:
    return slowly(x=x, seconds=seconds, marker=marker)


@workflow
def failing(x: int, marker: str) -> int:
    return fail_once(x=x, marker=marker)
