"""Deterministic names: pods, node executions, child executions, raw-output shards and labels.

Every side effect of a task is named by a function of (execution, node, attempt) alone, so that a restarted engine finds
what an earlier one made.  The formulas are shared with clients and with stored data and must match bit for bit.
Source: spec/data-plane.md, sections 1.15, 2.1, 2.2 and 2.7 (labels).
"""

from __future__ import annotations

import re
from base64 import b32encode
from collections.abc import Iterable
from typing import Final

MAX_NODE_ID: Final = 20
"""Longest unique node id and child execution name, in characters."""
MAX_GENERATED_NAME: Final = 50
"""Longest generated name, in characters; a plugin may ask for less."""
MAX_LABEL: Final = 63
MAX_POD_NAME: Final = 253

_FNV: Final = {
    32: (0x811C9DC5, 0x01000193),
    64: (0xCBF29CE484222325, 0x00000100000001B3),
}
"""Offset basis and prime of FNV-1a by width in bits."""

_BASE32: Final = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", b"abcdefghijklmnopqrstuvwxyz123456")
_SHARD_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz0123456789"
_SHARD_KEYS: Final = 32

_DNS_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)
_DNS_SUBDOMAIN: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", re.ASCII)


def fnv1a(data: bytes, bits: int) -> int:
    """FNV-1a of `data`; `bits` is 32 or 64."""
    value, prime = _FNV[bits]
    mask = (1 << bits) - 1
    for byte in data:
        value = ((value ^ byte) * prime) & mask
    return value


def base32(data: bytes) -> str:
    """Base 32 over a-z and 1-6, without padding: the alphabet of hashed names and of secret annotations."""
    return b32encode(data).translate(_BASE32).rstrip(b"=").decode("ascii")


def fixed(s: str, max_len: int, bits: int = 32) -> str:
    """`s` itself if it has at most `max_len` characters, else `f` and its hash (8 characters, or 14 with 64 bits).

    The length counts bytes of UTF-8.  Raises ValueError if even the hash is longer than `max_len`.
    """
    encoded = s.encode()
    if len(encoded) <= max_len:
        return s
    hashed = "f" + base32(fnv1a(encoded, bits).to_bytes(bits // 8, "big"))
    if len(hashed) > max_len:
        raise ValueError(f"a hashed name has {len(hashed)} characters, which does not fit into {max_len}")
    return hashed


def join(parts: Iterable[str], max_len: int, bits: int = 32) -> str:
    """`parts` joined by `-` (empty leading parts vanish), then `fixed` to `max_len`."""
    joined = ""
    for part in parts:
        joined = f"{joined}-{part}" if joined else part
    return fixed(joined, max_len, bits)


def unique_node_id(parent_unique_id: str, parent_attempt: int | None, node_id: str) -> str:
    """Identity of a node within its execution: the node id, qualified by the nesting node and that node's attempt.

    At the top level `parent_unique_id` is empty and `parent_attempt` None.
    """
    attempt = "" if parent_attempt is None else str(parent_attempt)
    return join((parent_unique_id, attempt, node_id), MAX_NODE_ID)


def item_id(array_unique_id: str, array_attempt: int, index: int) -> str:
    """Identity of an item of an array; the hash of long ones has 64 bits, as there may be a great many items."""
    return join((array_unique_id, str(array_attempt), f"n{index}"), MAX_NODE_ID, 64)


def generated_name(execution: str, unique_node_id: str, attempt: int, max_len: int = MAX_GENERATED_NAME) -> str:
    """Name of one attempt's object, and the owner id of its cache reservations."""
    return join((execution, unique_node_id, str(attempt)), max_len)


def item_generated_name(execution: str, item_id: str, attempt: int) -> str:
    """Name of the object of an item's attempt; there may be too many of them for a hash of 32 bits."""
    return join((execution, item_id, str(attempt)), MAX_GENERATED_NAME, 64)


def child_execution_name(execution: str, unique_node_id: str, attempt: int) -> str:
    """Name of the execution that a launch-plan node starts; hashed with 64 bits."""
    return join((execution, unique_node_id, str(attempt)), MAX_NODE_ID, 64)


def pod_name(generated: str) -> str:
    """`generated` as a DNS-1123 subdomain: unchanged if it is one already, else converted.

    Camel case becomes kebab case, the rest is lower-cased, invalid characters go, `.` and `-` are trimmed, and more
    than 253 characters are cut with a hash at the end.  A name of which nothing remains becomes its hash.
    """
    if len(generated) <= MAX_POD_NAME and _DNS_SUBDOMAIN.fullmatch(generated):
        return generated
    kebab = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", generated)
    name = re.sub(r"[^-a-z0-9.]", "", kebab.lower())
    name = ".".join(label for part in name.split(".") if (label := part.strip("-")))
    digest = base32(fnv1a(generated.encode(), 32).to_bytes(4, "big"))
    if not name:
        return f"f{digest}"
    if len(name) > MAX_POD_NAME:
        name = f"{name[: MAX_POD_NAME - len(digest) - 1].rstrip('.-')}-{digest}"
    return name


def is_dns_label(name: str) -> bool:
    """Whether `name` is a DNS-1123 label, as container names must be."""
    return _DNS_LABEL.fullmatch(name) is not None


def raw_output_shard(generated: str) -> str:
    """The two characters that spread raw outputs over key prefixes of the object store."""
    index = fnv1a(generated.encode(), 32) % len(_SHARD_ALPHABET) ** 2
    high, low = divmod(index, len(_SHARD_ALPHABET))
    return _SHARD_ALPHABET[high] + _SHARD_ALPHABET[low]


def shard_key(execution: str) -> int:
    """The execution's shard, 0 to 31: value of the `shard-key` label."""
    return fnv1a(execution.encode(), 32) % _SHARD_KEYS


def per_retry_unique_key(generated: str) -> str:
    """`generated` as an identifier that SQL engines accept: a letter first, then letters, digits and `_`."""
    key = re.sub(r"[^A-Za-z0-9_]", "_", generated)
    return re.sub(r"^[^A-Za-z]", "a", key)


def sanitize_label(text: str) -> str:
    """`text` as a Kubernetes label value of ours: a-z, 0-9 and `-`, trimmed, at most 63 characters."""
    cleaned = re.sub(r"[^a-z0-9-]", "-", text.lower()).strip("-")
    return cleaned[:MAX_LABEL].strip("-")
