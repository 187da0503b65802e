import signal
import subprocess
import sys
from pathlib import Path

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
