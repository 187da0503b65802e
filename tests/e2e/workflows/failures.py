"""Tasks that fail, fail and succeed, run too long, or start what they should not leave behind."""

import os
import subprocess
import time
from datetime import timedelta
from pathlib import Path

from flytekit import task, workflow
from flytekit.exceptions.user import FlyteRecoverableException


def note(path: str, text: str) -> None:
    """Append a line in one write."""
    with Path(path).open("a") as file:
        file.write(f"{text}\n")


@task(retries=3)
def divide(dividend: int, divisor: int, marker: str) -> int:
    note(marker, f"divide {os.environ['FLYTE_ATTEMPT_NUMBER']}")
    return deeper(dividend, divisor)


def deeper(dividend: int, divisor: int) -> int:
    return dividend // divisor


@workflow
def dividing(dividend: int, divisor: int, marker: str) -> int:
    return divide(dividend=dividend, divisor=divisor, marker=marker)


@workflow
def failing(marker: str) -> int:
    return dividing(dividend=1, divisor=0, marker=marker)


@task(retries=2)
def flaky(marker: str) -> int:
    attempt = int(os.environ["FLYTE_ATTEMPT_NUMBER"])
    note(marker, f"flaky {attempt}")
    if attempt < 2:
        raise FlyteRecoverableException(f"attempt {attempt} had no luck")
    return attempt


@workflow
def retrying(marker: str) -> int:
    return flaky(marker=marker)


def start_children(marker: str) -> None:
    """Two children that leave the session, one of them an orphan that ignores SIGTERM; note all pids."""
    child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    orphan = "setsid sh -c 'trap \"\" TERM; echo $$; exec 1>&-; while :; do sleep 1; done' & wait $!"
    shell = subprocess.Popen(["sh", "-c", orphan], stdout=subprocess.PIPE, text=True)
    assert shell.stdout is not None
    number = shell.stdout.readline().strip()
    shell.kill()
    shell.wait()
    note(marker, f"{os.getpid()} {child.pid} {number}")


@task(timeout=timedelta(seconds=2))
def overlong(marker: str) -> int:
    start_children(marker)
    time.sleep(1000)
    return 1


@workflow
def timing_out(marker: str) -> int:
    return overlong(marker=marker)


@task
def endless(marker: str) -> int:
    start_children(marker)
    time.sleep(1000)
    return 1


@workflow
def aborted(marker: str) -> int:
    return endless(marker=marker)
