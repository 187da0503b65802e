"""Generates the Python of our protos into `aerodrome.idl`, so that `protos/aerodrome/journal/v1` is
`aerodrome.idl.journal.v1` and cannot collide with a service's package of the same name.

Run by `make protos`; needs `buf` and the protoc plugins of the virtual environment on PATH.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GENERATED = ROOT / "build" / "gen"
TARGET = ROOT / "libs" / "idl" / "src" / "aerodrome" / "idl"


def main() -> None:
    """Lint, generate, and move the result to where it is imported from."""
    subprocess.run(["buf", "lint"], cwd=ROOT / "protos", check=True)
    shutil.rmtree(GENERATED, ignore_errors=True)
    subprocess.run(["buf", "generate"], cwd=ROOT / "protos", check=True)
    areas = sorted(path.name for path in (GENERATED / "aerodrome").iterdir())
    for area in areas:
        shutil.rmtree(TARGET / area, ignore_errors=True)
    ours = re.compile(rf"\baerodrome\.(?=(?:{'|'.join(areas)})\.v\d)")
    for source in (GENERATED / "aerodrome").rglob("*.py*"):
        target = TARGET / source.relative_to(GENERATED / "aerodrome")
        target.parent.mkdir(parents=True, exist_ok=True)
        lines = source.read_text().splitlines(keepends=True)
        target.write_text("".join(ours.sub("aerodrome.idl.", line) if _is_import(line) else line for line in lines))
        for package in [target.parent, target.parent.parent]:
            (package / "__init__.py").touch()


def _is_import(line: str) -> bool:
    # The descriptor and the method names keep the proto package; only Python's imports move.
    return "import" in line or "_pb2" in line


if __name__ == "__main__":
    main()
