"""The reference of filters is what the code says."""

from __future__ import annotations

from pathlib import Path

from aerodrome.admin.domain.filters import COLUMNS, JOINABLE
from aerodrome.admin.filters_doc import main, render

PAGE = Path(__file__).resolve().parents[4] / "docs" / "filters.md"


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "run: python -m aerodrome.admin.filters_doc docs/filters.md"


def test_the_page_names_every_field_of_every_list(tmp_path: Path) -> None:
    page = tmp_path / "filters.md"
    assert main([str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    for entity in JOINABLE:
        assert all(f"| `{column}` |" in text for column in COLUMNS[entity])


def test_a_file_must_be_named() -> None:
    assert main([]) == 2
