"""Messages that a broker has handed over although the reader who asked for them waits no more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from aerodrome.stdlib.pubsub.bus import Message


class Pulled:
    """Keeps them for the next reader of the subscription, or gives them back if there is none.

    `turn` is held by whoever reads; `told` is called when there is something for who does.
    """

    def __init__(
        self,
        turn: asyncio.Lock,
        give_back: Callable[[Message], Coroutine[Any, Any, None]],
        told: Callable[[], None] = lambda: None,
    ) -> None:
        self._turn = turn
        self._give_back = give_back
        self._told = told
        self._messages: list[Message] = []
        self._returning: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._messages)

    def pop(self) -> Message:
        """The one that came first."""
        return self._messages.pop(0)

    def keep(self, pulling: asyncio.Future[Message | None]) -> None:
        """A request has ended whose reader has gone; a callback of that request."""
        if pulling.cancelled() or pulling.exception() is not None:
            return
        message = pulling.result()
        if message is None:
            return
        if self._turn.locked():
            self._messages.append(message)
            self._told()
        else:
            returning = asyncio.ensure_future(self._give_back(message))
            self._returning.add(returning)
            returning.add_done_callback(self._returning.discard)
