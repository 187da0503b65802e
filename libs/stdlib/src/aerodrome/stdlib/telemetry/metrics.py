"""Counters, gauges, histograms and stopwatches with bounded labels.

A metric is asked for by its Prometheus name (`flyte:propeller:all:node:queueing_latency`) and the names of its labels,
as often as one likes: the same name gives the same metric.  Values of labels are bounded in two ways.  Of the label
`wf` the 500 values used most recently are kept; what was counted for an older one is counted for `other`.  And a metric
with `MAX_SERIES` combinations of values counts each further one as `other` in every label.

Every method may be called from any thread.
"""

from __future__ import annotations

import math
import os
import re
import threading
import time
from bisect import bisect_left
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, Self, TypeAlias, TypeVar

from aerodrome.stdlib.errors import InvalidArgument
from aerodrome.stdlib.logger import get_logger

RECENT_LABEL = "wf"
RECENT_VALUES = 500
OTHER = "other"

MAX_SERIES = 5000
"""Combinations of label values of one metric."""

MAX_LABEL_CHARACTERS = 256

LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds in seconds, as the reference's histograms have them."""

QUANTILES = (0.5, 0.9, 0.99)

WINDOW = 512
"""Observations that a stopwatch's quantiles are taken from, the most recent ones."""

Unit: TypeAlias = Literal["ns", "us", "ms", "s", "m", "h"]

_UNIT_SECONDS: Mapping[str, float] = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}

log = get_logger(__name__)

Key: TypeAlias = tuple[str, ...]


class _CounterSeries:
    __slots__ = ("detached", "value")

    def __init__(self) -> None:
        self.value = 0.0
        self.detached = False

    def absorb(self, other: Self) -> None:
        self.value += other.value


class _HistogramSeries:
    __slots__ = ("bounds", "counts", "detached", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        self.detached = False

    def absorb(self, other: Self) -> None:
        self.counts = [mine + its for mine, its in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum


class _SummarySeries:
    __slots__ = ("count", "detached", "recent", "sum")

    def __init__(self) -> None:
        self.count = 0
        self.sum = 0.0
        self.recent: deque[float] = deque(maxlen=WINDOW)
        self.detached = False

    def absorb(self, other: Self) -> None:
        self.count += other.count
        self.sum += other.sum
        self.recent.extend(other.recent)


class _Series(Protocol):
    """The state for one combination of label values."""

    detached: bool
    """It was folded into another one, and nobody reads it any more."""

    def absorb(self, other: Self) -> None: ...


S = TypeVar("S", bound=_Series)


@dataclass(frozen=True, slots=True)
class Sample:
    """The state of one combination of label values, copied."""

    labels: Mapping[str, str]
    value: float = 0.0
    """For counters and gauges."""
    count: int = 0
    sum: float = 0.0
    buckets: tuple[int, ...] = ()
    """Observations per bucket, the last one above all bounds."""
    recent: tuple[float, ...] = ()
    """The most recent observations of a stopwatch."""

    @property
    def quantiles(self) -> tuple[float, ...]:
        """At `QUANTILES`; computed here, since sorting would keep those who count waiting."""
        ordered = sorted(self.recent)
        if not ordered:
            return (math.nan,) * len(QUANTILES)
        return tuple(ordered[min(len(ordered) - 1, math.ceil(q * len(ordered)) - 1)] for q in QUANTILES)


class _Metric(Generic[S]):
    """What all kinds have in common: a name, and a series for each combination of label values."""

    kind: Literal["counter", "gauge", "histogram", "summary"]

    def __init__(
        self, registry: Metrics, name: str, labels: Sequence[str], description: str, make: Callable[[], S]
    ) -> None:
        self.name = name
        self.labels = tuple(labels)
        self.description = description
        self._registry = registry
        self._lock = registry._lock
        self._make = make
        self._series: dict[tuple[str | None, ...], S] = {}
        self._recent_at = self.labels.index(RECENT_LABEL) if RECENT_LABEL in self.labels else -1
        if not self.labels:
            self._series[()] = make()

    def _find(self, values: Mapping[str, str]) -> S:
        """The series of these label values; one that is missing counts as the empty text.  Called under the lock."""
        key = tuple(map(values.get, self.labels))
        found = self._series.get(key)
        if found is not None and len(values) == len(key):
            if self._recent_at >= 0:
                self._registry._touch(str(key[self._recent_at]))
            return found
        return self._find_slowly(values)

    def _find_slowly(self, values: Mapping[str, str]) -> S:
        unknown = values.keys() - set(self.labels)
        if unknown:
            raise InvalidArgument(f"metric {self.name} has no label {', '.join(sorted(unknown))}; it has {self.labels}")
        key = tuple(str(values.get(label, ""))[:MAX_LABEL_CHARACTERS] for label in self.labels)
        found = self._series.get(key)
        if found is None:
            if len(self._series) >= MAX_SERIES:
                key = (OTHER,) * len(self.labels)
                if key not in self._series:
                    log.warning("a metric has too many label values; further ones count as other", metric=self.name)
            found = self._series.get(key)
            if found is None:
                found = self._series[key] = self._make()
        if self._recent_at >= 0:
            self._registry._touch(key[self._recent_at])
        return found

    def _fold(self, value: str) -> None:
        """Count what was counted for this value of the recent label for `other`."""
        for key in [key for key in self._series if key[self._recent_at] == value]:
            gone = self._series.pop(key)
            gone.detached = True
            merged = (*key[: self._recent_at], OTHER, *key[self._recent_at + 1 :])
            into = self._series.get(merged)
            if into is None:
                into = self._series[merged] = self._make()
            into.absorb(gone)

    def samples(self) -> list[Sample]:
        """The state of every series, copied at one moment."""
        with self._lock:
            return [
                self._sample(series, dict(zip(self.labels, map(str, key), strict=True)))
                for key, series in self._series.items()
            ]

    def _sample(self, series: S, labels: Mapping[str, str]) -> Sample:
        raise AssertionError("each kind says what its samples are")


class Counter(_Metric[_CounterSeries]):
    """A number that only grows."""

    kind = "counter"

    def add(self, amount: float = 1, /, **labels: str) -> None:
        """Raises InvalidArgument for a label that the metric does not have."""
        with self._lock:
            self._find(labels).value += amount

    def labelled(self, **labels: str) -> BoundCounter:
        """The counter for fixed label values, for the hottest paths."""
        return BoundCounter(self, labels)

    def value(self, **labels: str) -> float:
        """What was counted so far."""
        with self._lock:
            return self._find(labels).value

    def _sample(self, series: _CounterSeries, labels: Mapping[str, str]) -> Sample:
        return Sample(labels, value=series.value)


class BoundCounter:
    """A counter for fixed label values."""

    __slots__ = ("_counter", "_labels", "_series")

    def __init__(self, counter: Counter, labels: Mapping[str, str]) -> None:
        self._counter = counter
        self._labels = labels
        with counter._lock:
            self._series = counter._find(labels)

    def add(self, amount: float = 1, /) -> None:
        with self._counter._lock:
            if self._series.detached:
                self._series = self._counter._find(self._labels)
            self._series.value += amount


class Gauge(_Metric[_CounterSeries]):
    """A number that goes up and down."""

    kind = "gauge"

    def set(self, value: float, /, **labels: str) -> None:
        with self._lock:
            self._find(labels).value = value

    def add(self, amount: float, /, **labels: str) -> None:
        with self._lock:
            self._find(labels).value += amount

    def value(self, **labels: str) -> float:
        with self._lock:
            return self._find(labels).value

    @contextmanager
    def held(self, **labels: str) -> Iterator[None]:
        """Counts what is under way: one more inside."""
        self.add(1, **labels)
        try:
            yield
        finally:
            self.add(-1, **labels)

    def _sample(self, series: _CounterSeries, labels: Mapping[str, str]) -> Sample:
        return Sample(labels, value=series.value)


class Histogram(_Metric[_HistogramSeries]):
    """How observations are spread over fixed buckets."""

    kind = "histogram"

    def __init__(
        self, registry: Metrics, name: str, labels: Sequence[str], description: str, buckets: Sequence[float]
    ) -> None:
        self.buckets = tuple(sorted(buckets))
        super().__init__(registry, name, labels, description, lambda: _HistogramSeries(self.buckets))

    def observe(self, value: float, /, **labels: str) -> None:
        at = bisect_left(self.buckets, value)
        with self._lock:
            series = self._find(labels)
            series.counts[at] += 1
            series.sum += value

    def labelled(self, **labels: str) -> BoundHistogram:
        """The histogram for fixed label values, for the hottest paths."""
        return BoundHistogram(self, labels)

    def _sample(self, series: _HistogramSeries, labels: Mapping[str, str]) -> Sample:
        return Sample(labels, count=sum(series.counts), sum=series.sum, buckets=tuple(series.counts))


class BoundHistogram:
    """A histogram for fixed label values."""

    __slots__ = ("_histogram", "_labels", "_series")

    def __init__(self, histogram: Histogram, labels: Mapping[str, str]) -> None:
        self._histogram = histogram
        self._labels = labels
        with histogram._lock:
            self._series = histogram._find(labels)

    def observe(self, value: float, /) -> None:
        at = bisect_left(self._histogram.buckets, value)
        with self._histogram._lock:
            if self._series.detached:
                self._series = self._histogram._find(self._labels)
            self._series.counts[at] += 1
            self._series.sum += value


class StopWatch(_Metric[_SummarySeries]):
    """How long something takes: count, sum, and the quantiles of the most recent observations, in the unit of its name.

    The reference's dashboards read it also without its labels, as `<name>_unlabeled_<unit>`.
    """

    kind = "summary"

    def __init__(
        self,
        registry: Metrics,
        name: str,
        labels: Sequence[str],
        description: str,
        unit: Unit,
        unlabelled: StopWatch | None,
    ) -> None:
        super().__init__(registry, name, labels, description, _SummarySeries)
        self._scale = 1 / _UNIT_SECONDS[unit]
        self._unlabelled = unlabelled

    def observe(self, seconds: float, /, **labels: str) -> None:
        """Record a duration in seconds, whatever the unit of the name is."""
        with self._lock:
            self._record(self._find(labels), (seconds * self._scale,))

    def labelled(self, **labels: str) -> BoundStopWatch:
        """The stopwatch for fixed label values, for the hottest paths."""
        return BoundStopWatch(self, labels)

    def _record(self, series: _SummarySeries, values: Sequence[float]) -> None:
        """Called under the lock."""
        for each in (series,) if self._unlabelled is None else (series, self._unlabelled._series[()]):
            each.count += len(values)
            each.sum += sum(values)
            each.recent.extend(values)

    @contextmanager
    def time(self, **labels: str) -> Iterator[None]:
        """Record how long the block took, whether it succeeded or not."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.observe(time.perf_counter() - started, **labels)

    def _sample(self, series: _SummarySeries, labels: Mapping[str, str]) -> Sample:
        return Sample(labels, count=series.count, sum=series.sum, recent=tuple(series.recent))


class BoundStopWatch:
    """A stopwatch for fixed label values."""

    __slots__ = ("_labels", "_series", "_watch")

    def __init__(self, watch: StopWatch, labels: Mapping[str, str]) -> None:
        self._watch = watch
        self._labels = labels
        with watch._lock:
            self._series = watch._find(labels)

    def observe(self, *seconds: float) -> None:
        """Record durations in seconds, several at once if there are several."""
        watch = self._watch
        with watch._lock:
            if self._series.detached:
                self._series = watch._find(self._labels)
            watch._record(self._series, [each * watch._scale for each in seconds])


AnyMetric: TypeAlias = Counter | Gauge | Histogram | StopWatch
M = TypeVar("M", Counter, Gauge, Histogram, StopWatch)


class Metrics:
    """All metrics of a process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._metrics: dict[str, AnyMetric] = {}
        self._recent: OrderedDict[str, None] = OrderedDict()
        self._observed: dict[str, Callable[[], float]] = {}
        self._refreshers: list[Callable[[], None]] = []

    def counter(self, name: str, labels: Sequence[str] = (), *, description: str = "") -> Counter:
        """The counter of that name.  Raises InvalidArgument if the name is in use with another kind or other labels."""
        return self._get(Counter, name, labels, lambda clean: Counter(self, clean, labels, description, _CounterSeries))

    def gauge(self, name: str, labels: Sequence[str] = (), *, description: str = "") -> Gauge:
        """The gauge of that name."""
        return self._get(Gauge, name, labels, lambda clean: Gauge(self, clean, labels, description, _CounterSeries))

    def observed(self, name: str, read: Callable[[], float], *, description: str = "") -> Gauge:
        """A gauge whose value `read` gives whenever the metrics are read; asking again replaces it."""
        gauge = self.gauge(name, description=description)
        self._observed[gauge.name] = read
        return gauge

    def before_read(self, refresh: Callable[[], None]) -> None:
        """Call `refresh` whenever the metrics are about to be read: for gauges of what is counted elsewhere.

        Like the readers of `observed` it is called in whatever thread reads, and has to be quick.
        """
        self._refreshers.append(refresh)

    def histogram(
        self,
        name: str,
        labels: Sequence[str] = (),
        *,
        buckets: Sequence[float] = LATENCY_BUCKETS,
        description: str = "",
    ) -> Histogram:
        """The histogram of that name; `buckets` are upper bounds."""
        return self._get(Histogram, name, labels, lambda clean: Histogram(self, clean, labels, description, buckets))

    def stopwatch(
        self,
        name: str,
        labels: Sequence[str] = (),
        *,
        unit: Unit = "ms",
        unlabelled: bool = False,
        description: str = "",
    ) -> StopWatch:
        """The stopwatch of that name, to which the unit is added; `unlabelled` keeps a twin without labels."""
        suffix = f"_{unit}"
        stem = name.removesuffix(suffix)
        twin = (
            self.stopwatch(f"{stem}_unlabeled", unit=unit, description=description) if unlabelled and labels else None
        )
        return self._get(
            StopWatch, stem + suffix, labels, lambda clean: StopWatch(self, clean, labels, description, unit, twin)
        )

    def all(self) -> Sequence[AnyMetric]:
        """Every metric, by name; those that are observed hold what was just read."""
        for refresh in self._refreshers:
            refresh()
        for name, read in list(self._observed.items()):
            metric = self._metrics[name]
            assert isinstance(metric, Gauge)
            metric.set(read())
        return [self._metrics[name] for name in sorted(self._metrics)]

    def render(self) -> bytes:
        """Everything in Prometheus' text form, version 0.0.4."""
        return "".join(line for metric in self.all() for line in _render(metric)).encode()

    def _get(self, kind: type[M], name: str, labels: Sequence[str], make: Callable[[str], M]) -> M:
        clean = prometheus_name(name)
        with self._lock:
            found = self._metrics.get(clean)
        if found is None:
            for label in labels:
                if not _LABEL.fullmatch(label):
                    raise InvalidArgument(f"[{label}] cannot be the label of a metric")
            made = make(clean)
            with self._lock:
                found = self._metrics.setdefault(clean, made)
        if not isinstance(found, kind) or found.labels != tuple(labels):
            raise InvalidArgument(f"metric {clean} exists already, as a {found.kind} with the labels {found.labels}")
        return found

    def _touch(self, value: str) -> None:
        """A value of the recent label was used.  Called under the lock."""
        recent = self._recent
        if value in recent:
            recent.move_to_end(value)
            return
        if value in ("", OTHER):
            return
        recent[value] = None
        if len(recent) > RECENT_VALUES:
            oldest, _ = recent.popitem(last=False)
            for metric in self._metrics.values():
                if metric._recent_at >= 0:
                    metric._fold(oldest)


def prometheus_name(name: str) -> str:
    """`name` with what Prometheus forbids replaced: `-` and all else that is no letter, digit, `_` or `:`."""
    clean = _FORBIDDEN.sub("_", name)
    return f"_{clean}" if clean[:1].isdigit() or not clean else clean


def add_process_metrics(metrics: Metrics) -> None:
    """What the standard dashboards show of a process: memory, CPU time, open files, start."""
    started = time.time()
    page = os.sysconf("SC_PAGE_SIZE")

    def resident() -> float:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * page

    def cpu() -> float:
        used = os.times()
        return used.user + used.system

    def files() -> float:
        return len(os.listdir("/proc/self/fd"))

    if os.path.exists("/proc/self/statm"):
        metrics.observed("process_resident_memory_bytes", resident, description="Resident memory")
        metrics.observed("process_open_fds", files, description="Open file descriptors")
    metrics.observed("process_cpu_seconds_total", cpu, description="CPU time used, user and system")
    metrics.observed("process_start_time_seconds", lambda: started, description="Start, in seconds since 1970")


def _render(metric: AnyMetric) -> Iterator[str]:
    name = metric.name
    if metric.description:
        yield f"# HELP {name} {_escape(metric.description)}\n"
    yield f"# TYPE {name} {metric.kind}\n"
    for sample in metric.samples():
        labels = [_pair(key, value) for key, value in sample.labels.items()]
        if isinstance(metric, Histogram):
            below = 0
            for bound, count in zip((*metric.buckets, math.inf), sample.buckets, strict=True):
                below += count
                yield f"{name}_bucket{_braced(labels, _pair('le', _number(bound)))} {below}\n"
        elif isinstance(metric, StopWatch):
            for quantile, value in zip(QUANTILES, sample.quantiles, strict=True):
                yield f"{name}{_braced(labels, _pair('quantile', str(quantile)))} {_number(value)}\n"
        else:
            yield f"{name}{_braced(labels)} {_number(sample.value)}\n"
            continue
        yield f"{name}_sum{_braced(labels)} {_number(sample.sum)}\n"
        yield f"{name}_count{_braced(labels)} {sample.count}\n"


def _pair(label: str, value: str) -> str:
    return f'{label}="{_escape_value(value)}"'


def _braced(labels: Sequence[str], *more: str) -> str:
    every = (*labels, *more)
    return f"{{{','.join(every)}}}" if every else ""


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")


def _escape_value(text: str) -> str:
    return _escape(text).replace('"', r"\"")


_FORBIDDEN = re.compile(r"[^a-zA-Z0-9_:]")
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
