"""Counts and times the calls of a registry under the names that every gRPC dashboard knows.

    grpc_server_started_total, grpc_server_handled_total (by code), grpc_server_handling_seconds

with the labels of go-grpc-prometheus.  A call costs about a microsecond.  Source: spec/control-plane.md, section 14.4.
"""

from __future__ import annotations

from collections.abc import Mapping

from aerodrome.stdlib.errors import Kind
from aerodrome.stdlib.telemetry.metrics import BoundCounter, Metrics

OK = "OK"
CODES: Mapping[Kind, str] = {
    kind: "Canceled" if kind is Kind.CANCELLED else "".join(word.capitalize() for word in kind.name.split("_"))
    for kind in Kind
}
"""Codes as the label `grpc_code` has them: as Go spells them."""

_LABELS = ("grpc_type", "grpc_service", "grpc_method")
_TYPES = {
    (False, False): "unary",
    (False, True): "server_stream",
    (True, False): "client_stream",
    (True, True): "bidi_stream",
}


class Meter:
    """The calls of a process; without `latency` they are only counted."""

    def __init__(self, metrics: Metrics, *, latency: bool = True) -> None:
        self._started = metrics.counter("grpc_server_started_total", _LABELS, description="Calls that began")
        self._handled = metrics.counter(
            "grpc_server_handled_total", (*_LABELS, "grpc_code"), description="Calls that ended, by code"
        )
        self._seconds = (
            metrics.histogram("grpc_server_handling_seconds", _LABELS, description="How long calls took")
            if latency
            else None
        )

    def method(self, path: str, *, request_streaming: bool, response_streaming: bool) -> MethodMeter:
        """The part for one method, by its path (`/package.Service/Method`)."""
        service, _, name = path.strip("/").partition("/")
        labels = {
            "grpc_type": _TYPES[request_streaming, response_streaming], "grpc_service": service, "grpc_method": name,
        }  # fmt: skip
        return MethodMeter(self, labels)


class MethodMeter:
    """The calls of one method."""

    __slots__ = ("_handled", "_labels", "_meter", "_seconds", "_started")

    def __init__(self, meter: Meter, labels: Mapping[str, str]) -> None:
        self._meter = meter
        self._labels = dict(labels)
        self._started = meter._started.labelled(**labels)
        self._seconds = None if meter._seconds is None else meter._seconds.labelled(**labels)
        self._handled: dict[str, BoundCounter] = {}
        self._by_code(OK)  # shown as 0 from the beginning, so that rates begin with the first call

    def _by_code(self, code: str) -> BoundCounter:
        made = self._handled[code] = self._meter._handled.labelled(**self._labels, grpc_code=code)
        return made

    def began(self) -> None:
        """A call has arrived."""
        self._started.add()

    def ended(self, code: str, seconds: float) -> None:
        """It was answered, or given up."""
        (self._handled.get(code) or self._by_code(code)).add()
        if self._seconds is not None:
            self._seconds.observe(seconds)
