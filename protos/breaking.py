"""Refuses a change of our protos that a program built on the landed ones would not survive (`buf breaking`).

They are compared with the commit that LANDED names; else with the main branch of the remote repository, where this one
has another head; else with the commit before this one.  Without git or an earlier commit there is nothing to compare.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PROTOS = Path(__file__).resolve().parent
BUF = Path(sys.executable).parent / "buf"


def main() -> int:
    """Compare; the exit status is that of buf, and 0 if there is nothing to compare with."""
    landed = _landed()
    if landed is None:
        sys.stdout.write("buf breaking: no earlier protos to compare with\n")
        return 0
    archive = _git("archive", landed, "protos")
    if archive is None:
        sys.stdout.write(f"buf breaking: {landed} has no protos\n")
        return 0
    with tempfile.TemporaryDirectory() as directory:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(directory, filter="data")
        sys.stdout.write(f"buf breaking: against {landed}\n")
        sys.stdout.flush()
        against = Path(directory) / "protos"
        return subprocess.run([BUF, "breaking", "--against", str(against)], cwd=PROTOS, check=False).returncode


def _landed() -> str | None:
    head = _revision("HEAD")
    if given := os.environ.get("LANDED"):
        if (named := _revision(given)) is None:
            raise SystemExit(f"LANDED={given} names no commit of this repository")
        return named
    for name in ("origin/HEAD", "origin/main"):
        if (found := _revision(name)) and found != head:
            return _text(_git("merge-base", found, "HEAD"))
    return _revision("HEAD^1")


def _revision(name: str) -> str | None:
    return _text(_git("rev-parse", "--verify", "--quiet", name))


def _text(output: bytes | None) -> str | None:
    return output.decode().strip() if output else None


def _git(*arguments: str) -> bytes | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=PROTOS.parent, check=False, capture_output=True)
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None


if __name__ == "__main__":
    sys.exit(main())
