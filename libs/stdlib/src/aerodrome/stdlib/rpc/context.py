"""What is known about the call that is being answered: its id, who makes it, and until when the caller waits.

Context variables, set at the door of each call and inherited by tasks that the handler starts.
"""

from __future__ import annotations

import os
import time
from contextvars import ContextVar, Token
from dataclasses import dataclass, field

REQUEST_ID_HEADER = "x-request-id"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who makes a call; empty without authentication."""

    user_id: str = ""
    app_id: str = ""
    scopes: frozenset[str] = field(default_factory=frozenset)


NOBODY = Identity()

_request_id: ContextVar[str] = ContextVar("aerodrome_request_id", default="")
_identity: ContextVar[Identity] = ContextVar("aerodrome_identity", default=NOBODY)
_deadline: ContextVar[float | None] = ContextVar("aerodrome_deadline", default=None)

Entered = tuple[Token[str], Token[Identity], Token[float | None]]


def request_id() -> str:
    """The id of the call, for logs; empty outside of one.  Source: spec/control-plane.md, section 0.5."""
    return _request_id.get()


def new_request_id() -> str:
    """An id for a call that came without one: `a-` and 20 random characters."""
    return "a-" + os.urandom(10).hex()


def identity() -> Identity:
    """Who makes the call, as far as a door found out."""
    return _identity.get()


def set_identity(who: Identity) -> None:
    """For the door that authenticates: who makes the call, from here to its end."""
    _identity.set(who)


def deadline() -> float | None:
    """When the caller stops waiting, in seconds of `time.monotonic`; None: never."""
    return _deadline.get()


def time_remaining() -> float | None:
    """Seconds until the caller stops waiting, never below zero; None: it waits for ever."""
    at = _deadline.get()
    return None if at is None else max(0.0, at - time.monotonic())


def enter(request: str, until: float | None) -> Entered:
    """Begin a call: its id (empty: a new one), nobody's identity, and its deadline; for the door."""
    return _request_id.set(request or new_request_id()), _identity.set(NOBODY), _deadline.set(until)


def leave(entered: Entered) -> None:
    """End what `enter` began, in the same task."""
    _request_id.reset(entered[0])
    _identity.reset(entered[1])
    _deadline.reset(entered[2])
