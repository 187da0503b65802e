"""Rounds of chaos: a mix of workflows, a fault at a named point or at a random moment, and an oracle that looks at
everything afterwards.

Every choice follows from a seed that is printed.  `CHAOS_SEED=SEED CHAOS_ROUNDS=200 make chaos ARGS="-k round-17"` runs
one of them again; moments that depend on the machine's speed do not repeat exactly.
"""

from __future__ import annotations

import os
import random
import secrets
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from flyteidl.admin import node_execution_pb2
from flyteidl.core import execution_pb2 as phases

from tests.e2e.instance import wait_until

from . import mix, oracle
from .chores import TERMINAL, Client, register
from .faulted import FaultedInstance, Supervisor
from .mix import KINDS, Launched

SEED = os.environ.get("CHAOS_SEED") or secrets.token_hex(4)
ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "3"))
SECONDS = 0.06
SLOW_SECONDS = 0.5
OVER_SECONDS = 90.0
"""Longest that a round may take, the restarts of a busy machine included."""
AT_ONCE = 5
TERM_SECONDS = 3.0
"""Of leases: now and then something stands still for longer."""
_N = phases.NodeExecution
NODE_TERMINAL = (_N.SUCCEEDED, _N.FAILED, _N.ABORTED, _N.SKIPPED, _N.TIMED_OUT, _N.RECOVERED)


@dataclass(frozen=True)
class Point:
    """A named point of the product."""

    name: str
    most: int
    """Up to which passing a fault is planned: with the kind of workflow that `needs` says, more are sure to come."""
    needs: str = ""


POINTS = (
    Point("execution.committed", 3),
    Point("journal.committed", 12),
    Point("items.committed", 3, "mapped"),
    Point("abort.committed", 1, "aborted"),
    Point("lease.handed-out", 1),
    Point("lease.giving-back", 1),
    Point("lease.given-back", 1),
    Point("attempt.started", 6),
    Point("attempt.judged", 5),
    Point("attempt.finalizing", 5),
    Point("attempt.aborting", 1, "aborted"),
    Point("attempt.aborted", 1, "aborted"),
    Point("dynamic.compiled", 1, "made"),
    Point("dynamic.stored", 1, "made"),
    Point("cache.putting", 1, "cached"),
    Point("cache.put", 1, "cached"),
    Point("reservation.held", 1, "cached"),
    Point("child.created", 1, "nested"),
    Point("pod.recorded", 6),
    Point("pod.running", 6),
    Point("pod.ended", 4),
    Point("process.claimed", 6),
    Point("process.started", 6),
    Point("process.reaped", 5),
    Point("process.ended", 5),
    Point("task.begins", 1),
    Point("task.done", 1),
    Point("task.leaving", 1),
)
FAILING = ("attempt.judged", "attempt.finalizing", "attempt.aborting", "attempt.aborted")
"""Points at which an unexpected error, as of a defect, has to be got over."""
VICTIMS = ("platform", "zygote", "postgres", "task", "all", "everything", "term")
STORAGE = (
    "storage.read 0.1 fail",
    "storage.read 0.05 stall=0.5",
    "storage.read 0.05 cut",
    "storage.write 0.1 fail",
    "storage.write 0.1 late",
    "storage.write 0.1 cut",
    "storage.write 0.05 stall=0.5",
)
SCENARIOS: tuple[Point | str, ...] = (*POINTS, *VICTIMS, *STORAGE)


def scenario(number: int) -> Point | str:
    """Each comes once before any comes again."""
    turn, place = divmod(number, len(SCENARIOS))
    return random.Random(f"{SEED} {turn}").sample(SCENARIOS, len(SCENARIOS))[place]


def _label(number: int) -> str:
    chosen = scenario(number)
    name = chosen.name if isinstance(chosen, Point) else chosen.replace(" ", "-")
    return f"round-{number}-{name}"


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultedInstance]:
    base = tmp_path_factory.mktemp("rounds")
    config = base / "config.yaml"
    term = f"{TERM_SECONDS:g}s"
    config.write_text(f"propeller: {{runtime: {{slots: 6, grace: 1s}}}}\njournal: {{session-term: {term}}}\n")
    instance = FaultedInstance(base / "data", base / "home", base / "plans", arguments=["--config", str(config)])
    try:
        instance.up()
        register(instance, base / "project", "mix.py")
        yield instance
        instance.plan([])
        instance.down()
        wait_until("no process of the instance is left", lambda: not instance.processes(), seconds=20)
    finally:
        instance.kill_all()


@pytest.fixture
def client(platform: FaultedInstance) -> Iterator[Client]:
    platform.plan([])
    if platform.aerodrome("status").returncode != 0:  # an earlier round has left it in pieces
        platform.kill_all()
        platform.up()
    client = Client(platform.endpoint)
    yield client
    client.close()


# The seed must not be in the names: each worker of a run draws its own, and all must agree on what there is to run.
@pytest.mark.parametrize("number", range(ROUNDS), ids=lambda number: f"round-{number}")
def test_whatever_dies_the_invariants_hold(
    number: int, platform: FaultedInstance, client: Client, tmp_path: Path
) -> None:
    rng = random.Random(f"{SEED} round {number}")
    chosen = scenario(number)
    needed = chosen.needs if isinstance(chosen, Point) else ""
    kinds = rng.sample(sorted(KINDS), AT_ONCE)
    if needed and needed not in kinds:
        kinds[0] = needed
    if "cached" in kinds:
        kinds.append("cached")
    patience = rng.uniform(0.1, 1.5) if rng.random() < 0.8 else TERM_SECONDS + 1.0
    kills = rng.random() < 0.5
    fault = _fault(chosen, rng)
    story = (
        f"CHAOS_SEED={SEED} {_label(number)}: {' '.join(kinds)}; {fault}; "
        f"what stands still {'is killed' if kills else 'goes on'} after {patience:.2f} s"
    )
    os.write(1, f"\n{story}\n".encode())

    before = oracle.look(platform)
    if not fault.lines_written:
        platform.plan(fault.plan)
    supervisor = Supervisor(platform, patience=patience, kills=kills)
    launched: list[Launched] = []
    try:
        for index, kind in enumerate(kinds):
            name = f"r{number}{kind}{index}{secrets.token_hex(3)}"
            side = tmp_path / f"side{index}"
            launched.append(mix.launch(client, KINDS[kind], name, side, key=f"{number:08}"[-8:], seconds=fault.seconds))
        with _aborts(platform, launched, rng):
            hit = _strike(platform, fault, launched, rng)
            unfinished = _wait(client, launched)
        happened = platform.fired(0) if fault.plan else hit
        platform.plan([])
        wrong = unfinished or oracle.check(platform, client, launched, before)
    finally:
        supervisor.close()
    if not happened:
        wrong.append("the fault did not happen")
    if wrong:
        os.write(1, "\n".join(["", *wrong, ""]).encode())
    assert not wrong, "\n".join([story, f"restarts: {supervisor.restarts}", *wrong])


@dataclass(frozen=True)
class Fault:
    """What is done to the platform."""

    plan: tuple[str, ...] = ()
    lines_written: int = 0
    """So many lines have tasks written when it begins; 0: before anything is launched."""
    delay: float = 0.0
    """Seconds from then on."""
    victim: str = ""
    seconds: float = SECONDS
    """How long each task takes."""
    signal: signal.Signals = signal.SIGKILL


def _fault(chosen: Point | str, rng: random.Random) -> Fault:
    action = rng.choices(["kill", "stop", "wait=0.5"], [7, 3, 1])[0]
    line, delay = rng.randint(1, 12), rng.uniform(0, 0.3)
    if isinstance(chosen, Point):
        nth = rng.randint(1, chosen.most)
        if chosen.name in FAILING and rng.random() < 0.3:
            action = "fail"
        if chosen.name.startswith("lease.g"):
            return Fault((f"{chosen.name} {nth} {action}",), line, delay, "term", signal=signal.SIGTERM)
        return Fault((f"{chosen.name} {nth} {action}",), line if chosen.name.startswith("task.") else 0)
    if chosen in STORAGE:
        point, chance, what = chosen.split()
        return Fault((f"{point} 5 {what}", f"{point} {chance}:{rng.randrange(10**6)} {what}"))  # once for sure
    if chosen == "term":
        return Fault((), line, delay, chosen, signal=signal.SIGTERM)
    seconds = SLOW_SECONDS if chosen == "task" else SECONDS  # one has to be found while it runs
    return Fault((), line, delay, chosen, seconds, signal.SIGKILL if action == "kill" else signal.SIGSTOP)


def _strike(platform: FaultedInstance, fault: Fault, launched: Sequence[Launched], rng: random.Random) -> int:
    """Do it once the moment has come; how many processes were hit at once."""
    if not fault.lines_written:
        return 0

    def lines() -> int:
        return sum(len(each.side.lines()) for each in launched)

    wait_until(f"{fault.lines_written} lines", lambda: lines() >= fault.lines_written, every=0.005)
    time.sleep(fault.delay)
    if fault.plan:
        platform.plan(fault.plan)
    hit = 0
    for pid in _victims(platform, fault.victim, rng) if fault.victim else ():
        try:
            os.kill(pid, fault.signal)
            hit += 1
        except ProcessLookupError:
            continue
    return hit


def _victims(platform: FaultedInstance, victim: str, rng: random.Random) -> list[int]:
    found = {
        "platform": lambda: [platform.pid],
        "term": lambda: [platform.pid],
        "zygote": lambda: platform.zygotes,
        "postgres": lambda: [platform.postgres],
        "task": lambda: [rng.choice(wait_until("there is a task", platform.tasks, every=0.005))],
        "all": lambda: [platform.pid, *platform.zygotes, platform.postgres],
        "everything": platform.processes,
    }[victim]()
    rng.shuffle(found)
    return found


@contextmanager
def _aborts(platform: FaultedInstance, launched: Sequence[Launched], rng: random.Random) -> Iterator[None]:
    """Abort, after a while, what would never end by itself."""
    delay = rng.uniform(0.2, 2.5)
    trouble: list[BaseException] = []

    def work() -> None:
        client = Client(platform.endpoint)
        try:
            time.sleep(delay)
            for each in launched:
                if each.kind.name == "aborted":
                    mix.abort(client, each.id)
        except BaseException as error:  # noqa: BLE001  (the test raises it)
            trouble.append(error)
        finally:
            client.close()

    thread = threading.Thread(target=work, name="aborts")
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if trouble:
        raise trouble[0]


def _wait(client: Client, launched: Sequence[Launched]) -> list[str]:
    """Wait until everything is over, and see that nothing that was said is taken back (I2, I15)."""
    said: dict[tuple[str, str], int] = {}
    wrong: list[str] = []
    deadline = time.monotonic() + OVER_SECONDS
    pending = list(launched)
    while pending and time.monotonic() < deadline:
        for each in list(pending):
            phase = client.execution(each.id).closure.phase
            request = node_execution_pb2.NodeExecutionListRequest(workflow_execution_id=each.id, limit=200)
            for node in client.call(client.stub.ListNodeExecutions, request).node_executions:
                key, now = (each.id.name, node.id.node_id), node.closure.phase
                if now != said.get(key, now):
                    wrong.append(f"I15: {key} was in phase {said[key]}, and is in {now}")
                if now in NODE_TERMINAL:
                    said[key] = now
            if phase in TERMINAL:
                pending.remove(each)
        time.sleep(0.1)
    return wrong + [f"I1: {each.id.name} is not over" for each in pending]
