"""The distributions as users get them: built, installed into an empty environment with what they name, and run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
MEMBERS = [
    ROOT,
    *sorted(path.parent for path in [*ROOT.glob("libs/*/pyproject.toml"), *ROOT.glob("services/*/pyproject.toml")]),
]


def run(*command: str | Path, cwd: Path = ROOT, **environment: str) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **environment},
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout}"
    return done.stdout


@pytest.mark.timeout(500)
def test_the_wheels_in_an_empty_environment_run_a_workflow(tmp_path: Path) -> None:
    wheels, environment, data_dir = tmp_path / "wheels", tmp_path / "environment", tmp_path / "data"
    for member in MEMBERS:
        run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", wheels, cwd=member)
    assert len(list(wheels.glob("aerodrome*.whl"))) == len(MEMBERS)

    run(sys.executable, "-m", "venv", "--without-pip", environment)
    python = environment / "bin" / "python"
    install = (BIN / "uv", "pip", "install", "-q", "--python", python, "--link-mode", "copy")
    run(*install, "--require-hashes", "-r", ROOT / "requirements" / "runtime.txt")
    # Nothing but our wheels can be found now, so what they need must be among the pinned ones.
    run(*install, "--no-index", "--find-links", wheels, "aerodrome")
    run(BIN / "uv", "pip", "check", "--python", python)

    aerodrome = environment / "bin" / "aerodrome"
    up = ("up", "--detach", "--port", "0", "--data-dir", data_dir, "--python", sys.executable)
    run(aerodrome, *up, cwd=tmp_path)
    try:
        endpoint = f"localhost:{json.loads((data_dir / 'sandbox.json').read_text())['port']}"
        clients = {"FLYTE_PLATFORM_URL": endpoint, "FLYTE_PLATFORM_INSECURE": "true"}
        edges = ROOT / "examples" / "edges" / "edges.py"
        named = ("--name", "from-wheels", "--wait")
        run(BIN / "pyflyte", "run", "--remote", *named, edges, "detect_edges", cwd=tmp_path, **clients)
        with urlopen(f"http://{endpoint}/api/v1/executions/flytesnacks/development/from-wheels") as response:
            assert json.load(response)["closure"]["phase"] == "SUCCEEDED"
        with urlopen(
            f"http://{endpoint}/console/projects/flytesnacks/domains/development/executions/from-wheels"
        ) as page:
            assert "from-wheels" in page.read().decode()
    finally:
        run(aerodrome, "down", "--data-dir", data_dir)
    assert "Stopped" not in run(aerodrome, "down", "--data-dir", data_dir)
