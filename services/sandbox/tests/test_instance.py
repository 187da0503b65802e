"""One instance per data directory, and what others know of it is true or nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from aerodrome.sandbox import instance
from aerodrome.stdlib.errors import FailedPrecondition


def rewrite(data_dir: Path, **changes: object) -> None:
    """Change what the state file says."""
    path = data_dir / "sandbox.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_what_is_announced_is_found_until_it_is_withdrawn(tmp_path: Path) -> None:
    announced = instance.announce(tmp_path, host="127.0.0.1", port=1234, ready=False)
    assert (announced.pid, announced.endpoint, announced.ready) == (os.getpid(), "127.0.0.1:1234", False)
    assert instance.find(tmp_path) == announced
    again = instance.announce(tmp_path, host="127.0.0.1", port=1234, ready=True)
    assert instance.find(tmp_path) == again
    instance.withdraw(tmp_path)
    assert instance.find(tmp_path) is None
    instance.withdraw(tmp_path)


def test_an_ipv6_address_is_written_in_brackets(tmp_path: Path) -> None:
    assert instance.announce(tmp_path, host="::1", port=5, ready=True).endpoint == "[::1]:5"


def test_a_second_holder_is_refused_and_told_of_the_first(tmp_path: Path) -> None:
    with instance.exclusive(tmp_path):
        instance.announce(tmp_path, host="127.0.0.1", port=4321, ready=True)
        expected = re.escape(f"(process {os.getpid()}, at 127.0.0.1:4321)")
        with pytest.raises(FailedPrecondition, match=expected) as caught, instance.exclusive(tmp_path):
            pytest.fail("two instances hold one directory")
        assert f"aerodrome down --data-dir '{tmp_path}'" in caught.value.message
        with pytest.raises(FailedPrecondition), instance.exclusive(tmp_path):
            pytest.fail("being refused has let go of the first holder's lock")


def test_a_second_holder_is_refused_before_the_first_has_said_who_it_is(tmp_path: Path) -> None:
    refused = pytest.raises(FailedPrecondition, match="another process")
    with instance.exclusive(tmp_path), refused, instance.exclusive(tmp_path):
        pytest.fail("two instances hold one directory")


def test_a_directory_is_free_once_its_holder_let_go(tmp_path: Path) -> None:
    with pytest.raises(KeyError), instance.exclusive(tmp_path):
        raise KeyError("the holder ends with an error")
    with instance.exclusive(tmp_path):
        pass


def test_directories_do_not_get_in_each_others_way(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    with instance.exclusive(one), instance.exclusive(other):
        pass


def test_the_state_of_a_dead_process_is_no_instance(tmp_path: Path) -> None:
    instance.announce(tmp_path, host="127.0.0.1", port=1, ready=True)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    rewrite(tmp_path, pid=dead.pid)
    assert instance.find(tmp_path) is None


def test_a_process_that_ended_and_was_not_reaped_is_no_instance(tmp_path: Path) -> None:
    instance.announce(tmp_path, host="127.0.0.1", port=1, ready=True)
    child = subprocess.Popen([sys.executable, "-c", ""])
    try:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        started = int(Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19])
        rewrite(tmp_path, pid=child.pid, process_started=started)
        assert instance.find(tmp_path) is None
    finally:
        child.wait()


def test_a_process_id_that_was_used_again_is_no_instance(tmp_path: Path) -> None:
    announced = instance.announce(tmp_path, host="127.0.0.1", port=1, ready=True)
    rewrite(tmp_path, process_started=announced.process_started - 1)
    assert instance.find(tmp_path) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"pid": 1}', '{"unknown": 1}'])
def test_a_state_file_that_makes_no_sense_is_no_instance(tmp_path: Path, text: str) -> None:
    (tmp_path / "sandbox.json").write_text(text)
    assert instance.find(tmp_path) is None


def test_a_directory_that_does_not_exist_holds_no_instance(tmp_path: Path) -> None:
    assert instance.find(tmp_path / "nowhere") is None
    (tmp_path / "file").write_text("")
    assert instance.find(tmp_path / "file") is None


def test_a_lock_that_is_held_while_the_state_is_stale_names_nobody(tmp_path: Path) -> None:
    announced = instance.announce(tmp_path, host="127.0.0.1", port=1, ready=True)
    rewrite(tmp_path, process_started=announced.process_started - 1)
    refused = pytest.raises(FailedPrecondition, match="another process")
    with instance.exclusive(tmp_path), refused, instance.exclusive(tmp_path):
        pytest.fail("two instances hold one directory")


def test_the_default_directory_follows_xdg_if_that_is_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert instance.default_data_dir() == Path("/data/aerodrome")
    for unusable in ("", "relative/place"):
        monkeypatch.setenv("XDG_DATA_HOME", unusable)
        assert instance.default_data_dir() == tmp_path / ".local/share/aerodrome"
