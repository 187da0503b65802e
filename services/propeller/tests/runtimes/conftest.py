"""Real runtimes on real processes: one that only spawns (fast to start), one that forks flytekit's tasks."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from aerodrome.propeller.runtimes import LocalRuntime

from .harness import Open, carriers


@pytest.fixture
def plain_python(tmp_path: Path) -> Path:
    """An environment without flytekit: its zygote is up in milliseconds and spawns everything."""
    folder = tmp_path / "plain" / "bin"
    folder.mkdir(parents=True)
    base = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    (folder / "python").symlink_to(base)
    return folder / "python"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory, with a space in its path and longer than a socket's path may be."""
    return tmp_path / "the data" / ("d" * 100)


@pytest.fixture
def opened(data: Path, plain_python: Path) -> Open:
    """Runs a runtime on `data` for as long as a block lasts; without flytekit unless told otherwise."""

    @asynccontextmanager
    async def run(**settings: Any) -> AsyncIterator[LocalRuntime]:
        settings = {"python": plain_python, "grace": timedelta(seconds=0.2), **settings}
        runtime = LocalRuntime(settings.pop("directory", data), **settings)
        running = asyncio.create_task(runtime.run())
        try:
            yield runtime
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
        async with asyncio.timeout(30):  # a zygote whose platform was killed before they met waits for a while
            while carriers(str(data)):  # noqa: ASYNC110  (the end of another process raises no event)
                await asyncio.sleep(0.05)

    return run


@pytest.fixture
async def runtime(opened: Open) -> AsyncIterator[LocalRuntime]:
    async with opened(slots=4) as runtime:
        yield runtime


@pytest.fixture
async def forking(opened: Open) -> AsyncIterator[LocalRuntime]:
    """A runtime in whose environment there is flytekit."""
    async with opened(python=Path(sys.executable), slots=2) as runtime:
        yield runtime
