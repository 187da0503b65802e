"""Routes what the runtime reports about pods to whoever waits for them."""

from __future__ import annotations

from collections.abc import Callable

from aerodrome.plugins.api import V1Pod
from aerodrome.propeller.runtimes import Runtime
from aerodrome.stdlib.logger import get_logger

log = get_logger(__name__)

Listener = Callable[[V1Pod], None]


class PodHub:
    """One watch of the runtime, many listeners; each by the pod's namespace and name."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self._listeners: dict[tuple[str, str], Listener] = {}

    def listen(self, namespace: str, name: str, listener: Listener) -> None:
        """Call `listener` with the pod at each change of its status, in place of an earlier listener."""
        self._listeners[namespace, name] = listener

    @property
    def followed(self) -> int:
        """How many pods somebody waits for."""
        return len(self._listeners)

    def forget(self, namespace: str, name: str) -> None:
        """Nobody waits for this pod any more."""
        self._listeners.pop((namespace, name), None)

    async def run(self) -> None:
        """Follow the runtime until cancelled."""
        async for pod in self.runtime.watch():
            metadata = pod["metadata"]
            listener = self._listeners.get((metadata.get("namespace", ""), metadata["name"]))
            if listener is None:
                continue
            try:
                listener(pod)
            except Exception:  # one pod's trouble stays its own
                log.exception("a pod's status could not be used", pod=metadata["name"])
