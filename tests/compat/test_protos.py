"""What is generated from `protos/` is what `libs/idl` holds, and what breaks the protos that landed is refused."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
IDL = Path("libs/idl/src/aerodrome/idl")
needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


def sources(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in sorted(folder.rglob("*.py*"))
        if path.suffix != ".pyc"
    }


def test_generating_again_changes_nothing(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "protos", tmp_path / "protos")
    (tmp_path / IDL).mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, tmp_path / "protos" / "generate.py"],
        env={**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    made = {path.name for path in (tmp_path / IDL).iterdir() if path.is_dir()}
    assert made == {path.name for path in (ROOT / "protos" / "aerodrome").iterdir()}
    for area in made:
        assert sources(tmp_path / IDL / area) == sources(ROOT / IDL / area)


@pytest.fixture
def landed(tmp_path: Path) -> Path:
    """A repository whose only commit holds the protos."""
    shutil.copytree(ROOT / "protos", tmp_path / "protos")
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    for arguments in (("init", "-q"), ("add", "protos"), (*identity, "commit", "-q", "-m", "Land the protos")):
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True)
    return tmp_path


def compare(repository: Path, against: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, repository / "protos" / "breaking.py"],
        cwd=repository,
        env={**os.environ, "LANDED": against},
        check=False,
        capture_output=True,
        text=True,
    )


@needs_git
def test_a_change_that_breaks_what_landed_is_refused(landed: Path) -> None:
    assert compare(landed, "HEAD").returncode == 0
    proto = landed / "protos" / "aerodrome" / "journal" / "v1" / "journal.proto"
    text = proto.read_text()
    proto.write_text(text.replace("int64 session_id = 1;", "int64 session_id = 100;", 1))
    done = compare(landed, "HEAD")
    assert done.returncode != 0
    assert "journal.proto" in done.stdout + done.stderr


@needs_git
def test_the_first_protos_are_compared_with_nothing(landed: Path) -> None:
    done = compare(landed, "")
    assert done.returncode == 0
    assert "no earlier protos" in done.stdout


@needs_git
def test_a_commit_that_does_not_exist_is_named(landed: Path) -> None:
    done = compare(landed, "nowhere")
    assert done.returncode != 0
    assert "nowhere" in done.stderr
