"""Each distribution names what it imports, so that it can be installed by itself."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MEMBERS = sorted(path.parent for path in [*ROOT.glob("libs/*/pyproject.toml"), *ROOT.glob("services/*/pyproject.toml")])


def project(member: Path) -> dict[str, object]:
    table: dict[str, object] = tomllib.loads((member / "pyproject.toml").read_text())["project"]
    return table


def dependencies(member: Path) -> set[str]:
    named = project(member)["dependencies"]
    assert isinstance(named, list)
    return {text.partition("=")[0].partition(">")[0] for text in named}


def imported_members(member: Path) -> set[str]:
    found: set[str] = set()
    for source in (member / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
                if node.module == "aerodrome":
                    names = [f"aerodrome.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            found |= {f"aerodrome-{name.split('.')[1]}" for name in names if name.startswith("aerodrome.")}
    return found


@pytest.mark.parametrize("member", [pytest.param(member, id=member.name) for member in MEMBERS])
def test_a_member_depends_on_the_members_that_it_imports(member: Path) -> None:
    assert imported_members(member) - {f"aerodrome-{member.name}"} <= dependencies(member)


def test_the_whole_is_all_of_its_members_at_one_version() -> None:
    whole = project(ROOT)
    assert whole["dependencies"] == sorted(f"aerodrome-{member.name}=={whole['version']}" for member in MEMBERS)
    assert {project(member)["version"] for member in MEMBERS} == {whole["version"]}


def test_setup_installs_every_member() -> None:
    (line,) = [line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("MEMBERS := ")]
    assert set(line.split()[2:]) == {str(member.relative_to(ROOT)) for member in MEMBERS} | {"."}
