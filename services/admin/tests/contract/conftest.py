"""The database server of this package's tests."""

from __future__ import annotations

from aerodrome.stdlib.postgres.testing import postgres_server

__all__ = ["postgres_server"]
