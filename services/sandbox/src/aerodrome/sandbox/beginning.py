"""What `aerodrome up` knows before its configuration is read, which takes as long as making a database does.

It imports next to nothing.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from pathlib import Path


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is reached from this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def surely_embedded(files: Sequence[Path], secrets_dir: Path | None, variables: Iterable[str]) -> bool:
    """Whether the database is ours whatever the configuration turns out to be, so that making it may begin at once.

    `variables` are the names of the environment.  A file may name another server, and so may a variable with the
    section's name in it, in any of the forms that names of settings have.  Secrets are checked before anything is made.
    """
    if files or secrets_dir is not None:
        return False
    return not any("database" in "".join(filter(str.isalpha, name)).lower() for name in variables)
