"""A platform of the benchmark's own: started and stopped with the `aerodrome` command, spoken to by raw gRPC.

Everything it consists of is found by the data directory, which is in the command line or the working directory of each
of its processes: the platform, PostgreSQL, the zygotes, the tasks.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import grpc
from flyteidl.admin.common_pb2 import ResourceListRequest
from flyteidl.admin.execution_pb2 import ExecutionCreateRequest, WorkflowExecutionGetRequest
from flyteidl.core.execution_pb2 import WorkflowExecution
from flyteidl.core.identifier_pb2 import LAUNCH_PLAN, Identifier, WorkflowExecutionIdentifier
from flyteidl.service.admin_pb2_grpc import AdminServiceStub

BIN = Path(sys.executable).parent
HERE = Path(__file__).resolve().parent
PROJECT, DOMAIN, VERSION = "flytesnacks", "development", "bench"
POLL_SECONDS = 0.02
POLL_SHARE = 0.01
"""How long after the one before a client looks again, of the time that has passed: its looking is not what is measured,
and a figure is too high by this share at most."""
PATIENCE_SECONDS = 300.0
TERMINAL = {
    WorkflowExecution.SUCCEEDED,
    WorkflowExecution.FAILED,
    WorkflowExecution.ABORTED,
    WorkflowExecution.TIMED_OUT,
}
_TICKS = os.sysconf("SC_CLK_TCK")


class Platform:
    """One data directory; `start` and `stop` as often as wanted."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.endpoint = ""
        self._process = 0
        self._channel: Any = None
        self._admin: Any = None
        self._names = 0

    @property
    def admin(self) -> Any:
        """The stub of its AdminService, while it runs."""
        return self._admin

    def start(self) -> float:
        """Seconds from the command to ready."""
        begun = time.perf_counter()
        _run(BIN / "aerodrome", "up", "--detach", "--port", "0", "--data-dir", self.data_dir)
        seconds = time.perf_counter() - begun
        instance = json.loads((self.data_dir / "sandbox.json").read_text())
        self._process = int(instance["pid"])
        self.endpoint = f"localhost:{instance['port']}"
        self._channel = grpc.insecure_channel(self.endpoint)
        self._admin = AdminServiceStub(self._channel)
        return seconds

    def stop(self) -> None:
        """Graceful; nothing is left."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        _run(BIN / "aerodrome", "down", "--data-dir", self.data_dir)

    def register(self) -> None:
        """`pyflyte register` as users do it, fast registration included."""
        environment = {
            **os.environ,
            "FLYTE_PLATFORM_URL": self.endpoint,
            "FLYTE_PLATFORM_INSECURE": "true",
            "FLYTE_SDK_LOGGING_LEVEL": "40",
        }
        command = (BIN / "pyflyte", "register", "--project", PROJECT, "--domain", DOMAIN, "--version", VERSION)
        _run(*command, "workflows.py", cwd=HERE, env=environment)

    def submit(self, workflow: str, count: int = 1) -> list[str]:
        """Names of `count` executions of a workflow, all submitted at once."""
        requests = []
        for _ in range(count):
            self._names += 1
            request = ExecutionCreateRequest(project=PROJECT, domain=DOMAIN, name=f"b{os.getpid()}n{self._names}")
            plan = Identifier(
                resource_type=LAUNCH_PLAN, project=PROJECT, domain=DOMAIN, name=f"workflows.{workflow}", version=VERSION
            )
            request.spec.launch_plan.CopyFrom(plan)
            request.inputs.SetInParent()
            requests.append(request)
        calls = [self._admin.CreateExecution.future(request) for request in requests]
        return [call.result().id.name for call in calls]

    def wait(self, name: str) -> None:
        """Until the execution has succeeded."""
        request = WorkflowExecutionGetRequest(id=WorkflowExecutionIdentifier(project=PROJECT, domain=DOMAIN, name=name))
        begun = time.perf_counter()
        while (found := self._admin.GetExecution(request)).closure.phase not in TERMINAL:
            if time.perf_counter() - begun > PATIENCE_SECONDS:
                raise RuntimeError(f"{name} has not ended after {PATIENCE_SECONDS:g} s")
            _look_again_later(begun)
        if found.closure.phase != WorkflowExecution.SUCCEEDED:
            raise RuntimeError(f"{name} ended {found.closure.phase}: {found.closure.error.message}")

    def wait_all(self, names: list[str]) -> None:
        """Until all of them have succeeded."""
        wanted = ";".join(names)
        request = ResourceListRequest(
            limit=len(names), filters=f"value_in(execution_name,{wanted})+eq(phase,SUCCEEDED)"
        )
        request.id.project, request.id.domain = PROJECT, DOMAIN
        begun = time.perf_counter()
        while len(self._admin.ListExecutions(request).executions) < len(names):
            if time.perf_counter() - begun > PATIENCE_SECONDS:
                raise RuntimeError(f"not all of {len(names)} executions have succeeded after {PATIENCE_SECONDS:g} s")
            _look_again_later(begun)

    def run(self, workflow: str) -> float:
        """Seconds from submitting to the poll that saw the success."""
        begun = time.perf_counter()
        (name,) = self.submit(workflow)
        self.wait(name)
        return time.perf_counter() - begun

    def loop_lag_max_seconds(self) -> float:
        """The longest that the event loop was held up since the start."""
        with urlopen(f"http://{self.endpoint}/metrics") as response:
            for line in response.read().decode().splitlines():
                if line.startswith("aerodrome:loop_lag_max_seconds "):
                    return float(line.split()[1])
        raise RuntimeError("/metrics has no aerodrome:loop_lag_max_seconds")

    def cpu_seconds(self) -> dict[str, float]:
        """CPU that all processes have taken so far, with those that ended below them, by part of the platform."""
        taken = {"platform": 0.0, "database": 0.0, "tasks": 0.0}
        for process in self._processes():
            taken[self._part(process)] += _cpu_seconds(process)
        return taken

    def _part(self, process: int) -> str:
        if process == self._process:
            return "platform"
        try:
            name = Path(f"/proc/{process}/comm").read_text().strip()
        except OSError:
            name = ""  # it has just ended
        return "database" if name.startswith("postgres") else "tasks"

    def pss_mb(self) -> float:
        """Memory of all processes, shared pages counted once."""
        return sum(_pss_kb(process) for process in self._processes()) / 1024

    @contextmanager
    def watched(self) -> Iterator[Usage]:
        """CPU and peak memory of what happens inside; memory is looked at every two seconds, which is work too."""
        usage = Usage()
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(2.0):
                usage.peak_mb = max(usage.peak_mb, self.pss_mb())

        watcher = threading.Thread(target=watch)
        before = self.cpu_seconds()
        watcher.start()
        try:
            yield usage
        finally:
            ended.set()
            watcher.join()
        after = self.cpu_seconds()
        usage.cpu_seconds = {part: after[part] - before[part] for part in after}

    def _processes(self) -> list[int]:
        parents: dict[int, int] = {}
        ours: set[int] = set()
        needle = os.fsencode(self.data_dir)
        for directory in Path("/proc").glob("[0-9]*"):
            process = int(directory.name)
            try:
                parents[process] = int((directory / "stat").read_text().rpartition(")")[2].split()[1])
                if needle in (directory / "cmdline").read_bytes() or needle in os.fsencode(
                    os.readlink(directory / "cwd")
                ):
                    ours.add(process)
            except OSError:
                continue  # it has just ended, or is nobody's business
        grown = True
        while grown:
            more = {process for process, parent in parents.items() if parent in ours} - ours
            ours |= more
            grown = bool(more)
        ours.discard(os.getpid())
        return sorted(ours)


class Usage:
    """What something took."""

    def __init__(self) -> None:
        self.cpu_seconds: dict[str, float] = {}
        self.peak_mb = 0.0


def _look_again_later(begun: float) -> None:
    time.sleep(max(POLL_SECONDS, POLL_SHARE * (time.perf_counter() - begun)))


def _cpu_seconds(process: int) -> float:
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(int(field) for field in fields[11:15]) / _TICKS


def _pss_kb(process: int) -> int:
    try:
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    except OSError:
        return 0  # it has just ended
    return 0


def _run(*command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=env, check=False, capture_output=True, text=True
    )
    if done.returncode != 0:
        said = f"{done.stdout[-2000:]}{done.stderr[-2000:]}"
        raise RuntimeError(f"`{' '.join(str(part) for part in command[:3])}` said:\n{said}")
