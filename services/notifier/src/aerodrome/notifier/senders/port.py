"""The port of senders, and what they have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from aerodrome.notifier.domain.deliveries import MAX_ANSWER_CHARS, Planned, Result

HIDDEN = "[hidden]"


class Sender(Protocol):
    """A way out."""

    async def send(self, delivery: Planned) -> Result:
        """Try once; what goes wrong is told in the result, and nothing in it is secret.

        May be cancelled at any time; whoever calls it sets the deadline.
        """
        ...

    async def aclose(self) -> None:
        """Let go of connections."""
        ...


def shown(text: object, secrets: Sequence[str] = ()) -> str:
    """A text of the other side, or of a library, as it may be kept: short, and without any of `secrets`."""
    found = str(text).replace("\0", "")
    for secret in sorted((each for each in secrets if each), key=len, reverse=True):
        found = found.replace(secret, HIDDEN)
    found = " ".join(found.split())
    return found if len(found) <= MAX_ANSWER_CHARS else f"{found[: MAX_ANSWER_CHARS - 1]}…"
