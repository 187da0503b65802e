"""What is read in part is read again; what is garbage is told.  What many nodes have alike is stored once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from flyteidl.core import literals_pb2
from google.protobuf.message import DecodeError

from aerodrome.propeller.literals import Corrupt, Literals, SharedValues
from aerodrome.stdlib.clock import ManualClock
from aerodrome.stdlib.errors import NotFound, PermissionDenied, Unavailable
from aerodrome.stdlib.storage.local import LocalStorage
from aerodrome.stdlib.storage.memory import MemStorage

REFERENCE = "mem://box/outputs.pb"


class Cut(MemStorage):
    """Hands out all but the last byte, so many times."""

    def __init__(self, times: int) -> None:
        super().__init__("box", clock=ManualClock())
        self.times = times

    async def read(self, reference: str, *, limit_bytes: int | None = None) -> bytes:
        data = await super().read(reference, limit_bytes=limit_bytes)
        self.times -= 1
        return data[:-1] if self.times >= 0 else data


def some() -> literals_pb2.LiteralMap:
    one = literals_pb2.Literal(scalar=literals_pb2.Scalar(primitive=literals_pb2.Primitive(integer=300)))
    return literals_pb2.LiteralMap(literals={"o0": one})


@pytest.mark.parametrize("times", [0, 1, 2])
async def test_a_map_that_was_cut_short_is_read_again(times: int) -> None:
    storage = Cut(times)
    await storage.write(REFERENCE, some().SerializeToString())
    assert await Literals(storage).read(REFERENCE) == some()


async def test_what_stays_garbage_is_corrupt() -> None:
    storage = Cut(10)
    await storage.write(REFERENCE, some().SerializeToString())
    with pytest.raises(Corrupt, match="is not a literal map"):
        await Literals(storage).read(REFERENCE)
    with pytest.raises(DecodeError):
        await Literals(storage).read_as(REFERENCE, literals_pb2.LiteralMap.FromString)


class Counting(MemStorage):
    """Counts what is written, and refuses so many times."""

    def __init__(self, refusals: int = 0) -> None:
        super().__init__("box", clock=ManualClock())
        self.refusals = refusals
        self.written: list[str] = []

    async def write(self, reference: str, data: bytes, *, content_type: str | None = None) -> None:
        await asyncio.sleep(0)
        self.refusals -= 1
        if self.refusals >= 0:
            raise Unavailable("not now")
        self.written.append(reference)
        await super().write(reference, data)


def shared_in(storage: MemStorage | LocalStorage) -> SharedValues:
    return SharedValues(Literals(storage), lambda digest: storage.join("shared", f"{digest.hex()}.pb"))


def given(**values: int) -> literals_pb2.LiteralMap:
    return literals_pb2.LiteralMap(
        literals={
            name: literals_pb2.Literal(scalar=literals_pb2.Scalar(primitive=literals_pb2.Primitive(integer=value)))
            for name, value in values.items()
        }
    )


async def test_what_many_have_alike_is_stored_once_whoever_is_first() -> None:
    storage = Counting()
    values = shared_in(storage)
    digests = await asyncio.gather(*(values.put(given(a=1, b=number % 2)) for number in range(20)))
    assert len(set(digests)) == len(storage.written) == 2
    assert digests[0] == await values.put(given(b=0, a=1)), "the order in which values were put in does not matter"


async def test_whoever_waits_for_another_to_store_it_stores_it_when_that_one_fails() -> None:
    storage = Counting(refusals=1)
    values = shared_in(storage)
    results = await asyncio.gather(*(values.put(some()) for _ in range(3)), return_exceptions=True)
    assert [isinstance(result, Unavailable) for result in results] == [True, False, False]
    assert len(storage.written) == 1


async def test_a_value_that_an_earlier_holder_stored_is_found_and_nobody_can_change_it(tmp_path: Path) -> None:
    async with LocalStorage(str(tmp_path)) as storage:
        digest = await shared_in(storage).put(some())
        assert digest is not None
        reference = storage.join("shared", f"{digest.hex()}.pb")
        assert literals_pb2.LiteralMap.FromString(await storage.read(reference)) == some()
        with pytest.raises(PermissionDenied):
            await storage.write(reference, b"")
        assert await shared_in(storage).put(some()) == digest
        await storage.delete(reference)
        await storage.write(reference, b"half")
        await storage.freeze(reference)
        assert await shared_in(storage).put(some()) == digest
        assert literals_pb2.LiteralMap.FromString(await storage.read(reference)) == some(), "a damaged one is replaced"


async def test_values_of_an_earlier_execution_are_taken_over_by_their_content() -> None:
    storage = Counting()
    values = shared_in(storage)
    await storage.write(REFERENCE, some().SerializeToString(deterministic=True))
    storage.written.clear()
    assert await values.take(REFERENCE) == await values.take(REFERENCE) == await values.put(some())
    assert len(storage.written) == 1
    with pytest.raises(NotFound):
        await values.take(storage.join("gone"))
    await storage.write(REFERENCE, b"garbage")
    with pytest.raises(DecodeError):
        await shared_in(storage).take(REFERENCE)


async def test_what_is_large_is_not_shared() -> None:
    storage = Counting()
    large = given()
    large.literals["a"].scalar.primitive.string_value = "x" * (64 << 10)
    assert await shared_in(storage).put(large) is None
    assert storage.written == []
