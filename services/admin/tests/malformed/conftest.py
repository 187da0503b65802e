"""One control plane for the tests of a module: what they send is refused, or lies beside what was there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from aerodrome.stdlib.postgres.testing import ServerForTests, postgres_server

from .world import World, world

__all__ = ["postgres_server"]


@pytest.fixture(scope="module")
def platform(postgres_server: ServerForTests, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(postgres_server, tmp_path_factory.mktemp("store")) as made:
        yield made
