"""What an attempt leaves as it got it is handed to the next one; what it touched is not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from aerodrome.propeller.runtimes.zygote.distributions import Laid
from aerodrome.propeller.runtimes.zygote.spares import Spares, make_scratch
from aerodrome.propeller.runtimes.zygote.template import Template

FILES = [("flow.py", 0o100644, b"A = 1", 10**18), ("p", 0o040755, b"", 0), ("p/q.py", 0o100644, b"B = 2", 10**18)]
LAID = Laid("content", "/tree", FILES)


class Code:
    """What `Spares` asks a template for; counts how often all of it had to be read."""

    def __init__(self) -> None:
        self.read = 0

    def stamps(self, folder: str) -> Any:
        return LAID.stamps(folder)

    def is_intact(self, folder: str) -> bool:
        self.read += 1
        return LAID.is_in(folder)


class Attempts:
    """Attempts one after the other, as a zygote and its children serve them."""

    def __init__(self, folder: Path) -> None:
        self.code = Code()
        (folder / "spares").mkdir()
        self.spares = Spares(str(folder / "spares"), 2, cast(Template, self.code))
        self._folder = folder
        self._number = 0

    def run(self, task: Callable[[Path, Path], object] = lambda code, scratch: None) -> tuple[bool, bool]:
        """Whether it got code, and a folder of flytekit's, that another had."""
        self._number += 1
        work = self._folder / str(self._number)
        (work / "tmp").mkdir(parents=True)
        lent = self.spares.lend()
        told = lent.written()
        job = {"folder": str(work / "code"), "environment": {"TMPDIR": str(work / "tmp")}, **told}
        if told["spare_code"]:
            os.rename(told["spare_code"], work / "code")
        else:
            (work / "code").mkdir()
            LAID.lay(str(work / "code"))
        scratch = work / "tmp" / str(told["scratch"])
        make_scratch(str(scratch), told["spare_scratch"])
        for each in ("user_space", "sandbox/local_flytekit/engine_dir", f"sandbox/local_flytekit/{self._number}"):
            (scratch / each).mkdir(parents=True, exist_ok=True)
        assert LAID.is_in(str(work / "code"))
        assert sum(len(files) for _, _, files in os.walk(scratch)) == 0
        task(work / "code", scratch)
        self.spares.keep(job, lent)
        shutil.rmtree(work, ignore_errors=True)
        return told["spare_code"] is not None, told["spare_scratch"] is not None


@pytest.fixture
def attempts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Attempts:
    monkeypatch.setattr("aerodrome.propeller.runtimes.zygote.spares._SURE_SECONDS", -60.0)  # nothing is too young
    return Attempts(tmp_path)


def test_what_was_not_touched_is_used_again_and_its_code_is_read_once(attempts: Attempts) -> None:
    assert attempts.run() == (False, False)
    assert [attempts.run() for _ in range(3)] == [(True, True)] * 3
    assert attempts.code.read == 1


def test_what_changed_lately_is_read_again(tmp_path: Path) -> None:
    attempts = Attempts(tmp_path)
    attempts.run()
    attempts.run()
    assert attempts.code.read == 2


def change_and_hide(code: Path, scratch: Path) -> None:
    path = code / "flow.py"
    before = path.stat()
    path.write_bytes(b"A = 2")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace_and_hide(code: Path, scratch: Path) -> None:
    path = code / "p" / "q.py"
    before = path.stat()
    path.with_suffix(".new").write_bytes(b"B = 3")
    path.with_suffix(".new").rename(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    "task",
    [
        change_and_hide,
        replace_and_hide,
        lambda code, scratch: (code / "more.py").touch(),
        lambda code, scratch: (code / "p" / "more").mkdir(),
        lambda code, scratch: (code / "flow.py").unlink(),
        lambda code, scratch: os.link(code / "flow.py", scratch / "flow.py"),
        lambda code, scratch: shutil.rmtree(code),
    ],
)
def test_code_that_was_touched_is_not_used_again(attempts: Attempts, task: Callable[[Path, Path], object]) -> None:
    attempts.run()
    assert attempts.run(task)[0]
    assert not attempts.run()[0]


@pytest.mark.parametrize(
    "task",
    [
        lambda code, scratch: (scratch / "left").touch(),
        lambda code, scratch: (scratch / "user_space" / "left").mkdir(),
        lambda code, scratch: (scratch / "sandbox/local_flytekit/engine_dir/left").symlink_to("/"),
        lambda code, scratch: (scratch / "user_space").chmod(0o500),
        lambda code, scratch: (scratch / "user_space").rmdir(),
        lambda code, scratch: shutil.rmtree(scratch),
    ],
)
def test_a_folder_of_flytekits_in_which_something_was_left_is_not_used_again(
    attempts: Attempts, task: Callable[[Path, Path], object]
) -> None:
    attempts.run()
    assert attempts.run(task)[1]
    assert not attempts.run()[1]


def test_what_a_task_left_in_its_own_folder_is_put_aside(attempts: Attempts) -> None:
    attempts.run(
        lambda code, scratch: next((scratch / "sandbox/local_flytekit").glob("[0-9]*")).joinpath("left").touch()
    )
    assert attempts.run()[1]


def test_nothing_behind_a_link_is_removed(attempts: Attempts, tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "precious").mkdir(parents=True)

    def link(code: Path, scratch: Path) -> None:
        shutil.rmtree(scratch / "sandbox" / "local_flytekit")
        (scratch / "sandbox" / "local_flytekit").symlink_to(tmp_path / "elsewhere")

    attempts.run(link)
    assert (tmp_path / "elsewhere" / "precious").is_dir()  # neither moved nor removed
    assert not attempts.run()[1]


def test_what_was_lent_and_never_used_is_lent_again(attempts: Attempts) -> None:
    attempts.run()
    lent = attempts.spares.lend()
    attempts.spares.give_back(lent)
    assert attempts.spares.lend() == lent
