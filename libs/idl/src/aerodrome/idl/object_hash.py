"""The content hash of a protobuf message that the cache and offloaded literals share with every Flyte 1 engine.

The message's canonical JSON form is hashed as a tree with SHA-256, so field numbers, map order and unset fields do not
matter.  Source: spec/data-plane.md, section 4.3.
"""

from __future__ import annotations

import math
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from typing import TypeAlias

from google.protobuf.json_format import Error, MessageToDict
from google.protobuf.message import Message

Json: TypeAlias = bool | float | int | str | Sequence["Json"] | Mapping[str, "Json"] | None

_MAX_NAME = 64
"""Longest key whose digest is kept, in characters."""


def object_hash(message: Message) -> bytes:
    """The 32-byte digest of `message`.  Raises ValueError for what JSON cannot hold (NaN inside a Struct)."""
    try:
        return json_hash(MessageToDict(message))
    except Error as error:  # it derives from Exception alone
        raise ValueError(str(error)) from error


def object_hash_text(message: Message) -> str:
    """`object_hash` in URL-safe base 64 without padding: the form that tags, dataset versions and literals carry."""
    return hash_text(object_hash(message))


def json_hash(value: Json) -> bytes:
    """The 32-byte digest of a JSON tree; every number counts as a 64-bit float."""
    if isinstance(value, str):
        return sha256(b"u" + value.encode()).digest()
    if isinstance(value, bool):
        return sha256(b"b1" if value else b"b0").digest()
    if value is None:
        return sha256(b"n").digest()
    if isinstance(value, int | float):
        return sha256(b"f" + number_text(float(value)).encode("ascii")).digest()
    if isinstance(value, Mapping):
        if len(value) == 1:
            ((key, member),) = value.items()
            return sha256(b"d" + _key_hash(key) + json_hash(member)).digest()
        return sha256(b"d" + b"".join(sorted(_key_hash(key) + json_hash(value[key]) for key in value))).digest()
    return sha256(b"l" + b"".join(map(json_hash, value))).digest()


def members_hash(field: str, members: Mapping[str, bytes]) -> bytes:
    """The digest of a message whose one field is the map `field`, from the digests of the map's values.

    It equals `object_hash` of that message; whoever needs the digest of each value as well hashes everything once.
    """
    if not members:
        return json_hash({})
    inner = sha256(b"d" + b"".join(sorted(_key_hash(key) + digest for key, digest in members.items()))).digest()
    return sha256(b"d" + _key_hash(field) + inner).digest()


def hash_text(digest: bytes) -> str:
    """A digest in URL-safe base 64 without padding."""
    return urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


def number_text(number: float) -> str:
    """The text of a float that is hashed: sign, binary exponent, `:`, then the bits of the mantissa.

    Raises ValueError for infinities and NaN, which have no such form.
    """
    if number == 0:
        return "+0:"
    if not math.isfinite(number):
        raise ValueError(f"{number} has no place in a hashed document")
    sign = "-" if number < 0 else "+"
    mantissa, exponent = math.frexp(abs(number))
    if mantissa == 0.5:  # frexp halves to [0.5, 1); this form has (0.5, 1]
        mantissa, exponent = 1.0, exponent - 1
    bits = []
    while mantissa:
        if mantissa >= 1:
            bits.append("1")
            mantissa -= 1
        else:
            bits.append("0")
        mantissa *= 2
    return f"{sign}{exponent}:{''.join(bits)}"


def _key_hash(key: str) -> bytes:
    return _name_hash(key) if len(key) <= _MAX_NAME else sha256(b"u" + key.encode()).digest()


@lru_cache(maxsize=1024)
def _name_hash(name: str) -> bytes:
    """Digest of a short key; the few names of fields make up most of a document."""
    return sha256(b"u" + name.encode()).digest()
