"""SQL kept as SQL: named statements in files beside the code that runs them.

    -- name: get_by_key
    SELECT id, spec FROM executions WHERE project = $1 AND domain = $2 AND name = $3;

A statement begins after its `-- name:` line and reaches to the next one or the end of the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources

from aerodrome.stdlib.errors import Internal

_NAME = re.compile(r"^--\s*name:\s*(?P<name>\S+)\s*$", re.MULTILINE)


class Queries:
    """The statements of one file: `queries.get_by_key` is the text under that name."""

    def __init__(self, source: str, texts: Mapping[str, str]) -> None:
        self._source = source
        self._texts = dict(texts)

    def __getattr__(self, name: str) -> str:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self._texts[name]
        except KeyError:
            raise AttributeError(f"{self._source} has no query named {name}; it has {', '.join(self._texts)}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)


_NAMED: dict[str, tuple[str, str, str]] = {}


def named(text: str) -> tuple[str, str, str] | None:
    """Package, file and name of a statement that was loaded, by its text; None if it was not."""
    return _NAMED.get(text)


@cache
def load_queries(package: str, filename: str) -> Queries:
    """The queries of `filename`, a resource of `package` (usually `__package__`).

    Raises Internal if a name is no identifier, occurs twice, or has no statement, and if text precedes the first name.
    """
    source = f"{package}/{filename}"
    texts = parse(source, resources.files(package).joinpath(filename).read_text(encoding="utf-8"))
    _NAMED.update((text, (package, filename, name)) for name, text in texts.items())
    return Queries(source, texts)


def parse(source: str, text: str) -> dict[str, str]:
    """The statements of a file's `text` by name; `source` is for messages."""
    marks = list(_NAME.finditer(text))
    before = text[: marks[0].start()] if marks else text
    if any(line.strip() and not line.lstrip().startswith("--") for line in before.splitlines()):
        raise Internal(f"{source}: a statement precedes the first `-- name:` line")
    found: dict[str, str] = {}
    for index, mark in enumerate(marks):
        name = mark["name"]
        end = marks[index + 1].start() if index + 1 < len(marks) else len(text)
        body = text[mark.end() : end].strip().rstrip(";").rstrip()
        if not name.isidentifier() or name.startswith("_"):
            raise Internal(f"{source}: {name!r} cannot be the name of a query")
        if name in found:
            raise Internal(f"{source}: there are two queries named {name}")
        if not body:
            raise Internal(f"{source}: the query {name} is empty")
        found[name] = body
    return found
