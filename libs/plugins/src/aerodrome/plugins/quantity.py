"""Kubernetes quantities such as `500m`, `1Gi` and `2e3`, and the rules that bound what a task may ask for.

Quantities stay text; they are parsed to compare them.  Source: spec/data-plane.md, section 2.7 (adjustment), and the
Kubernetes resource model.
"""

from __future__ import annotations

import functools
import re
from decimal import ROUND_CEILING, Context, Decimal
from typing import Final, NamedTuple

_QUANTITY: Final = re.compile(
    r"(?P<number>[+-]?(?:\d+\.?\d*|\.\d+))(?:(?P<suffix>[KMGTPE]i|[numkMGTPE])|[eE](?P<exponent>[+-]?\d{1,3}))?",
    re.ASCII,
)
_SCALE: Final = {
    "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"),
    "k": Decimal(10**3), "M": Decimal(10**6), "G": Decimal(10**9),
    "T": Decimal(10**12), "P": Decimal(10**15), "E": Decimal(10**18),
    "Ki": Decimal(2**10), "Mi": Decimal(2**20), "Gi": Decimal(2**30),
    "Ti": Decimal(2**40), "Pi": Decimal(2**50), "Ei": Decimal(2**60),
}  # fmt: skip
_MAX_TEXT: Final = 64
_LARGEST: Final = Decimal(2**63 - 1)
_SMALLEST_STEP: Final = Decimal("1e-9")
_EXACT: Final = Context(prec=200)


def parse(text: str) -> Decimal:
    """The value of `text`, in units (cores, bytes, devices).

    As in Kubernetes, values beyond 2^63-1 are that, and what is finer than 1n is rounded up (away from zero) to it.
    Raises ValueError if `text` is no quantity.
    """
    stripped = text.strip()
    value = _value(stripped) if len(stripped) <= _MAX_TEXT else None
    if value is None:
        raise ValueError(
            f"{text[:_MAX_TEXT]!r} is not a Kubernetes quantity: write a number with an optional suffix, such as "
            "500m, 2, 1Gi or 1.5G"
        )
    return value


@functools.lru_cache(maxsize=1024)  # the same few are read many times for each pod
def _value(text: str) -> Decimal | None:
    """The value of a text of bounded length; None if it is no quantity."""
    match = _QUANTITY.fullmatch(text)
    if match is None:
        return None
    value = Decimal(match["number"])
    if match["suffix"]:
        value = _EXACT.multiply(value, _SCALE[match["suffix"]])
    elif match["exponent"]:
        value = _EXACT.scaleb(value, Decimal(int(match["exponent"])))
    if abs(value) > _LARGEST:
        return _LARGEST.copy_sign(value)
    steps = _EXACT.divide(abs(value), _SMALLEST_STEP).to_integral_value(rounding=ROUND_CEILING, context=_EXACT)
    return _EXACT.multiply(steps, _SMALLEST_STEP).copy_sign(value) if steps else Decimal(0)


def compare(left: str, right: str) -> int:
    """-1, 0 or 1 as `left` is less than, equal to, or more than `right`.  Raises ValueError."""
    a, b = parse(left), parse(right)
    return (a > b) - (a < b)


def smaller(left: str, right: str) -> str:
    """The text of the smaller one; `left` if they are equal.  Raises ValueError."""
    return right if parse(right) < parse(left) else left


def whole(text: str) -> int:
    """The value rounded up to an integer: bytes of memory, whole devices.  Raises ValueError."""
    return int(parse(text).to_integral_value(rounding=ROUND_CEILING))


def is_given(text: str | None) -> bool:
    """Whether `text` asks for anything: neither absent nor zero.  Raises ValueError."""
    return bool(text) and parse(str(text)) != 0


class Bounds(NamedTuple):
    """A request and its limit; None where there is none."""

    request: str | None
    limit: str | None


def adjust(request: str | None, limit: str | None, default: str | None, maximum: str | None) -> Bounds:
    """Complete and bound one resource of a container that the platform sizes.

    A missing request becomes the limit, else the platform's `default`; a missing limit becomes the request; both are
    cut to the platform's `maximum`; the request never exceeds the limit.  Zero means missing.  Raises ValueError.
    """
    low = _given(request) or _given(limit) or _given(default)
    high = _given(limit) or low
    return clamp(low, high, maximum)


def clamp(request: str | None, limit: str | None, maximum: str | None) -> Bounds:
    """Bound what is there and add nothing: both at most `maximum`, the request at most the limit.

    Raises ValueError.
    """
    ceiling = _given(maximum)
    if ceiling is not None:
        request = None if request is None else smaller(request, ceiling)
        limit = None if limit is None else smaller(limit, ceiling)
    if request is not None and limit is not None:
        request = smaller(request, limit)
    return Bounds(request, limit)


def _given(text: str | None) -> str | None:
    return text if is_given(text) else None
