"""How often something may be done."""

from __future__ import annotations


class Bucket:
    """Tokens that come back at `rate` per second, up to `burst` of them; time is the caller's, in seconds."""

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._at = now

    def wait(self, now: float) -> float:
        """Seconds until there is a token; 0: there is one."""
        self._refill(now)
        # A token that is short by a rounding error is one, or a waiter would come back too early for ever.
        return 0.0 if self._tokens >= 1 - 1e-9 else (1 - self._tokens) / self._rate

    def take(self, now: float) -> None:
        """Use a token that `wait` said is there."""
        self._refill(now)
        self._tokens -= 1

    def _refill(self, now: float) -> None:
        if now > self._at:
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
            self._at = now
