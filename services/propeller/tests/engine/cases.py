"""Cases for the engine as a model: a workflow, what becomes of everything in it, and where processes die.

A case is one history: an execution from its beginning to its end, with none, one or several processes that die on the
way.  There are two depths.

- *Engine*: the engine and its own record.  The journal is one of plain values (`kept.Journal`), in which a node's state
  is what the transcript writes down in production, and from which the transcript reads what `Engine.restore` is given.
  Every invariant that an engine and its record decide is checked (`invariants`), and that the history comes to the same
  as without restarts.  A history that begins as another one does goes on from where they part.
- *Whole*: the same histories, each from its beginning, through the messages of the journal, the control plane's own
  decoding and folding, its rows, and the snapshot that it hands to the next holder.  Beyond the above: which references
  are shown, items shown as nodes, and that the rows are the fold of the messages.

With *both*, histories are tried at engine depth and a sample of them at whole depth too, and both have to come to the
same nodes, attempts and items.

As a program: `python cases.py --cases 500000 --workers 2` runs many, and says how many a second.  A case that breaks an
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

from drawn import Bounds, Temper, draw_closure, shapes
from invariants import check, outcome, same
from journalled import ControlPlane
from kept import Journal
from simulated import Broken, Course, Fault, Plan, World

from aerodrome.propeller.engine.budget import Limits, RetryPolicy

ENGINE, WHOLE, BOTH = "engine", "whole", "both"
_VARIATIONS = 8
"""Executions that share a workflow: drawing one costs as much as running several."""
_DEATHS = 5
"""At how many of its first appends an execution is tried with a process that dies there."""
_SEEDS_PER_SHAPES = 256
"""Seeds that share what their dynamic tasks make."""
_SAMPLE = 20
"""Of how many histories at engine depth one is tried at whole depth too."""


@dataclass
class Tally:
    """What was run."""

    cases: int = 0
    whole: int = 0
    """Of the cases, those at whole depth."""
    restarts: int = 0
    transitions: int = 0
    """How many were appended; what histories have in common at engine depth counts once."""

    def add(self, world: World) -> None:
        self.cases += 1
        self.whole += isinstance(world.plane, ControlPlane)
        self.restarts += world.restarts
        self.transitions += world.transitions

    def join(self, other: Tally) -> None:
        self.cases += other.cases
        self.whole += other.whole
        self.restarts += other.restarts
        self.transitions += other.transitions


def run(seed: int, depth: str = BOTH) -> Tally:
    """The cases of a seed; raises Broken naming the seed."""
    tally = Tally()
    try:
        _KINDS[seed % len(_KINDS)](_Run(seed, depth, tally))
    except Broken as error:
        raise Broken(f"seed {seed}: {error}") from error
    except Exception as error:
        raise Broken(f"seed {seed}: {error!r}") from error
    return tally


class _Run:
    """The cases of one seed."""

    def __init__(self, seed: int, depth: str, tally: Tally) -> None:
        self.rng = random.Random(seed)
        self.sample = random.Random(seed)
        self.temper = Temper(failures=self.sample.choice((0.15, 0.15, 0.4)))
        self.seed = seed
        self.depth = depth
        self.tally = tally
        self.executions = 0

    def execution(self, course: Course, *, same_end: bool | None, variations: int = _VARIATIONS) -> None:
        """Some executions of a random workflow, with and without processes that die.

        `same_end` says whether restarts change nothing (True), nothing but what was not awaited (False), or what they
        like that is legal (None).
        """
        closure = draw_closure(self.rng, course.bounds)
        made = shapes(self.seed // _SEEDS_PER_SHAPES, course.bounds)
        for _ in range(variations):
            own = self.seed * 1_000 + self.executions
            self.executions += 1
            item_nodes = self.rng.random() < 0.3
            world = World(own, closure, course, made, self._plane(), item_nodes=item_nodes)
            self._histories(world, same_end)

    def _plane(self) -> Journal | ControlPlane:
        return ControlPlane() if self.depth == WHOLE else Journal()

    def _histories(self, calm: World, same_end: bool | None) -> None:
        rng = self.rng
        beginning = calm.again(calm.plane)
        plan = Plan(random.Random(rng.getrandbits(32)), _DEATHS)
        seed = rng.getrandbits(32)
        calm.drive(seed, plan=plan)
        self._over(calm)
        expected = outcome(calm, whole=same_end) if same_end is not None else None
        if self.executions % _VARIATIONS == 1:
            try:
                calm.plane.check_fold()
            except AssertionError as error:
                raise Broken(str(error)) from error
        self._compare(calm, beginning, seed, [])
        for history in plan.histories:
            faults = [Fault.drawn(rng, rng.randrange(8)) for _ in range(rng.choice((0, 0, 0, 1, 2)))]
            shaken = history.world
            if shaken is None:
                shaken = beginning.again(self._plane())
                shaken.drive(seed, [history.fault, *faults])
            else:
                shaken.go_on(history.fault, faults)
            self._over(shaken)
            faults.insert(0, history.fault)
            if expected is not None:
                found = outcome(shaken, whole=same_end is True)
                if found != expected:
                    names = sorted(
                        name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)
                    )
                    told = [f"{name}: {expected.get(name)} became {found.get(name)}" for name in names]
                    raise Broken(f"{faults} change what it comes to: {told}")
            self._compare(shaken, beginning, seed, faults)

    def _over(self, world: World) -> None:
        check(world)
        self.tally.add(world)

    def _compare(self, world: World, beginning: World, seed: int, faults: list[Fault]) -> None:
        """Try a sample of the histories at whole depth too."""
        if self.depth != BOTH or self.sample.randrange(_SAMPLE):
            return
        whole = beginning.again(ControlPlane())
        whole.drive(seed, faults)
        self._over(whole)
        differences = same(world, whole)
        if differences:
            raise Broken(f"{faults} comes to something else by the engine's own record: {differences}")


def _punctual(this: _Run) -> None:
    """Whatever fails at once, times out or is aborted: with the same instants, restarts change nothing at all."""
    rng = this.rng
    arrays = rng.random() < 0.7
    retry = RetryPolicy() if arrays else RetryPolicy(backoff=rng.choice([0, 3]))
    limits = Limits(retry=retry, ignore_retry_cause=rng.random() < 0.1)
    bounds = Bounds(item_timeouts=False, arrays=arrays)
    course = Course(bounds, this.temper, limits, abort_after=None)
    this.execution(course, same_end=True)
    if rng.random() < 0.3:
        this.execution(replace(course, abort_after=rng.randrange(40)), same_end=None, variations=3)


def _confluent(this: _Run) -> None:
    """Where failures end nothing else, nothing depends on the order of what happens nor on how long restarts take."""
    rng = this.rng
    parallelism = rng.choice([0, 0, 1, 2, 5])
    bounds = Bounds(fail_fast=False, timeouts=not parallelism, item_timeouts=not parallelism)
    limits = Limits(retry=RetryPolicy(backoff=rng.choice([0, 0, 2])))
    this.execution(Course(bounds, this.temper, limits, parallelism, punctual=False), same_end=False)


def _wild(this: _Run) -> None:
    """Everything at once, aborts that the process does not know of yet among it: whatever comes of it is legal."""
    rng = this.rng
    limits = Limits(
        max_system_failures=rng.choice([0, 1, 3]),
        ignore_retry_cause=rng.random() < 0.2,
        default_execution_deadline=rng.choice([0, 0, 0, 6]),
        default_active_deadline=rng.choice([0, 0, 0, 9]),
        retry=RetryPolicy(backoff=rng.choice([0, 0, 2])),
    )
    temper = Temper(failures=rng.choice([0.05, 0.3]), hangs=rng.choice([0.0, 0.2]), dynamic=rng.choice([0.1, 0.4]))
    course = Course(Bounds(), temper, limits, rng.choice([0, 0, 1, 3]), punctual=False)
    for _ in range(2):
        if rng.random() < 0.7:
            course = replace(course, abort_after=rng.randrange(60), abort_heard_after=rng.choice([0, 0, 1, 5]))
        this.execution(course, same_end=None, variations=4)


_KINDS: tuple[Callable[[_Run], None], ...] = (_punctual, _confluent, _wild)


@dataclass(frozen=True)
class _Told:
    """What a worker says of a seed."""

    tally: Tally | None
    broken: str
    cpu: float
    """Seconds of processor time."""


def _guarded(asked: tuple[int, str]) -> _Told:
    before = time.process_time()
    try:
        return _Told(run(*asked), "", time.process_time() - before)
    except Broken as error:
        return _Told(None, str(error), time.process_time() - before)


def main() -> int:
    """Run cases until there were enough; 1 if an invariant did not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=200_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--depth", choices=(ENGINE, WHOLE, BOTH), default=BOTH)
    parser.add_argument("--seed", type=int, default=int(time.time()) * 1_000, help="the first one")
    parser.add_argument("--only", type=int, help="run the cases of this seed, in this process")
    asked = parser.parse_args()
    if asked.only is not None:
        sys.stdout.write(f"{run(asked.only, asked.depth)}\n")
        return 0
    total, broken, cpu, begun = Tally(), 0, 0.0, time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(asked.workers) as pool:
        seeds = ((seed, asked.depth) for seed in range(asked.seed, asked.seed + asked.cases))
        try:
            for told in pool.imap_unordered(_guarded, seeds, chunksize=8):
                cpu += told.cpu
                if told.tally is None:
                    broken += 1
                    sys.stdout.write(f"{told.broken}\n")
                    sys.stdout.flush()
                    continue
                total.join(told.tally)
                if total.cases >= asked.cases:
                    break
        except KeyboardInterrupt:
            sys.stdout.write("interrupted\n")
        pool.terminate()
    seconds = time.perf_counter() - begun
    sys.stdout.write(
        f"{total.cases} cases ({total.whole} of them at whole depth) from seed {asked.seed} in {seconds:.1f} s: "
        f"{total.cases / seconds:.0f} a second, {1_000 * cpu / max(total.cases, 1):.2f} ms of processor time each; "
        f"{total.restarts} restarts, {total.transitions} transitions, {broken} broken\n"
    )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
