"""Map tasks: lists, ratios, retries, timeouts, caches and launch plans."""

import functools
import os
import time
from datetime import timedelta
from pathlib import Path

from flytekit import LaunchPlan, map_task, task, workflow
from flytekit.exceptions.user import FlyteRecoverableException


@task
def square(number: int) -> int:
    return number * number


@workflow
def squares(numbers: list[int]) -> list[int]:
    return map_task(square)(number=numbers)


@task
def scaled(number: int, factor: int) -> int:
    return number * factor


@workflow
def all_scaled(numbers: list[int], factor: int) -> list[int]:
    return map_task(functools.partial(scaled, factor=factor), concurrency=2)(number=numbers)


@task
def measured(text: str) -> str:
    index = int(os.environ[os.environ["BATCH_JOB_ARRAY_INDEX_VAR_NAME"]])
    return f"{index}: {len(text)} of {text[:1]}"


@workflow
def all_measured(texts: list[str]) -> list[str]:
    return map_task(measured)(text=texts)


@task
def picky(number: int, folder: str) -> int:
    """Fails for even numbers while there is no file that allows it; notes each time it runs."""
    with Path(folder, f"{number}.runs").open("a") as notes:
        notes.write("ran\n")
    if number % 2 == 0 and not Path(folder, "allowed").exists():
        raise ValueError(f"{number} is even")
    return number


@workflow
def tolerant(numbers: list[int], folder: str) -> list[int | None]:
    return map_task(functools.partial(picky, folder=folder), min_success_ratio=0.5)(number=numbers)


@workflow
def strict(numbers: list[int], folder: str) -> list[int]:
    return map_task(functools.partial(picky, folder=folder))(number=numbers)


@task(retries=2)
def reluctant(number: int, folder: str) -> int:
    """Succeeds at the attempt of its number."""
    note = Path(folder, f"{number}.attempts")
    earlier = len(note.read_text()) if note.exists() else 0
    note.write_text("x" * (earlier + 1))
    if earlier < number:
        raise FlyteRecoverableException(f"not yet: {earlier}")
    return earlier


@workflow
def patient(numbers: list[int], folder: str) -> list[int]:
    return map_task(functools.partial(reluctant, folder=folder))(number=numbers)


@task(timeout=timedelta(seconds=1))
def slow(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@workflow
def timed(seconds: list[float]) -> list[float]:
    return map_task(slow)(seconds=seconds)


@task
def lasting(number: int, folder: str) -> int:
    Path(folder, f"{number}.pid").write_text(str(os.getpid()))
    while not (Path(folder, "go").exists() or Path(folder, f"{number}.go").exists()):
        time.sleep(0.02)
    with Path(folder, f"{number}.runs").open("a") as notes:
        notes.write("ran\n")
    return number


@workflow
def endless(numbers: list[int], folder: str) -> list[int]:
    return map_task(functools.partial(lasting, folder=folder))(number=numbers)


@task(cache=True, cache_version="1")
def remembered(number: int, folder: str) -> int:
    with Path(folder, f"{number}.runs").open("a") as notes:
        notes.write("ran\n")
    return number


@workflow
def all_remembered(numbers: list[int], folder: str) -> list[int]:
    return map_task(functools.partial(remembered, folder=folder))(number=numbers)


@workflow
def one_square(number: int) -> int:
    return square(number=number)


square_plan = LaunchPlan.get_or_create(one_square, name="maps.square_plan")


@workflow
def launched(numbers: list[int]) -> list[int]:
    return map_task(square_plan)(number=numbers)


@task
def pair(left: int, right: int) -> int:
    return left + right


@workflow
def sums(lefts: list[int], rights: list[int]) -> list[int]:
    return map_task(pair)(left=lefts, right=rights)
