"""What is read in part is read again; what is garbage is told."""

from __future__ import annotations

import pytest
from flyteidl.core import literals_pb2
from google.protobuf.message import DecodeError

from aerodrome.propeller.literals import Corrupt, Literals
from aerodrome.stdlib.clock import ManualClock
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
