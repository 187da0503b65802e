"""What a client may want to look at: nodes inside nodes, decks, gates, and a failure that heals."""

from datetime import timedelta
from pathlib import Path

from flytekit import Deck, LaunchPlan, approve, conditional, dynamic, map_task, task, wait_for_input, workflow


@task
def double(n: int) -> int:
    return 2 * n


@task(enable_deck=True)
def shown(n: int) -> int:
    Deck("numbers", f"<p>the number {n}</p>")
    return n


@workflow
def inner(n: int) -> int:
    return double(n=double(n=n))


inner_plan = LaunchPlan.get_or_create(inner, "surface.inner_plan", default_inputs={"n": 5})


@dynamic
def spread(n: int) -> int:
    return double(n=inner(n=n))


@workflow
def nested(n: int, numbers: list[int]) -> tuple[int, int, int, int, list[int]]:
    chosen = conditional("size").if_(n > 10).then(double(n=n)).else_().then(shown(n=n))
    return inner(n=n), spread(n=n), inner_plan(n=n), chosen, map_task(double)(n=numbers)


@task
def heal(n: int, marker: str) -> int:
    if not Path(marker).exists():
        raise ValueError(f"nothing at {marker}")
    return n


@workflow
def fragile(n: int, marker: str) -> int:
    return heal(n=double(n=n), marker=marker)


@workflow
def gated(n: int) -> int:
    number = wait_for_input("number", timeout=timedelta(minutes=5), expected_type=int)
    return double(n=approve(number, "go", timeout=timedelta(minutes=5)))


@task
def endless(n: int) -> int:
    import time

    time.sleep(300)
    return n


@workflow
def unending(n: int) -> int:
    return endless(n=n)
