"""What the tests of the runtimes share: pods, waiting for them, and flytekit's command lines."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from flyteidl.core import errors_pb2, literals_pb2

from aerodrome.propeller.runtimes import LocalRuntime, Pod, zygote

WAIT_SECONDS = 60.0

Open = Callable[..., AbstractAsyncContextManager[LocalRuntime]]


def make_pod(
    name: str,
    command: Iterable[str] = (),
    *,
    args: Iterable[str] = (),
    env: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    image: str = "example.org/tasks:v1",
    **container: Any,
) -> Pod:
    """A pod as the container plugin builds it."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": "tests",
            "name": name,
            "labels": dict(labels or {}),
            "annotations": {"primary_container_name": name, **(annotations or {})},
        },
        "spec": {
            "restartPolicy": "Never",
            "containers": [
                {
                    "name": name,
                    "image": image,
                    "command": list(command),
                    "args": list(args),
                    "env": [{"name": key, "value": value} for key, value in (env or {}).items()],
                    **container,
                }
            ],
        },
    }


async def until(runtime: LocalRuntime, name: str, *phases: str, seconds: float = WAIT_SECONDS) -> Pod:
    """The pod once it is in one of `phases`."""
    async with asyncio.timeout(seconds):
        async for pod in runtime.watch():
            if pod["metadata"]["name"] == name and pod["status"]["phase"] in phases:
                return pod
    raise AssertionError("the watch ended")


async def run_pod(runtime: LocalRuntime, pod: Pod) -> Pod:
    """Start a pod and return it when it has ended."""
    await runtime.start(pod)
    return await until(runtime, pod["metadata"]["name"], "Succeeded", "Failed")


def terminated(pod: Pod) -> dict[str, Any]:
    """The end of the pod's container."""
    state: dict[str, Any] = pod["status"]["containerStatuses"][0]["state"]["terminated"]
    return state


async def appears(path: Path, seconds: float = WAIT_SECONDS) -> str:
    """The content of a file that a task writes in one step (by renaming)."""
    async with asyncio.timeout(seconds):
        while not path.exists():  # noqa: ASYNC110  (a file of another process raises no event)
            await asyncio.sleep(0.01)
    return path.read_text()


async def gone(pid: int, seconds: float = WAIT_SECONDS) -> None:
    """Return when no process has this pid any more; a zombie that its parent has yet to reap counts as gone."""
    async with asyncio.timeout(seconds):
        while True:
            found = zygote.process(pid)
            if found is None or found.state in "ZX":
                return
            await asyncio.sleep(0.01)


def carriers(text: str) -> list[int]:
    """Every process, this one apart, whose command line or environment contains `text`."""
    found = []
    for pid in zygote.processes():
        with contextlib.suppress(OSError):
            if pid != os.getpid() and text.encode() in (
                Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
            ):
                found.append(pid)
    return found


def say_pid(path: Path) -> str:
    """Shell code, as a pod carries it, that writes the shell's own pid to a file in one step.

    In a pod's command `$$` stands for `$`, as Kubernetes has it.
    """
    return f"echo $$$$ > '{path}.new'; mv '{path}.new' '{path}'"


def literals(**values: int | str) -> literals_pb2.LiteralMap:
    """Primitive inputs."""
    result = literals_pb2.LiteralMap()
    for name, value in values.items():
        primitive = result.literals[name].scalar.primitive
        if isinstance(value, int):
            primitive.integer = value
        else:
            primitive.string_value = value
    return result


def read_outputs(prefix: Path) -> dict[str, Any]:
    """The primitive outputs that a task wrote.  Raises AssertionError with its error if it wrote that."""
    if (prefix / "error.pb").exists():
        raise AssertionError(errors_pb2.ErrorDocument.FromString((prefix / "error.pb").read_bytes()).error.message)
    document = literals_pb2.LiteralMap.FromString((prefix / "outputs.pb").read_bytes())
    found = {}
    for name, literal in document.literals.items():
        primitive = literal.scalar.primitive
        found[name] = getattr(primitive, primitive.WhichOneof("value"))
    return found


class Task:
    """A flytekit task's command line, as its template has it, and the place of its inputs and outputs."""

    def __init__(self, folder: Path, module: str, name: str, inputs: literals_pb2.LiteralMap) -> None:
        self.prefix = folder / "out"
        self.raw = folder / "raw"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "inputs.pb").write_bytes(inputs.SerializeToString())
        self._inputs = folder / "inputs.pb"
        self._loader = ["task-module", module, "task-name", name]

    def command(self, name: str = "pyflyte-execute", resolver: str = "") -> list[str]:
        """What the container's args are."""
        return [
            name, "--inputs", str(self._inputs), "--output-prefix", str(self.prefix),
            "--raw-output-data-prefix", str(self.raw), "--checkpoint-path", str(self.raw / "_flytecheckpoints"),
            "--prev-checkpoint", '""', "--resolver",
            resolver or "flytekit.core.python_auto_container.default_task_resolver", "--", *self._loader,
        ]  # fmt: skip

    def fast(self, distribution: Path | str, dest_dir: str = "/root") -> list[str]:
        """The same by fast registration."""
        return [
            "pyflyte-fast-execute", "--additional-distribution", str(distribution), "--dest-dir", dest_dir, "--",
            *self.command(),
        ]  # fmt: skip

    @property
    def outputs(self) -> dict[str, Any]:
        return read_outputs(self.prefix)
