"""Every plain type that an interface may have, in and out of a task."""

import enum
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Optional, Union

from flytekit import LaunchPlan, task, workflow


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Point:
    x: int
    y: float
    tags: list[str]


class Echo(NamedTuple):
    integer: int
    number: float
    text: str
    flag: bool
    moment: datetime
    span: timedelta
    numbers: list[int]
    counts: dict[str, int]
    point: Point
    color: Color
    maybe: Optional[int]
    either: Union[int, str]


class Summary(NamedTuple):
    total: int
    label: str


@task
def echo(
    integer: int,
    number: float,
    text: str,
    flag: bool,
    moment: datetime,
    span: timedelta,
    numbers: list[int],
    counts: dict[str, int],
    point: Point,
    color: Color,
    maybe: Optional[int],
    either: Union[int, str],
) -> Echo:
    return Echo(
        integer + 1,
        number * 2,
        text + "!",
        not flag,
        moment + timedelta(days=1),
        span * 2,
        [*numbers, 0],
        {**counts, "more": 1},
        Point(point.x + 1, point.y, [*point.tags, "seen"]),
        color,
        maybe,
        either,
    )


@workflow
def everything(
    integer: int = 1,
    number: float = 2.5,
    text: str = "x",
    flag: bool = True,
    moment: datetime = datetime(2024, 2, 29, 12, 30, tzinfo=UTC),
    span: timedelta = timedelta(hours=1),
    numbers: list[int] = [1, 2],  # noqa: B006
    counts: dict[str, int] = {"a": 1},  # noqa: B006
    point: Point = Point(1, 2.5, ["t"]),  # noqa: B008
    color: Color = Color.RED,
    maybe: Optional[int] = None,
    either: Union[int, str] = "u",
) -> Echo:
    return echo(
        integer=integer,
        number=number,
        text=text,
        flag=flag,
        moment=moment,
        span=span,
        numbers=numbers,
        counts=counts,
        point=point,
        color=color,
        maybe=maybe,
        either=either,
    )


@task
def summarize(numbers: list[int], label: str) -> Summary:
    print(f"{len(numbers)} numbers are summed up")
    return Summary(sum(numbers), label.upper())


@workflow
def summary(numbers: list[int], label: str = "all") -> Summary:
    return summarize(numbers=numbers, label=label)


summary_of_three = LaunchPlan.get_or_create(
    summary, name="kinds.summary_of_three", default_inputs={"numbers": [1, 2, 3]}, fixed_inputs={"label": "fixed"}
)
