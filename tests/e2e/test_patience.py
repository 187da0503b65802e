"""Clients that take their time.  They run beside the other tests, and are looked at when their turn comes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .conftest import Registered
from .instance import DEFAULT_PORT, Instance

SCRIPTS = Path(__file__).parent / "scripts"
IDLE_SECONDS = 121
Finish = Callable[[], tuple[int, str, str]]


@pytest.fixture(scope="session")
def patient_clients(instance: Instance, registered: Registered) -> Iterator[dict[str, Finish]]:
    """Each script in a process of its own; the functions wait for their ends."""
    endpoint = "" if instance.port == DEFAULT_PORT else instance.endpoint
    commands = {
        "waiting": ["kinds.summary", registered.version, endpoint],
        "idle": [str(IDLE_SECONDS), endpoint],
    }
    started = {
        name: subprocess.Popen(
            [sys.executable, str(SCRIPTS / f"{name}.py"), *arguments],
            env={**instance.environment, "GRPC_VERBOSITY": "info"},
            cwd=instance.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name, arguments in commands.items()
    }

    def finish(process: subprocess.Popen[str]) -> Finish:
        def wait() -> tuple[int, str, str]:
            said, complained = process.communicate(timeout=IDLE_SECONDS + 60)
            return process.returncode, said, complained

        return wait

    try:
        yield {name: finish(process) for name, process in started.items()}
    finally:
        for process in started.values():
            process.kill()
            process.wait()


@pytest.mark.timeout(240)
def test_execute_with_wait_returns_the_named_outputs(patient_clients: dict[str, Finish]) -> None:
    code, said, complained = patient_clients["waiting"]()
    assert code == 0, complained
    assert said.split() == ["True", "6", "ABC"]


@pytest.mark.timeout(240)
def test_a_client_that_was_idle_for_two_minutes_goes_on_over_the_same_connection(
    patient_clients: dict[str, Finish],
) -> None:
    code, said, complained = patient_clients["idle"]()
    assert code == 0, complained
    assert said.strip() == "same=True", complained
    for trouble in ("GOAWAY", "too_many_pings", "Traceback", "UNAVAILABLE"):
        assert trouble not in complained
