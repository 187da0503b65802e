"""The Makefile on machines that lack something, and its help."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def make(*arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {name: text for name, text in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    if path is not None:
        environment["PATH"] = path
    return subprocess.run(
        ["make", *arguments],
        cwd=ROOT,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


def fake_python(directory: Path, body: str) -> Path:
    python = directory / "python"
    python.write_text(f"#!/bin/sh\n{body}\n")
    python.chmod(0o755)
    return python


def test_every_target_has_a_line_of_help_and_make_alone_prints_them() -> None:
    text = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    done = make()
    assert done.returncode == 0
    lines = [line.split(None, 2) for line in done.stdout.splitlines()]
    assert {line[1] for line in lines} == set(phony.split())
    assert all(len(line) == 3 for line in lines)
    assert all(len(line) <= 120 for line in done.stdout.splitlines())


def test_a_python_without_venv_is_told_what_to_install(tmp_path: Path) -> None:
    python = fake_python(tmp_path, 'case "$2" in *venv*) exit 1;; *) exit 0;; esac')
    done = make("setup", f"PYTHON={python}", f"VENV={tmp_path}/venv")
    assert done.returncode != 0
    assert "install its venv module (Debian, Ubuntu: apt-get install python3-venv)" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_a_python_that_is_too_old_is_named(tmp_path: Path) -> None:
    python = fake_python(tmp_path, 'case "$1" in -V) echo Python 3.8.1;; *) exit 1;; esac')
    done = make("setup", f"PYTHON={python}", f"VENV={tmp_path}/venv")
    assert done.returncode != 0
    assert "Aerodrome needs Python 3.11 or newer; this is Python 3.8.1" in done.stderr
    assert not (tmp_path / "venv").exists()
