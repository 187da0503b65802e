"""Runtimes: where the pods that plugins build become processes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from aerodrome.propeller.runtimes.local import LocalRuntime
from aerodrome.propeller.runtimes.pods import LOG_PATH, WARNING, Pod

__all__ = ["LOG_PATH", "WARNING", "LocalRuntime", "Pod", "Runtime"]


class Runtime(Protocol):
    """Runs pods; what a pod means for a task is the plugins' business."""

    async def start(self, pod: Pod) -> None:
        """Accept a pod: it is durable when this returns.  The same namespace and name again changes nothing."""
        ...

    async def get(self, namespace: str, name: str) -> Pod | None:
        """The pod with its `status`; None if there is none."""
        ...

    async def delete(self, namespace: str, name: str, *, grace: timedelta | None = None) -> None:
        """End a pod and forget it; returns when nothing of it is left.  A pod that does not exist is fine."""
        ...

    async def list(self, labels: Mapping[str, str] = ...) -> list[Pod]:
        """Every pod that has all of `labels`."""
        ...

    def watch(self) -> AsyncIterator[Pod]:
        """Every pod that there is, then each one that changes, at its latest."""
        ...

    async def tail(self, namespace: str, name: str, lines: int = 50) -> str:
        """The last lines that it printed."""
        ...

    def volume(self, namespace: str, name: str, volume: str) -> Path | None:
        """Where a volume of a pod is that begins empty, to be filled before it starts and read after its end.

        None if nobody but the pod can reach it, so that it has to bring helpers of its own.
        """
        ...

    def mask(self, text: str) -> str:
        """`text` without the values of secrets that tasks were given."""
        ...

    async def run(self) -> None:
        """Work until cancelled; drains before it returns."""
        ...
