"""SIGKILL at random moments of a running workflow: whatever died, the execution finishes, and what had finished before
is not run again.

Each moment follows from a seed that is printed; `CHAOS_SEED=...` repeats a run.
"""

from __future__ import annotations

import os
import random
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flyteidl.core import execution_pb2 as phases

from tests.e2e.instance import Instance, kill, wait_until, wait_until_dead

from .chores import OUTPUT, Client, Side, check_history, register

SEED = os.environ.get("CHAOS_SEED") or secrets.token_hex(4)
CHORE_SECONDS = 0.12
LATEST_LINE = 9
"""Of the twelve lines that are written: the last chore begins well after it."""
LATEST_DELAY = 0.1


def platform(instance: Instance) -> list[int]:
    return [instance.pid]


def zygote(instance: Instance) -> list[int]:
    return instance.zygotes


def postgres(instance: Instance) -> list[int]:
    return [instance.postgres]


def all_of_them(instance: Instance) -> list[int]:
    return [instance.pid, *instance.zygotes, instance.postgres]


def every_process(instance: Instance) -> list[int]:
    """As if the machine had gone: the tasks too."""
    return instance.processes()


Victims = Callable[[Instance], list[int]]
VICTIMS: tuple[Victims, ...] = (platform, zygote, postgres, all_of_them, every_process)
TASKS_GO_ON = (platform, postgres)
"""After these faults no process of a task is harmed, so nothing has a reason to run twice."""
MOMENTS = [(victims, number) for victims in VICTIMS for number in range(4)]


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    base = tmp_path_factory.mktemp("kills")
    instance = Instance(base / "the data", base / "home")
    try:
        instance.up()
        register(instance, base / "project")
        yield instance
        instance.down()
        wait_until("no process of the instance is left", lambda: not instance.processes(), seconds=20)
    finally:
        instance.kill_all()


@pytest.fixture
def client(instance: Instance) -> Iterator[Client]:
    if instance.aerodrome("status").returncode != 0:  # an earlier test has left it in pieces
        instance.kill_all()
        instance.up()
    client = Client(instance.endpoint)
    yield client
    client.close()


def test_undisturbed_each_chore_runs_once(instance: Instance, client: Client, tmp_path: Path) -> None:
    side = Side(tmp_path / "side")
    name = client.launch(f"undisturbed{secrets.token_hex(4)}", side.path, seconds=CHORE_SECONDS)
    assert client.finish(name).closure.phase == phases.WorkflowExecution.SUCCEEDED
    assert client.output(name) == OUTPUT
    assert set(check_history(client, name, side).values()) == {1}


@pytest.mark.parametrize(
    ("victims", "number"), MOMENTS, ids=[f"{victims.__name__}-{number}" for victims, number in MOMENTS]
)
def test_the_execution_survives_a_kill(
    victims: Victims, number: int, instance: Instance, client: Client, tmp_path: Path
) -> None:
    rng = random.Random(f"{SEED} {victims.__name__} {number}")
    line, delay = rng.randint(0, LATEST_LINE), rng.uniform(0, LATEST_DELAY)
    story = f"CHAOS_SEED={SEED}: {victims.__name__} {delay:.3f} s after line {line}"
    os.write(1, f"{story}\n".encode())
    side = Side(tmp_path / "side")
    name = client.launch(f"kill{secrets.token_hex(6)}", side.path, seconds=CHORE_SECONDS)
    wait_until(f"line {line}", lambda: len(side.lines()) >= line, every=0.002)
    time.sleep(delay)

    finished = client.succeeded(name)
    chosen = victims(instance)
    rng.shuffle(chosen)
    hit = [pid for pid in chosen if kill(pid)]
    seen = [each.name for each in side.lines() if each.what == "end"]
    assert hit, f"{story}: there was nothing to kill"
    assert "f" not in seen, f"{story}: it came too late"
    wait_until_dead(hit)
    if instance.aerodrome("status").returncode != 0:
        instance.up()

    execution = client.finish(name)
    assert execution.closure.phase == phases.WorkflowExecution.SUCCEEDED, (story, execution.closure.error.message)
    assert client.output(name) == OUTPUT
    taken = check_history(client, name, side)
    assert all(count <= 2 for count in taken.values()), f"{story}: one kill, {taken}"
    again = {chore for chore, count in taken.items() if count > 1}
    assert not again & finished, f"{story}: {finished} had finished, {again} ran again"
    if victims in TASKS_GO_ON:
        assert not again, f"{story}: no task was harmed, and {again} ran again"
