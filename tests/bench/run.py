"""`make bench`: what the platform does on this machine, beside its goals.

Each measure is a function; a run takes a few minutes.  The goals are meant for two cores that nothing else uses: look
at the load that is printed first.  `python tests/bench/run.py --only chain,fan_out` measures some of them.
"""

from __future__ import annotations

import argparse
import os
import platform as machine
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import bus
import caching
import control_plane
import data_plane
import engine_only
import growth
import journal
import notifying
import scheduling
import uvloop
from platform_under_test import Platform, Usage
from shapes import CHAIN, CHILDREN, ECHO_ITEMS, ECHOES, FAN, ITEMS

from aerodrome.stdlib import logger
from aerodrome.stdlib.config import LoggerConfig

HELLOS = 30
BURST = 100
ABORTED = 1_000


@dataclass(frozen=True)
class Figure:
    """A line of the table."""

    what: str
    value: float
    unit: str
    at_most: float | None = None
    at_least: float | None = None
    note: str = ""

    @property
    def goal(self) -> str:
        if self.at_most is not None:
            return f"<= {self.at_most:g} {self.unit}"
        if self.at_least is not None:
            return f">= {self.at_least:,g} {self.unit}"
        return ""

    @property
    def verdict(self) -> str:
        if self.at_most is not None:
            return "met" if self.value <= self.at_most else "MISSED"
        if self.at_least is not None:
            return "met" if self.value >= self.at_least else "MISSED"
        return ""

    @property
    def shown(self) -> str:
        digits = 0 if self.value >= 100 else 1 if self.value >= 10 else 3
        return f"{self.value:,.{digits}f} {self.unit}"


def cold_start(directory: Path) -> Iterator[Figure]:
    """Three first starts, each on an empty directory."""
    taken = []
    for number in range(3):
        data_dir = directory / f"cold{number}"
        fresh = Platform(data_dir)
        taken.append(fresh.start())
        fresh.stop()
        shutil.rmtree(data_dir)
    yield Figure(
        "first start to ready, initdb and migrations included", statistics.median(taken), "s", at_most=3.0,
        note=_spread(taken),
    )  # fmt: skip


def first_execution(platform: Platform) -> Iterator[Figure]:
    """A start on a directory that knows the workflow, and one execution at once."""
    platform.stop()
    again = platform.start()
    yield Figure("start on an existing directory", again, "s")
    yield Figure("first execution after a start", platform.run("hello_world"), "s")


def hello_world(platform: Platform) -> Iterator[Figure]:
    """One after the other, from submitting to the poll that sees the end."""
    taken = [platform.run("hello_world") for _ in range(HELLOS)]
    yield Figure("hello world, submit to done", statistics.median(taken), "s", at_most=0.3, note=_spread(taken))


def idle(platform: Platform) -> Iterator[Figure]:
    """After work: what stays."""
    yield Figure("memory while idle (PSS, everything)", platform.pss_mb(), "MB", at_most=350)


def chain(platform: Platform) -> Iterator[Figure]:
    """What each further task of a chain adds to a workflow of one."""
    one = statistics.median(platform.run("hello_world") for _ in range(5))
    with platform.watched() as usage:
        taken = [(platform.run("chain") - one) / (CHAIN - 1) * 1000 for _ in range(3)]
    yield Figure(f"chain of {CHAIN}, added per task", statistics.median(taken), "ms", at_most=40, note=_spread(taken))
    yield _cpu("chained task", usage, 3 * CHAIN)


def fan_out(platform: Platform) -> Iterator[Figure]:
    """Independent tasks and one that reads them all."""
    with platform.watched() as usage:
        taken = [platform.run("fan_out") for _ in range(3)]
    yield Figure(f"{FAN} independent tasks and a join", statistics.median(taken), "s", at_most=4.5, note=_spread(taken))
    yield _cpu("task", usage, 3 * (FAN + 1))
    yield Figure("  peak memory meanwhile (PSS)", usage.peak_mb, "MB")


def burst(platform: Platform) -> Iterator[Figure]:
    """Many executions of one task, submitted at once, until all have succeeded."""
    rates = []
    with platform.watched() as usage:
        for _ in range(3):
            begun = time.perf_counter()
            platform.wait_all(platform.submit("hello_world", BURST))
            rates.append(BURST / (time.perf_counter() - begun))
    yield Figure(
        f"{BURST} executions of one task at once", statistics.median(rates), "/s", at_least=35, note=_spread(rates)
    )
    yield _cpu("execution", usage, 3 * BURST)
    yield Figure("  peak memory meanwhile (PSS)", usage.peak_mb, "MB")


def cache_hit(platform: Platform) -> Iterator[Figure]:
    """Each node of a chain answered from the cache: its inputs, its look-up, its outputs, its journal."""
    taken = caching.measure(platform).per_hit
    yield Figure(
        f"cache hit, in a chain of {caching.HITS}", statistics.median(taken), "ms", at_most=15, note=_spread(taken)
    )


def loop_lag(platform: Platform) -> Iterator[Figure]:
    """Over everything since the start that was measured before this."""
    yield Figure("loop lag, maximum", platform.loop_lag_max_seconds() * 1000, "ms", at_most=100)


def echoes(platform: Platform) -> Iterator[Figure]:
    """A graph without any work in it, every event of every node persisted."""
    workflow = data_plane.register_echoes(platform, ECHOES)
    with platform.watched() as usage:
        taken = data_plane.run(platform, workflow, data_plane.one())
    yield Figure(f"fan-out of {ECHOES:,} echo tasks", ECHOES / taken, "nodes/s", at_least=1_000, note=f"{taken:.1f} s")
    yield _cpu("echoed node", usage, ECHOES)


def abort(platform: Platform) -> Iterator[Figure]:
    """Nodes that are running, one request."""
    workflow = data_plane.register_sleepers(platform, ABORTED)
    taken = [data_plane.abort(platform, workflow, ABORTED) for _ in range(3)]
    yield Figure(f"abort of {ABORTED:,} running nodes", statistics.median(taken), "s", at_most=5, note=_spread(taken))


def recovery(platform: Platform) -> Iterator[Figure]:
    """All but one node succeeded."""
    taken = data_plane.recover(platform, data_plane.register_flawed(platform, ECHOES))
    yield Figure(f"recovery of {ECHOES:,} nodes, until the failed one runs", taken, "s", at_most=10)


def children(platform: Platform) -> Iterator[Figure]:
    """Launch plans that one execution starts, and those inside each other; a tenth first, to see the growth."""
    child = data_plane.register_echoes(platform, 1)
    for count in (CHILDREN // 10, CHILDREN):
        workflow = data_plane.register_parent(platform, child, count)
        with platform.watched() as usage:
            taken = data_plane.run(platform, workflow, data_plane.one())
        yield Figure(f"{count:,} launch plans of one execution", taken, "s")
        yield _cpu("child execution", usage, count)
        yield Figure("  peak memory meanwhile (PSS)", usage.peak_mb, "MB")
    nest = data_plane.register_nest(platform, child, CHILDREN)
    for depth in (CHILDREN // 10, CHILDREN):
        with platform.watched() as usage:
            taken = data_plane.run(platform, nest[depth - 1], data_plane.one())
        yield Figure(f"launch plans nested {depth:,} deep", taken, "s")
        yield Figure("  peak memory meanwhile (PSS)", usage.peak_mb, "MB")


def map_of_echoes(platform: Platform) -> Iterator[Figure]:
    """The largest map that is meant to be usual, without any work in its items."""
    workflow = data_plane.register_map(platform)
    data_plane.run(platform, workflow, data_plane.many(10))
    with platform.watched() as usage:
        taken = data_plane.run(platform, workflow, data_plane.many(ECHO_ITEMS))
    yield Figure(f"map of {ECHO_ITEMS:,} echo tasks", taken, "s", at_most=300)
    yield _cpu("echoed item", usage, ECHO_ITEMS)
    yield Figure("  peak memory meanwhile (PSS)", usage.peak_mb, "MB", at_most=1_000)


def map_of_tasks(platform: Platform) -> Iterator[Figure]:
    """What each further item of a map of Python functions adds."""
    one = statistics.median(
        data_plane.run(platform, "workflows.mapped", data_plane.many(1, name="values")) for _ in range(5)
    )
    with platform.watched() as usage:
        taken = data_plane.run(platform, "workflows.mapped", data_plane.many(ITEMS, name="values"))
    yield Figure(
        f"map of {ITEMS:,} Python tasks, added per item", (taken - one) / (ITEMS - 1) * 1000, "ms", at_most=20,
        note=f"{one:.2f} s for one",
    )  # fmt: skip
    yield _cpu("mapped item", usage, ITEMS)


def engine() -> Iterator[Figure]:
    """No IO: bindings, branches, retries."""
    figures = engine_only.measure()
    yield Figure(
        f"engine only, fan-out of {figures.nodes:,} nodes", figures.per_second, "transitions/s", at_least=50_000
    )


def journaling() -> Iterator[Figure]:
    """Through Append over gRPC from another process, folded, fsync and synchronous_commit on."""
    logger.configure(LoggerConfig(level=3))
    figures = uvloop.run(journal.measure())
    yield Figure(
        f"journal through Append, {figures['executions']} executions", figures["transitions_per_second"],
        "transitions/s", at_least=8_000,
        note=f"append p50 {figures['append_p50_ms']:g} ms, p99 {figures['append_p99_ms']:g} ms",
    )  # fmt: skip


def messages() -> Iterator[Figure]:
    """Each adapter of the bus, with its real server on this machine."""
    logger.configure(LoggerConfig(level=3))
    for figures in uvloop.run(bus.measure()):
        yield Figure(f"bus on {figures.kind}, published to acknowledged", figures.per_second, "messages/s")
        yield Figure("  from the outbox to its handler", figures.outbox_ms, "ms")


def schedules() -> Iterator[Figure]:
    """All due in the same second, each an execution of a real control plane."""
    logger.configure(LoggerConfig(level=3))
    figures = uvloop.run(scheduling.measure())
    yield Figure(f"schedules fired, {figures.schedules:,} due at once", figures.fired_per_second, "/s")


@dataclass(frozen=True)
class Extent:
    """How much the long measures measure: a run over everything is to take minutes."""

    load_minutes: float = 0.3
    grown: int = 50_000
    grown_dir: Path | None = None


extent = Extent()


def launches() -> Iterator[Figure]:
    """The control plane over gRPC from another process, with nobody to run what is launched."""
    logger.configure(LoggerConfig(level=3))
    load = control_plane.Load(minutes=extent.load_minutes)
    figures = uvloop.run(control_plane.measure(load))
    yield Figure(
        f"registration of a workflow of {control_plane.WIDE_NODES:,} nodes", figures["register_s"], "s", at_most=5,
        note=f"the first one {figures['register_first_s']:.2f} s",
    )  # fmt: skip
    in_flight = control_plane.IN_FLIGHT
    yield Figure(f"CreateExecution, {in_flight} in flight", figures["create_per_second"], "/s", at_least=300)
    yield Figure("  p99 meanwhile", figures["create_p99_ms"], "ms", at_most=250)
    yield Figure(f"GetExecution, {in_flight} in flight", figures["get_per_second"], "/s", at_least=1_500)
    yield Figure(
        f"CreateExecution of one project beside {control_plane.CROWD} in flight of another, p99",
        figures["light_beside_p99_ms"], "ms", at_most=2 * figures["light_alone_p99_ms"],
        note=f"{figures['light_alone_p99_ms']:.1f} ms alone; the other one {figures['crowd_per_second']:.0f}/s",
    )  # fmt: skip
    yield Figure(
        f"memory that {extent.load_minutes:g} minutes of mixed load leave behind", figures["memory_growth_mb"], "MB",
        note=f"{figures['memory_before_mb']:.0f} MB before",
    )  # fmt: skip
    yield Figure(
        "CreateExecution during a sweep, p99", figures["swept_p99_ms"], "ms",
        at_most=figures["paced_alone_p99_ms"] + 100,
        note=f"{figures['paced_alone_p99_ms']:.1f} ms without; it deleted {figures['swept_per_second']:g}/s",
    )  # fmt: skip


def lists() -> Iterator[Figure]:
    """What stock clients ask, on a database that has grown."""
    logger.configure(LoggerConfig(level=3))
    figures = uvloop.run(growth.summary(growth.Size(executions=extent.grown), extent.grown_dir))
    yield Figure(
        f"lists on {extent.grown:,} executions, slowest p95 of {figures['queries']}", figures["slowest_p95_ms"], "ms",
        at_most=growth.GOAL_MS,
        note=f"{figures['slowest']}; {figures['late']} over, {figures['deep']} at page {growth.DEEP_PAGE:,}",
    )  # fmt: skip
    yield Figure("  indexes of a node execution", figures["index_bytes"], "bytes")


def notifications() -> Iterator[Figure]:
    """Ends of executions, from the outbox over the bus to a signed webhook."""
    logger.configure(LoggerConfig(level=3))
    for figures in uvloop.run(notifying.measure()):
        yield Figure(
            f"notification over {figures.kind} bus, outbox to recipient", figures.median_ms, "ms",
            note=f"p95 {figures.p95_ms:.1f} ms",
        )  # fmt: skip
        yield Figure("  of many that end at once, delivered", figures.per_second, "/s")


WITHOUT_PLATFORM: dict[str, Callable[[], Iterator[Figure]]] = {
    "engine": engine,
    "journal": journaling,
    "messages": messages,
    "notifications": notifications,
    "schedules": schedules,
    "launches": launches,
    "lists": lists,
}
ON_PLATFORM: dict[str, Callable[[Platform], Iterator[Figure]]] = {
    "first_execution": first_execution,
    "hello_world": hello_world,
    "idle": idle,
    "chain": chain,
    "fan_out": fan_out,
    "burst": burst,
    "cache_hit": cache_hit,
    "loop_lag": loop_lag,
    "echoes": echoes,
    "abort": abort,
    "recovery": recovery,
    "children": children,
    "map_of_echoes": map_of_echoes,
    "map_of_tasks": map_of_tasks,
}


def main() -> None:
    """Measure and print."""
    every = ["cold_start", *ON_PLATFORM, *WITHOUT_PLATFORM]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(every), help="measures, separated by commas")
    parser.add_argument("--load-minutes", type=float, default=Extent.load_minutes, help="over which memory is watched")
    parser.add_argument("--grown", type=int, default=Extent.grown, help="executions of the database that lists are of")
    parser.add_argument("--grown-dir", type=Path, help="where that database stays, to be used again")
    arguments = parser.parse_args()
    global extent
    extent = Extent(arguments.load_minutes, arguments.grown, arguments.grown_dir)
    wanted = arguments.only.split(",")
    if unknown := set(wanted) - set(every):
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(every)}")
    _print(_about_machine())
    _print(f"{'measure':<56}{'goal':>24}{'measured':>24}  ")
    with tempfile.TemporaryDirectory(prefix="aerodrome-bench-") as name:
        directory = Path(name)
        if "cold_start" in wanted:
            _table(cold_start(directory))
        on_platform = [measure for key, measure in ON_PLATFORM.items() if key in wanted]
        if on_platform:
            _measure(Platform(directory / "data"), on_platform)
    for key, measure in WITHOUT_PLATFORM.items():
        if key in wanted:
            _table(measure())


def _measure(platform: Platform, measures: list[Callable[[Platform], Iterator[Figure]]]) -> None:
    platform.start()
    try:
        platform.register()
        platform.run("hello_world")
        for measure in measures:
            _table(measure(platform))
    finally:
        platform.stop()


def _table(figures: Iterator[Figure]) -> None:
    for figure in figures:
        note = f"({figure.note})" if figure.note else ""
        _print(f"{figure.what:<56}{figure.goal:>24}{figure.shown:>24}  {figure.verdict:<7}{note}".rstrip())


def _cpu(what: str, usage: Usage, count: int) -> Figure:
    parts = {part: seconds / count * 1000 for part, seconds in usage.cpu_seconds.items()}
    shown = ", ".join(f"{part} {each:.1f}" for part, each in parts.items())
    return Figure(f"  CPU per {what}", sum(parts.values()), "ms", note=shown)


def _spread(taken: list[float]) -> str:
    return f"{min(taken):.3g} to {max(taken):.3g} in {len(taken)} runs"


def _about_machine() -> str:
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "?"
    )
    memory = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return (
        f"{len(os.sched_getaffinity(0))} cores ({model}), {memory / 2**20:.1f} GiB, Linux {machine.release()}, "
        f"Python {machine.python_version()}, load {os.getloadavg()[0]:.1f} before the start"
    )


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
