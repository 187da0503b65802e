"""Statements of lists, put together from texts of ours; whatever a caller wrote is a bound parameter."""

from __future__ import annotations

from typing import Any

from aerodrome.datacatalog.domain.paging import Page


class Conditions:
    """A WHERE clause and its parameters."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self.parameters: list[Any] = []

    def add(self, text: str, *values: Any) -> None:
        """A condition in which `{}` stand for `values`."""
        numbers = []
        for value in values:
            self.parameters.append(value)
            numbers.append(f"${len(self.parameters)}")
        self._texts.append(text.format(*numbers))

    def sql(self, select: str) -> str:
        """`select` with the conditions."""
        return f"{select} WHERE {' AND '.join(self._texts)}" if self._texts else select

    def page(self, select: str, page: Page, alias: str) -> str:
        """`select` with the conditions, and of the rows those of `page` and one more, to see whether it is the last."""
        sign, order = (">", "ASC") if page.ascending else ("<", "DESC")
        if page.after_created_at is not None:
            self.add(f"({alias}.created_at, {alias}.id) {sign} ({{}}, {{}})", page.after_created_at, page.after_id)
        text = f"{self.sql(select)} ORDER BY {alias}.created_at {order}, {alias}.id {order} LIMIT {page.limit + 1}"
        return f"{text} OFFSET {page.offset}" if page.offset else text
