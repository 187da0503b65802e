"""`make demo`: a platform of its own, the examples registered and run on it with flytekit's own tools, and the results.

Exits with 0 if everything succeeded, and otherwise says what did not.  Whatever it started it stops.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent
PATIENCE_SECONDS = 240


class Failed(Exception):
    """The demo cannot go on; the text says why."""


def main() -> int:
    """Run the demo in a temporary directory."""
    directory = Path(tempfile.mkdtemp(prefix="aerodrome-demo-"))
    port = _free_port()
    os.environ |= {
        "FLYTE_PLATFORM_URL": f"localhost:{port}",
        "FLYTE_PLATFORM_INSECURE": "true",
        "FLYTE_SDK_LOGGING_LEVEL": "40",
        "FLYTE_SDK_RICH_TRACEBACKS": "0",
    }
    data_dir = directory / "data"
    try:
        _say(f"Starting the platform on port {port}, in {data_dir}")
        begun = time.monotonic()
        _run(BIN / "aerodrome", "up", "--detach", "--port", str(port), "--data-dir", str(data_dir))
        _say(f"Ready after {time.monotonic() - begun:.1f} s")
        _say("Registering examples/wine with `pyflyte register`")
        _run(BIN / "pyflyte", "register", "--version", "demo", "wine.py", cwd=HERE / "wine")
        _say("Running examples/edges with `pyflyte run --remote`")
        edges = ("edges.py", "detect_edges", "--name", "flower.jpg")
        _run(BIN / "pyflyte", "run", "--remote", "--name", "demo-edges", *edges, cwd=HERE / "edges")
        _say("Launching the registered pipeline with FlyteRemote")
        _results()
    except Failed as failure:
        _say(f"FAILED: {failure}")
        log = data_dir / "aerodrome.log"
        if log.exists():
            _say(f"The end of the platform's log:\n{log.read_text(errors='replace')[-3000:]}")
        return 1
    finally:
        stopped = subprocess.run([BIN / "aerodrome", "down", "--data-dir", str(data_dir)], check=False)
        if stopped.returncode == 0:
            shutil.rmtree(directory, ignore_errors=True)
    _say("Done: the platform is stopped, its directory removed.")
    return 0


def _results() -> None:
    from flytekit.configuration import Config
    from flytekit.models.core.execution import WorkflowExecutionPhase
    from flytekit.remote import FlyteRemote

    remote = FlyteRemote(Config.auto(), default_project="flytesnacks", default_domain="development")
    plan = remote.fetch_launch_plan(name="wine.quick", version="demo")
    begun = time.monotonic()
    wine = remote.execute(plan, inputs={"test_share": 0.25})
    edges = remote.fetch_execution(name="demo-edges")
    for execution in (wine, edges):
        while not (current := remote.sync_execution(execution, sync_nodes=False)).is_done:
            if time.monotonic() - begun > PATIENCE_SECONDS:
                raise Failed(f"{execution.id.name} has not ended after {PATIENCE_SECONDS} s")
            time.sleep(0.1)
        phase = WorkflowExecutionPhase.enum_to_string(current.closure.phase)
        if current.closure.phase != WorkflowExecutionPhase.SUCCEEDED:
            raise Failed(f"{execution.id.name} ended {phase}: {current.error and current.error.message}")
        _say(f"{execution.id.name} {phase} after {current.closure.duration.total_seconds():.1f} s")
    wine = remote.sync_execution(wine, sync_nodes=False)
    edges = remote.sync_execution(edges, sync_nodes=False)
    report = wine.outputs.get("report").download()
    image = edges.outputs.get("image").download()
    print(f"\n  chosen model   {wine.outputs['model']}, {wine.outputs['accuracy']:.1%} of the test wines right")
    print(f"  report         {wine.outputs.literals['report'].scalar.blob.uri}\n")
    print("\n".join(f"    {line}" for line in Path(report).read_text().splitlines()))
    print(f"\n  edges          {edges.outputs['share']:.1%} of the pixels, {Path(image).stat().st_size:,} bytes")
    print(f"  image          {edges.outputs.literals['image'].scalar.blob.uri}\n")


def _run(*command: str | Path, cwd: Path | None = None) -> None:
    done = subprocess.run([str(part) for part in command], cwd=cwd, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        said = f"{done.stdout[-2000:]}{done.stderr[-2000:]}"
        raise Failed(f"`{' '.join(str(part) for part in command[:3])}` said:\n{said}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _say(text: str) -> None:
    print(f"demo: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
