"""Metrics are right, bounded and cheap; spans and pushed metrics arrive as OTLP says; lag is seen."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from aerodrome.stdlib.config import OtelEndpoint, OtelFile, OtelSampler, TelemetryConfig
from aerodrome.stdlib.errors import FailedPrecondition, InvalidArgument
from aerodrome.stdlib.telemetry import LoopLag, Metrics, Telemetry
from aerodrome.stdlib.telemetry.metrics import MAX_SERIES, OTHER, RECENT_VALUES, prometheus_name
from aerodrome.stdlib.telemetry.otlp import metrics_endpoint, otlp_name


def samples(metrics: Metrics) -> dict[str, float]:
    """What `/metrics` says, by name and labels."""
    text = metrics.render().decode()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


class TestMetrics:
    def test_a_counter_counts_by_its_labels(self) -> None:
        metrics = Metrics()
        counter = metrics.counter("flyte:admin:created", ("project", "domain"), description="How\nmany")
        counter.add(1, project="a", domain="b")
        counter.add(2.5, project="a", domain="b")
        counter.add(domain="c", project="a")
        bound = counter.labelled(project="a", domain="c")
        bound.add(2)
        assert samples(metrics) == {
            'flyte:admin:created{project="a",domain="b"}': 3.5,
            'flyte:admin:created{project="a",domain="c"}': 3,
        }
        assert (
            "# HELP flyte:admin:created How\\nmany\n# TYPE flyte:admin:created counter\n" in metrics.render().decode()
        )

    def test_a_gauge_goes_up_and_down(self) -> None:
        metrics = Metrics()
        gauge = metrics.gauge("active")
        gauge.set(5)
        with gauge.held():
            assert gauge.value() == 6
        gauge.add(-2)
        assert samples(metrics) == {"active": 3}

    def test_an_observed_gauge_is_read_when_it_is_shown(self) -> None:
        metrics = Metrics()
        values = iter([1.0, 2.0])
        metrics.observed("depth", lambda: next(values))
        assert samples(metrics) == {"depth": 1}
        assert samples(metrics) == {"depth": 2}

    def test_what_is_counted_elsewhere_is_fetched_before_it_is_shown(self) -> None:
        metrics = Metrics()
        depth = metrics.gauge("depth", ("queue",))
        lengths = iter([3, 4])
        metrics.before_read(lambda: depth.set(next(lengths), queue="main"))
        assert samples(metrics) == {'depth{queue="main"}': 3}
        assert samples(metrics) == {'depth{queue="main"}': 4}

    def test_a_histogram_is_cumulative(self) -> None:
        metrics = Metrics()
        histogram = metrics.histogram("took", buckets=(1, 2))
        for value in (0.5, 1, 1.5, 3):
            histogram.observe(value)
        assert samples(metrics) == {
            'took_bucket{le="1"}': 2, 'took_bucket{le="2"}': 3, 'took_bucket{le="+Inf"}': 4,
            "took_sum": 6, "took_count": 4,
        }  # fmt: skip

    def test_a_stopwatch_has_quantiles_in_its_unit_and_a_twin_without_labels(self) -> None:
        metrics = Metrics()
        watch = metrics.stopwatch("node:transition_latency", ("wf",), unlabelled=True)
        for milliseconds in range(1, 101):
            watch.observe(milliseconds / 1000, wf="w")
        found = samples(metrics)
        assert found['node:transition_latency_ms{wf="w",quantile="0.5"}'] == pytest.approx(50)
        assert found['node:transition_latency_ms{wf="w",quantile="0.99"}'] == pytest.approx(99)
        assert found['node:transition_latency_ms_count{wf="w"}'] == 100
        assert found["node:transition_latency_unlabeled_ms_count"] == 100
        assert found["node:transition_latency_unlabeled_ms_sum"] == pytest.approx(5050)

    def test_a_stopwatch_times_blocks_that_fail_too(self) -> None:
        metrics = Metrics()
        watch = metrics.stopwatch("create", unit="s")
        with pytest.raises(RuntimeError), watch.time():
            raise RuntimeError
        assert samples(metrics)["create_s_count"] == 1

    def test_a_stopwatch_without_observations_shows_none(self) -> None:
        metrics = Metrics()
        metrics.stopwatch("idle")
        assert 'idle_ms{quantile="0.5"} NaN' in metrics.render().decode()

    def test_the_same_name_is_the_same_metric(self) -> None:
        metrics = Metrics()
        assert metrics.counter("a-b", ("x",)) is metrics.counter("a_b", ("x",))
        with pytest.raises(InvalidArgument, match="exists already"):
            metrics.counter("a_b", ("y",))
        with pytest.raises(InvalidArgument, match="exists already"):
            metrics.gauge("a_b", ("x",))

    def test_unknown_labels_are_mistakes_and_missing_ones_are_empty(self) -> None:
        metrics = Metrics()
        counter = metrics.counter("c", ("a", "b"))
        counter.add(1, a="1")
        assert samples(metrics) == {'c{a="1",b=""}': 1}
        with pytest.raises(InvalidArgument, match="no label x"):
            counter.add(1, a="1", b="2", x="3")
        with pytest.raises(InvalidArgument, match="cannot be the label"):
            metrics.counter("d", ("not-a-label",))

    def test_label_values_are_escaped(self) -> None:
        metrics = Metrics()
        metrics.counter("c", ("a",)).add(1, a='x"\\\ny')
        assert metrics.render() == b'# TYPE c counter\nc{a="x\\"\\\\\\ny"} 1\n'

    @given(st.text())
    def test_every_name_becomes_a_legal_one(self, name: str) -> None:
        clean = prometheus_name(name)
        assert clean
        assert not clean[0].isdigit()
        assert all(character.isascii() and (character.isalnum() or character in "_:") for character in clean)

    def test_threads_lose_nothing(self) -> None:
        metrics = Metrics()
        counter = metrics.counter("c", ("wf",))

        def work(wf: str) -> None:
            for _ in range(5000):
                counter.add(1, wf=wf)

        threads = [threading.Thread(target=work, args=(str(number % 2),)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert samples(metrics) == {'c{wf="0"}': 10_000, 'c{wf="1"}': 10_000}

    def test_counting_is_cheap(self) -> None:
        counter = Metrics().counter("c", ("project", "domain", "wf"))
        best = 1.0
        for _ in range(20):
            started = time.perf_counter()
            for _ in range(1000):
                counter.add(1, project="p", domain="d", wf="w")
            best = min(best, (time.perf_counter() - started) / 1000)
        assert best < 10e-6  # about one microsecond on an idle machine


class TestBounds:
    def test_the_workflows_used_most_recently_are_kept_and_nothing_is_lost(self) -> None:
        metrics = Metrics()
        counter = metrics.counter("c", ("project", "wf"))
        watch = metrics.stopwatch("w", ("wf",))
        histogram = metrics.histogram("h", ("wf",), buckets=(1,))
        for number in range(RECENT_VALUES * 2):
            counter.add(1, project="p", wf="steady")
            counter.add(1, project="p", wf=f"w{number}")
            watch.observe(1, wf=f"w{number}")
            histogram.observe(1, wf=f"w{number}")
        found = samples(metrics)
        assert found['c{project="p",wf="steady"}'] == RECENT_VALUES * 2
        assert found[f'c{{project="p",wf="w{RECENT_VALUES * 2 - 1}"}}'] == 1
        assert 'c{project="p",wf="w0"}' not in found
        assert found[f'c{{project="p",wf="{OTHER}"}}'] == RECENT_VALUES + 1
        assert found[f'w_ms_count{{wf="{OTHER}"}}'] == RECENT_VALUES + 1
        assert found[f'h_count{{wf="{OTHER}"}}'] == RECENT_VALUES + 1
        assert sum(value for name, value in found.items() if name.startswith("c{")) == RECENT_VALUES * 4

    def test_a_bound_counter_survives_being_folded(self) -> None:
        metrics = Metrics()
        counter = metrics.counter("c", ("wf",))
        bound = counter.labelled(wf="early")
        bound.add()
        for number in range(RECENT_VALUES):
            counter.add(1, wf=f"w{number}")
        bound.add()
        assert counter.value(wf="early") == 1
        assert sum(samples(metrics).values()) == RECENT_VALUES + 2

    def test_bound_times_survive_being_folded(self) -> None:
        metrics = Metrics()
        watch = metrics.stopwatch("ran", ("wf",), unlabelled=True)
        histogram = metrics.histogram("took", ("wf",), buckets=(1,))
        bound_watch, bound_histogram = watch.labelled(wf="old"), histogram.labelled(wf="old")
        bound_watch.observe(0.001, 0.002)
        bound_histogram.observe(2)
        for number in range(RECENT_VALUES):
            watch.observe(0.0, wf=f"w{number}")
        bound_watch.observe(0.003)
        bound_histogram.observe(0.5)
        found = samples(metrics)
        assert found['ran_ms_count{wf="other"}'] + found['ran_ms_count{wf="old"}'] - 3 == pytest.approx(1)  # w0 by now
        assert found["ran_unlabeled_ms_count"] == RECENT_VALUES + 3
        assert found["ran_unlabeled_ms_sum"] == pytest.approx(6)
        assert found['took_count{wf="other"}'] + found['took_count{wf="old"}'] == 2

    def test_other_labels_are_bounded_by_their_combinations(self) -> None:
        metrics = Metrics()
        counter = metrics.counter("c", ("user",))
        for number in range(MAX_SERIES + 100):
            counter.add(1, user=str(number))
        found = samples(metrics)
        assert len(found) == MAX_SERIES + 1
        assert found[f'c{{user="{OTHER}"}}'] == 100

    def test_a_long_value_is_cut(self) -> None:
        metrics = Metrics()
        metrics.counter("c", ("a",)).add(1, a="x" * 10_000)
        assert len(metrics.render()) < 400


class Receiver:
    """Takes what an OTLP exporter posts."""

    def __init__(self) -> None:
        self.got: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()
        self.status = 200
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        await self.got.put((request.path, await request.json()))
        return web.Response(status=self.status, text="{}")


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/{path:.*}", receiver.take)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield receiver
    finally:
        await runner.cleanup()


def attributes(encoded: list[dict[str, Any]]) -> Mapping[str, Any]:
    return {each["key"]: next(iter(each["value"].values())) for each in encoded}


class TestSpans:
    async def test_without_an_exporter_spans_cost_nothing_and_do_nothing(self) -> None:
        telemetry = Telemetry()
        with telemetry.span("x", a=1) as span:
            span.set_attribute("b", 2)
            span.add_event("happened")
            assert telemetry.carried() == {}
        await telemetry.aclose()

    async def test_spans_nest_and_carry_their_parent_across_a_call(self) -> None:
        exporter = InMemorySpanExporter()
        telemetry = Telemetry(span_exporter=exporter)
        with telemetry.span("outer", execution="f1"):
            with telemetry.span("inner"):
                pass
            headers = telemetry.carried()
        with telemetry.span("called", parent=headers):
            pass
        with pytest.raises(ValueError), telemetry.span("failing"):
            raise ValueError("why")
        await telemetry.aclose()
        spans = {span.name: span for span in exporter.get_finished_spans()}
        outer = spans["outer"].get_span_context()
        assert outer is not None
        for name in ("inner", "called"):
            parent = spans[name].parent
            assert parent is not None
            assert (parent.trace_id, parent.span_id) == (outer.trace_id, outer.span_id)
        assert spans["outer"].attributes == {"execution": "f1"}
        assert spans["failing"].status.description == "ValueError: why"

    async def test_spans_are_posted_as_otlp(self) -> None:
        async with receiving() as receiver:
            config = TelemetryConfig(type="otlphttp", otlphttp=OtelEndpoint(endpoint=f"{receiver.url}/v1/traces"))
            telemetry = Telemetry(config)
            with telemetry.span("append", execution="f1", count=3, share=0.5, ok=True) as span:
                span.add_event("locked", {"rows": 2})
            await telemetry.aclose()
            path, document = await asyncio.wait_for(receiver.got.get(), 10)
        assert path == "/v1/traces"
        (resource,) = document["resourceSpans"]
        assert attributes(resource["resource"]["attributes"])["service.name"] == "aerodrome"
        (sent,) = resource["scopeSpans"][0]["spans"]
        assert sent["name"] == "append"
        assert len(sent["traceId"]) == 32
        assert len(sent["spanId"]) == 16
        assert attributes(sent["attributes"]) == {"execution": "f1", "count": "3", "share": 0.5, "ok": True}
        assert int(sent["endTimeUnixNano"]) >= int(sent["startTimeUnixNano"]) > 0
        assert sent["events"][0]["name"] == "locked"
        assert sent["kind"] == 1

    async def test_spans_are_written_to_a_file(self, tmp_path: Path) -> None:
        file = tmp_path / "trace.txt"
        telemetry = Telemetry(TelemetryConfig(type="file", file=OtelFile(filename=str(file))))
        with telemetry.span("a"), telemetry.span("b"):
            pass
        await telemetry.aclose()
        assert [json.loads(line)["name"] for line in file.read_text().splitlines()] == ["b", "a"]

    async def test_the_sampler_decides(self, tmp_path: Path) -> None:
        file = tmp_path / "trace.txt"
        telemetry = Telemetry(
            TelemetryConfig(
                type="file",
                file=OtelFile(filename=str(file)),
                sampler=OtelSampler(parent_sampler="traceid", trace_id_ratio=0),
            )
        )
        with telemetry.span("a"):
            pass
        await telemetry.aclose()
        assert file.read_text() == ""

    def test_what_cannot_be_used_says_what_to_do(self, tmp_path: Path) -> None:
        with pytest.raises(FailedPrecondition, match="opentelemetry-exporter-otlp-proto-grpc"):
            Telemetry(TelemetryConfig(type="otlpgrpc"))
        with pytest.raises(FailedPrecondition, match="cannot be written"):
            Telemetry(TelemetryConfig(type="file", file=OtelFile(filename=str(tmp_path / "no" / "file"))))
        with pytest.raises(InvalidArgument, match="http"):
            Telemetry(TelemetryConfig(type="otlphttp", otlphttp=OtelEndpoint(endpoint="file:///etc/passwd")))


class TestPush:
    async def test_metrics_are_pushed_under_their_dotted_names(self) -> None:
        async with receiving() as receiver:
            telemetry = Telemetry(
                TelemetryConfig(
                    type="otlphttp",
                    otlphttp=OtelEndpoint(endpoint=f"{receiver.url}/v1/traces"),
                    export_interval=timedelta(milliseconds=20),
                )
            )
            metrics = telemetry.metrics
            metrics.counter("flyte:admin:executions_created", ("project",)).add(3, project="p")
            metrics.stopwatch("flyte:propeller:all:node:success_duration", ("wf",)).observe(0.25, wf="w")
            metrics.histogram("flyte:propeller:all:append", buckets=(1,)).observe(0.5)
            running = asyncio.create_task(telemetry.run())
            path, document = await asyncio.wait_for(receiver.got.get(), 10)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await telemetry.aclose()
        assert path == "/v1/metrics"
        sent = {each["name"]: each for each in document["resourceMetrics"][0]["scopeMetrics"][0]["metrics"]}
        created = sent["admin.executions-created"]["sum"]
        assert created["isMonotonic"]
        assert created["dataPoints"][0]["asDouble"] == 3
        assert attributes(created["dataPoints"][0]["attributes"]) == {"project": "p"}
        duration = sent["propeller.all.node.success-duration-ms"]["summary"]["dataPoints"][0]
        assert (duration["count"], duration["sum"]) == ("1", 250)
        assert sent["propeller.all.node.success-duration-ms-count"]["sum"]["dataPoints"][0]["asInt"] == "1"
        assert sent["propeller.all.append"]["histogram"]["dataPoints"][0]["bucketCounts"] == ["1", "0"]
        assert "process-resident-memory-bytes" in sent

    async def test_a_receiver_that_fails_does_not_stop_anything(self) -> None:
        async with receiving() as receiver:
            receiver.status = 503
            telemetry = Telemetry(
                TelemetryConfig(
                    type="otlphttp",
                    otlphttp=OtelEndpoint(endpoint=receiver.url),
                    export_interval=timedelta(milliseconds=10),
                )
            )
            running = asyncio.create_task(telemetry.run())
            for _ in range(3):
                await asyncio.wait_for(receiver.got.get(), 10)
            assert not running.done()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await telemetry.aclose()

    @pytest.mark.parametrize(
        ("prometheus", "dotted"),
        [
            ("flyte:propeller:all:workflow:acceptance_latency_ms", "propeller.all.workflow.acceptance-latency-ms"),
            ("flyte:propeller:team:node:queueing_latency_ms", "propeller.team.node.queueing-latency-ms"),
            ("flyte:propeller:all:node:transition_latency_ms", "propeller.all.node.transition-latency-ms"),
            ("flyte:propeller:all:workflow:completion_latency_ms", "propeller.all.workflow.completion-latency-ms"),
            ("flyte:propeller:all:node:user_error_duration_ms", "propeller.all.node.failure-duration-ms"),
            ("flyte:admin:admin:get_task:errors", "admin.admin.get-task.errors"),
            ("process_open_fds", "process-open-fds"),
        ],
    )
    def test_names_are_mapped(self, prometheus: str, dotted: str) -> None:
        assert otlp_name(prometheus) == dotted

    def test_metrics_go_beside_spans(self) -> None:
        assert metrics_endpoint("http://h:4318/v1/traces") == "http://h:4318/v1/metrics"
        assert metrics_endpoint("http://h:4318") == "http://h:4318/v1/metrics"


class TestLoopLag:
    async def test_a_loop_that_is_held_up_shows(self) -> None:
        lag = LoopLag(interval_seconds=0.001)
        running = asyncio.create_task(lag.run())
        while lag.samples < 5:  # noqa: ASYNC110 - it is the passing of time that is measured
            await asyncio.sleep(0.001)
        time.sleep(0.1)  # noqa: ASYNC251 - holding the loop up is the point
        seen = lag.samples
        while lag.samples == seen:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert lag.max_seconds >= 0.09
        assert lag.percentile_seconds(100) == lag.max_seconds
        lag.reset()
        assert (lag.samples, lag.max_seconds, lag.percentile_seconds(99)) == (0, 0, 0)

    @given(st.lists(st.floats(-1, 30), min_size=1), st.floats(1, 100))
    def test_percentiles_are_within_a_tenth(self, lags: list[float], percent: float) -> None:
        lag = LoopLag()
        for value in lags:
            lag.record(value)
        ordered = sorted(max(0.0, value) for value in lags)
        reached = lag.percentile_seconds(percent)
        covered = sum(value <= reached for value in ordered)
        assert covered >= percent / 100 * len(ordered) - 1e-9
        assert reached <= max(ordered)
        exact = next(value for at, value in enumerate(ordered, 1) if at >= percent / 100 * len(ordered))
        assert reached <= max(exact * 1.1001, 0.0001) or reached == max(ordered)

    async def test_the_process_and_its_loop_are_among_the_metrics(self) -> None:
        telemetry = Telemetry()
        telemetry.loop_lag.record(0.25)
        found = samples(telemetry.metrics)
        assert found["aerodrome:loop_lag_max_seconds"] == 0.25
        assert found["process_resident_memory_bytes"] > 10**6
        assert telemetry.render() != b""
