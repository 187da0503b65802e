"""Tasks that leave what no well-behaved task leaves."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from flytekit import task, workflow


def leave(name: str, content: bytes = b"", size: int | None = None) -> None:
    """Write a file of the attempt's results, and end the process before flytekit writes its own."""
    prefix = Path(sys.argv[sys.argv.index("--output-prefix") + 1])
    prefix.mkdir(parents=True, exist_ok=True)
    with (prefix / name).open("wb") as file:
        file.write(content)
        if size is not None:
            file.truncate(size)
    sys.stdout.flush()
    os._exit(0)


@task
def leaves(name: str, what: str) -> int:
    match what:
        case "a gigabyte":
            leave(name, size=1 << 30)
        case "garbage":
            leave(name, os.urandom(4096))
        case "nothing":
            os._exit(0)
        case "a cut message":
            leave(name, b"\n\x20\n\x02o0\x12\x06\n\x04\n")
    return 1


@workflow
def leaving(name: str, what: str) -> int:
    return leaves(name=name, what=what)


@task
def shouts(mib: int) -> int:
    if mib:
        raise ValueError("x" * (mib << 20))
    return mib


@workflow
def shouting(mib: int) -> int:
    return shouts(mib=mib)


@task
def numbers(which: str) -> float:
    return float(which)


@task
def doubled(number: float) -> float:
    return number * 2


@workflow
def odd_numbers(which: str) -> float:
    return doubled(number=numbers(which=which))


@task
def odd_in_a_dict(which: str) -> dict:  # type: ignore[type-arg]
    return {"number": float(which)}


@workflow
def odd_dict(which: str) -> dict:  # type: ignore[type-arg]
    return odd_in_a_dict(which=which)


@task
def returns_text() -> int:
    return "not a number"  # type: ignore[return-value]


@workflow
def wrong_type() -> int:
    return returns_text()


@task
def imports() -> int:
    import a_package_that_nobody_has  # type: ignore[import-not-found]

    return int(a_package_that_nobody_has.number)


@workflow
def importing() -> int:
    return imports()


@task
def ends(how: str) -> int:
    if how.startswith("signal"):
        os.kill(os.getpid(), int(how.split()[1]))
    if how.startswith("exit"):
        os._exit(int(how.split()[1]))
    return 1


@workflow
def ending(how: str) -> int:
    return ends(how=how)
