"""How a run on several workers shares the tests: by file, and all end-to-end tests together.

The end-to-end tests share one platform, which has the port that clients look at when nobody configures them.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from aerodrome.stdlib import logger

TOGETHER = ("tests/e2e/",)
_NOBODY = 65534


class Scheduling(LoadFileScheduling):
    """`--dist loadfile`, with folders whose files stay together."""

    def _split_scope(self, nodeid: str) -> str:
        for folder in TOGETHER:
            if nodeid.startswith(folder):
                return folder
        scope: str = super()._split_scope(nodeid)
        return scope


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling | None:
    """Ours instead of xdist's where files are what is shared out."""
    return Scheduling(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    """A test that serves something configures the log of the whole process; the next one must not find it so."""
    with logger.restored():
        yield


@pytest.fixture
def ordinary_folder() -> Iterator[Path]:
    """A folder of an ordinary user, as whom the test acts, also where root runs it."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(_NOBODY)
    try:
        with tempfile.TemporaryDirectory(dir="/tmp") as folder:
            yield Path(folder)
    finally:
        os.seteuid(before)
