"""Cases for the engine as a model: a workflow, what becomes of everything in it, and where processes die.

As a program: `python cases.py --cases 200000 --workers 2` runs many, and says how many a second.  A case that breaks an
invariant is named by its seed, and `--only SEED` runs it again.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from drawn import Bounds, Temper, draw_closure
from journalled import ControlPlane
from simulated import Broken, Course, Fault, World, outcome

from aerodrome.propeller.engine.budget import Limits, RetryPolicy

_VARIATIONS = 8
"""Cases that share a workflow: drawing one costs as much as running it."""


@dataclass
class Tally:
    """What was run."""

    cases: int = 0
    restarts: int = 0
    transitions: int = 0

    def add(self, world: World) -> None:
        self.cases += 1
        self.restarts += world.restarts
        self.transitions += world.transitions


def run(seed: int) -> Tally:
    """The cases of a seed; raises Broken naming the seed."""
    tally = Tally()
    try:
        _KINDS[seed % len(_KINDS)](random.Random(seed), seed, tally)
    except Broken as error:
        raise Broken(f"seed {seed}: {error}") from error
    except Exception as error:
        raise Broken(f"seed {seed}: {error!r}") from error
    return tally


def _punctual(rng: random.Random, seed: int, tally: Tally) -> None:
    """Whatever fails at once, times out or is aborted: with the same instants, restarts change nothing at all."""
    arrays = rng.random() < 0.7
    retry = RetryPolicy() if arrays else RetryPolicy(backoff=rng.choice([0, 3]))
    limits = Limits(retry=retry, ignore_retry_cause=rng.random() < 0.1)
    bounds = Bounds(item_timeouts=False, arrays=arrays)
    abort = rng.randrange(40) if rng.random() < 0.3 else None
    course = Course(bounds, Temper(), limits, abort_after=None)
    _compare(rng, seed, tally, course, whole=True)
    if abort is not None:
        _wild_one(rng, seed, tally, replace(course, abort_after=abort))


def _confluent(rng: random.Random, seed: int, tally: Tally) -> None:
    """Where failures end nothing else, nothing depends on the order of what happens nor on how long restarts take."""
    parallelism = rng.choice([0, 0, 1, 2, 5])
    bounds = Bounds(fail_fast=False, timeouts=not parallelism, item_timeouts=not parallelism)
    limits = Limits(retry=RetryPolicy(backoff=rng.choice([0, 0, 2])))
    course = Course(bounds, Temper(), limits, parallelism, punctual=False)
    _compare(rng, seed, tally, course, whole=False)


def _compare(rng: random.Random, seed: int, tally: Tally, course: Course, *, whole: bool) -> None:
    closure = draw_closure(rng, course.bounds)
    for variation in range(_VARIATIONS):
        own = seed * _VARIATIONS + variation
        item_nodes = rng.random() < 0.3
        calm = World(own, closure, course, item_nodes=item_nodes)
        calm.drive(rng, [])
        tally.add(calm)
        expected = outcome(calm, whole=whole)
        for faults in ([_fault(rng, calm.appends)], [_fault(rng, 12) for _ in range(rng.randint(2, 4))]):
            shaken = World(own, closure, course, item_nodes=item_nodes, made=calm.made)
            shaken.drive(rng, faults)
            tally.add(shaken)
            found = outcome(shaken, whole=whole)
            if found != expected:
                names = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
                told = [f"{name}: {expected.get(name)} became {found.get(name)}" for name in names]
                raise Broken(f"{faults} change what it comes to: {told}")
        if variation == 0:
            _same_fold(calm)


def _same_fold(world: World) -> None:
    """The rows are the fold of the journal (I8), and so are those of any beginning of it."""
    again = ControlPlane.replayed(world.plane.entries)
    if again.rows().keys() != world.plane.rows().keys():
        raise Broken("the journal gives other nodes than the rows have")
    for name, row in world.plane.rows().items():
        other = again.rows()[name]
        if (row.phase, row.closure, row.metadata, row.engine_state) != (
            other.phase, other.closure, other.metadata, other.engine_state,
        ):  # fmt: skip
            raise Broken(f"the journal gives another row of node {name}")
    if again.saved() != world.plane.saved():
        raise Broken("the journal gives another past than the rows have")


def _wild(rng: random.Random, seed: int, tally: Tally) -> None:
    """Everything at once, aborts that the process does not know of yet among it: whatever comes of it is legal."""
    limits = Limits(
        max_system_failures=rng.choice([0, 1, 3]),
        ignore_retry_cause=rng.random() < 0.2,
        default_execution_deadline=rng.choice([0, 0, 0, 6]),
        default_active_deadline=rng.choice([0, 0, 0, 9]),
        retry=RetryPolicy(backoff=rng.choice([0, 0, 2])),
    )
    temper = Temper(failures=rng.choice([0.05, 0.3]), hangs=rng.choice([0.0, 0.2]), dynamic=rng.choice([0.1, 0.4]))
    course = Course(Bounds(), temper, limits, rng.choice([0, 0, 1, 3]), punctual=False)
    if rng.random() < 0.7:
        course = replace(course, abort_after=rng.randrange(60), abort_heard_after=rng.choice([0, 0, 1, 5]))
    for _ in range(_VARIATIONS):
        _wild_one(rng, seed, tally, course)


def _wild_one(rng: random.Random, seed: int, tally: Tally, course: Course) -> None:
    closure = draw_closure(rng, course.bounds)
    for variation in range(3):
        world = World(seed * 3 + variation, closure, course, item_nodes=rng.random() < 0.3)
        world.drive(rng, [_fault(rng, 12) for _ in range(rng.randint(0, 3))])
        tally.add(world)


def _fault(rng: random.Random, appends: int) -> Fault:
    return Fault(
        append=rng.randrange(max(appends, 1)),
        before=rng.random() < 0.3,
        parts=rng.choice([0, 0, 1, 2, 5]),
        commands=rng.choice([0, 1, 2, 1_000]),
    )


_KINDS: tuple[Callable[[random.Random, int, Tally], None], ...] = (_punctual, _confluent, _wild)


def _guarded(seed: int) -> Tally | str:
    try:
        return run(seed)
    except Broken as error:
        return str(error)


def main() -> int:
    """Run cases until there were enough; 1 if an invariant did not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=200_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=int(time.time()) * 1_000, help="the first one")
    parser.add_argument("--only", type=int, help="run the cases of this seed, in this process")
    asked = parser.parse_args()
    if asked.only is not None:
        sys.stdout.write(f"{run(asked.only)}\n")
        return 0
    total, broken, begun = Tally(), 0, time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(asked.workers) as pool:
        seeds = range(asked.seed, asked.seed + asked.cases)
        try:
            for told in pool.imap_unordered(_guarded, seeds, chunksize=8):
                if isinstance(told, str):
                    broken += 1
                    sys.stdout.write(f"{told}\n")
                    sys.stdout.flush()
                    continue
                total.cases += told.cases
                total.restarts += told.restarts
                total.transitions += told.transitions
                if total.cases >= asked.cases:
                    break
        except KeyboardInterrupt:
            sys.stdout.write("interrupted\n")
        pool.terminate()
    seconds = time.perf_counter() - begun
    sys.stdout.write(
        f"{total.cases} cases from seed {asked.seed} in {seconds:.1f} s: {total.cases / seconds:.0f} a second; "
        f"{total.restarts} restarts, {total.transitions} transitions, {broken} broken\n"
    )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
