"""Times statements by repository and by what they do, under the names that dashboards of Flyte read.

    <prefix><service>:database:<repository>:{create,get,update,list,exists,delete}_ms
    <prefix><service>:database:errors:{already_exists,undefined_table,postgres_error}

A statement is known by its text: the file that it is kept in is the repository, the package is its service, and it does
what its first change is, unless its name says more.  What no file holds (lists, whose filters vary) counts as `other`.
A statement costs about a microsecond more.  Source: spec/control-plane.md, section 14.4.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from aerodrome.stdlib.errors import AerodromeError
from aerodrome.stdlib.postgres.queries import named
from aerodrome.stdlib.telemetry.metrics import BoundStopWatch, Metrics

_READS = ("list", "exists")
"""First words of the names of statements that say more than SELECT does."""
_VERBS: Mapping[str, str] = {"INSERT INTO": "create", "UPDATE": "update", "DELETE FROM": "delete"}
_CHANGE = re.compile(r"(?<!FOR )\b(INSERT INTO|UPDATE|DELETE FROM)\b(?! SET)")
"""What changes rows, which locking them (FOR UPDATE) and resolving conflicts (DO UPDATE SET) do not by themselves."""
_ERRORS: Mapping[str | None, str] = {"23505": "already_exists", "42P01": "undefined_table"}
"""What has a counter of its own, by what PostgreSQL calls it."""
_COMMENT = re.compile(r"--.*")


class QueryMeter:
    """The statements of a process; `prefix` as in `flyte:`."""

    def __init__(self, metrics: Metrics, *, prefix: str = "flyte:", service: str = "admin") -> None:
        """`service` is whose statements those are that no file holds, and whose the errors are."""
        self._metrics = metrics
        self._prefix = prefix
        self._service = service
        self._known: dict[str, BoundStopWatch] = {}
        self._other = metrics.stopwatch(f"{prefix}{service}:database:other:query").labelled()
        scope = f"{prefix}{service}:database:errors"
        self._errors = {what: metrics.counter(f"{scope}:{what}") for what in (*_ERRORS.values(), "postgres_error")}

    def ended(self, query: str, seconds: float) -> None:
        """A statement was answered, well or not."""
        (self._known.get(query) or self._find(query)).observe(seconds)

    def failed(self, error: AerodromeError) -> None:
        """A statement was refused."""
        state = getattr(error.__cause__, "sqlstate", None)
        self._errors[_ERRORS.get(state, "postgres_error")].add()

    def _find(self, query: str) -> BoundStopWatch:
        found = named(query)
        if found is None:
            return self._other
        package, file, name = found
        parts = package.split(".")
        service = parts[1] if len(parts) > 1 else self._service
        repository = file.removesuffix(".sql")
        watch = self._metrics.stopwatch(f"{self._prefix}{service}:database:{repository}:{_verb(name, query)}")
        made = self._known[query] = watch.labelled()
        return made


def _verb(name: str, query: str) -> str:
    word = name.partition("_")[0]
    if word in _READS:
        return word
    change = _CHANGE.search(_COMMENT.sub("", query))
    return "get" if change is None else _VERBS[change[1]]
