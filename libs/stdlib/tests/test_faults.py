import signal
import subprocess
import sys
from pathlib import Path

import pytest

from aerodrome.stdlib import faults
from aerodrome.stdlib.faults import Faults

_PASS = "from aerodrome.stdlib import faults\nfor _ in range(5): faults.point('here'); print('passed', flush=True)"


def run(directory: Path | None) -> subprocess.CompletedProcess[str]:
    environment = {} if directory is None else {"AERODROME_FAULTS": str(directory)}
    return subprocess.run([sys.executable, "-c", _PASS], env=environment, capture_output=True, text=True, timeout=60)


def test_a_point_does_nothing_by_itself() -> None:
    done = run(None)
    assert (done.returncode, done.stdout.count("passed")) == (0, 5), done.stderr


def test_a_planned_fault_happens_once_at_its_passing(tmp_path: Path) -> None:
    (tmp_path / "plan").write_text("elsewhere 1 kill\nhere 3 kill\nhere 2 wait=0.01\n")
    killed = run(tmp_path)
    assert (killed.returncode, killed.stdout.count("passed")) == (-signal.SIGKILL, 2)
    assert (tmp_path / "fired-1").exists()
    assert (tmp_path / "fired-2").exists()
    assert not (tmp_path / "fired-0").exists()
    assert run(tmp_path).returncode == 0


def test_a_plan_may_be_replaced_while_processes_run(tmp_path: Path) -> None:
    planned = Faults(tmp_path)
    assert planned.due("here") == []
    (tmp_path / "plan").write_text("here 2 fail\n")
    assert [planned.due("here") for _ in range(3)] == [[], ["fail"], []]
    (tmp_path / "next").write_text("here 1 cut\n")
    (tmp_path / "fired-0").unlink()
    (tmp_path / "next").rename(tmp_path / "plan")
    assert planned.due("here") == ["cut"]
    (tmp_path / "plan").unlink()
    assert planned.due("here") == []


def test_what_happens_by_chance_follows_from_its_seed_and_leaves_a_mark_each_time(tmp_path: Path) -> None:
    (tmp_path / "plan").write_text("here 0.5:7 fail\n")
    happened = [bool(Faults(tmp_path).due("here")) for _ in range(3)]
    assert len(set(happened)) == 1
    (tmp_path / "fired-0").unlink(missing_ok=True)
    planned = Faults(tmp_path)
    count = sum(bool(planned.due("here")) for _ in range(100))
    assert 30 < count < 70
    assert len((tmp_path / "fired-0").read_text().splitlines()) == count


def test_a_point_raises_what_is_planned_and_tells_what_it_does_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "_faults", Faults(tmp_path))
    (tmp_path / "plan").write_text("here 1 fail\nhere 2 explode\n")
    with pytest.raises(faults.Injected, match="here"):
        faults.point("here")
    with pytest.raises(ValueError, match="explode"):
        faults.point("here")
    faults.point("here")
