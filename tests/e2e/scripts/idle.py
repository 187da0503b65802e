"""A user's session: look at the platform, do nothing for a while, look again; say over which connections."""

import os
import sys
import time
from pathlib import Path

from flytekit.configuration import Config
from flytekit.remote import FlyteRemote

seconds, endpoint = float(sys.argv[1]), sys.argv[2]
remote = FlyteRemote(
    Config.for_endpoint(endpoint, insecure=True) if endpoint else Config.for_sandbox(),
    default_project="flytesnacks",
    default_domain="development",
)


def sockets() -> list[str]:
    """The network sockets that are open in this process."""
    links = (os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink())
    return sorted(link for link in links if link.startswith("socket:"))


remote.recent_executions(limit=1)
before = sockets()
time.sleep(seconds)
during = sockets()
remote.recent_executions(limit=1)
sys.stdout.write(f"same={bool(before) and before == during == sockets()}\n")
