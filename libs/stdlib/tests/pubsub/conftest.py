from aerodrome.stdlib.postgres.testing import postgres_server

__all__ = ["postgres_server"]
