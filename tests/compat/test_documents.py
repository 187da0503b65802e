"""What the documents say is so: their commands run, their configuration loads, their links lead somewhere."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from aerodrome.sandbox.config import read

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
DOCUMENTS = [ROOT / "README.md", ROOT / "examples" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHELL = """
set -e
make() { command make -n "$@" >made.txt; }
aerodrome() {
    if [ "$1" = up ]; then shift; command aerodrome up --port "$PORT" "$@"; else command aerodrome "$@"; fi
}
"""
"""`make` only says what it would do, since most targets take long and have tests; the platform is on a free port."""


def blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", document.read_text(), re.MULTILINE | re.DOTALL)


def named(documents: list[Path]) -> list[object]:
    return [pytest.param(document, id=str(document.relative_to(ROOT))) for document in documents]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.timeout(400)
@pytest.mark.parametrize("document", named([document for document in DOCUMENTS if blocks(document, "sh")]))
def test_the_commands_of_a_document_run_in_order(document: Path, tmp_path: Path) -> None:
    for name in ("Makefile", "requirements", "pyproject.toml", "libs", "services", ".venv"):
        target = BIN.parent if name == ".venv" else ROOT / name
        (tmp_path / name).symlink_to(target)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    port = free_port()
    environment = {name: text for name, text in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "FLYTE"))}
    environment |= {
        "HOME": str(tmp_path / "home"),
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "PORT": str(port),
        "FLYTE_PLATFORM_URL": f"localhost:{port}",
        "FLYTE_PLATFORM_INSECURE": "true",
    }
    environment.pop("XDG_DATA_HOME", None)
    (tmp_path / "home").mkdir()
    try:
        done = subprocess.run(
            ["sh", "-c", SHELL + "\n".join(blocks(document, "sh"))],
            cwd=tmp_path,
            env=environment,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    finally:
        subprocess.run([BIN / "aerodrome", "down"], env=environment, check=False, capture_output=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("document", named([document for document in DOCUMENTS if blocks(document, "yaml")]))
def test_the_configuration_of_a_document_loads_without_a_warning(
    document: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, block in enumerate(blocks(document, "yaml")):
        file = tmp_path / f"{number}.yaml"
        file.write_text(block)
        read([file], data_dir=tmp_path, host="127.0.0.1", port=0, python=None, images={})
    written = capsys.readouterr()
    assert "warn" not in written.out + written.err


@pytest.mark.parametrize("document", named(DOCUMENTS))
def test_the_links_of_a_document_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", document.read_text())
    local = [link.partition("#")[0] for link in links if "://" not in link]
    assert [link for link in local if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document", named(DOCUMENTS))
def test_every_target_that_a_document_names_can_be_made(document: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z]+)", document.read_text())) <= targets
