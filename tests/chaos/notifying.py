"""A notifier that can be killed and is back at once: processes forked from one that has imported everything.

As a script it is that one.  For each line on standard input it forks a notifier that works until it is killed, and
writes its process id.  It opens nothing itself, so that a fork shares nothing with the next.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import IO

ACK_WAIT = timedelta(milliseconds=500)


class Nursery:
    """Notifiers on a database, one at a time, each killed at some time."""

    def __init__(self, dsn: str, url: str, log: Path) -> None:
        settings = {
            "channels": {"hook": {"type": "webhook", "url": url, "secret": "x"}},
            "rules": [{"name": "all", "channels": ["hook"]}],
            "network": {"allow": ["127.0.0.0/8"]},
            "timeout": "100ms",
            "resync": "200ms",
        }
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, __file__, dsn, json.dumps({"notifier": settings})],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
                start_new_session=True,
                env={**os.environ, "GRPC_ENABLE_FORK_SUPPORT": "0"},
            )

    def start(self) -> int:
        """Another one; its process id."""
        writer, reader = _open(self._process.stdin), _open(self._process.stdout)
        writer.write("\n")
        writer.flush()
        return int(reader.readline())

    def close(self) -> None:
        """End all of them."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait()
        _open(self._process.stdin).close()
        _open(self._process.stdout).close()


def _open(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


def main() -> None:
    """Be the one from which they are forked."""
    from aerodrome.notifier.config import NotifierConfig
    from aerodrome.notifier.main import Notifier
    from aerodrome.stdlib.clock import SystemClock
    from aerodrome.stdlib.postgres.database import Database
    from aerodrome.stdlib.pubsub.postgres import PostgresBus

    dsn, text = sys.argv[1:]
    config = NotifierConfig.model_validate(json.loads(text))

    async def work() -> None:
        async with (
            Database(dsn, min_size=1, max_size=8, application_name="notifier") as database,
            PostgresBus(database, ack_wait=ACK_WAIT, max_attempts=1_000, poll=timedelta(milliseconds=100)) as bus,
        ):
            await Notifier(config, database=database, bus=bus, clock=SystemClock()).run()

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    for _ in sys.stdin:
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            asyncio.run(work())
        os.write(1, f"{pid}\n".encode())


if __name__ == "__main__":
    main()
