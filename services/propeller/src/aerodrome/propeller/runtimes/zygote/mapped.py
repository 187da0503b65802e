"""Map tasks, made once for all the items that would each make theirs."""

from __future__ import annotations

import sys
from typing import Any

from .commands import MAP_RESOLVER


def make_ahead(loader: list[str]) -> None:
    """Make the map task of these arguments of its resolver, for whoever asks for it in a fork of this process.

    Nothing is done, and each makes its own, where flytekit is another one than is known here, or the task cannot be
    made: then each attempt says why.
    """
    module, _, name = MAP_RESOLVER.rpartition(".")
    resolver: Any = getattr(sys.modules.get(module), name, None)
    load = getattr(resolver, "load_task", None)
    make: Any = getattr(load, "__wrapped__", None)
    # What it wraps is replaced, so that flytekit goes on noting in its timeline how long that took.
    wrapped = [cell for cell in getattr(load, "__closure__", None) or () if cell.cell_contents is make]
    if make is None or len(wrapped) != 1:
        return
    try:
        task = make(resolver(), loader_args=list(loader), max_concurrency=None)
    except Exception:  # noqa: BLE001  (code of the user, which fails in each attempt alike)
        return

    def find(self: Any, loader_args: list[str], max_concurrency: Any = 0) -> Any:
        if max_concurrency is None and list(loader_args) == loader:
            return task
        return make(self, loader_args, max_concurrency)

    wrapped[0].cell_contents = find
