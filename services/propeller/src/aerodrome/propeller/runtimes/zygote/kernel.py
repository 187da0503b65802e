"""What the kernel is asked for that Python has no function for: by libc, and by /proc/self/pagemap."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from collections.abc import Iterable
from typing import Any

from .proc import MARKER, MARKER_ROOM

_MADV_POPULATE_WRITE = 23
_MADV_COLLAPSE = 25
_LARGE_PAGE_BYTES = 2 << 20
_PR_SET_NAME = 15
_PR_CAPBSET_DROP = 24
_PR_SET_CHILD_SUBREAPER = 36
_LAST_FILE = (1 << 31) - 1
_CAP_DAC_OVERRIDE = 1
_CAPABILITY_VERSION = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_close_range: Any = getattr(_libc, "close_range", None)
if _close_range is not None:
    _close_range.argtypes = [ctypes.c_uint, ctypes.c_uint, ctypes.c_int]
_libc.getenv.restype = ctypes.c_void_p
_libc.getenv.argtypes = [ctypes.c_char_p]


def obey_permissions() -> None:
    """Give up root's right to write what is read-only, here and in whatever is executed from here.

    The outputs of an attempt that succeeded are handed to others as they are, made read-only; without this a task that
    runs as root would change them.  Root goes on reading everything, and writing what is its own.
    """
    if os.geteuid() != 0:
        return
    with contextlib.suppress(OSError):  # not permitted in some containers: then only what is executed has it again
        _prctl(_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable: those below 32, then those from 32 on
    if _libc.capget(header, sets) != 0:
        raise OSError(ctypes.get_errno(), "capget")
    for each in range(3):
        sets[each] &= ~(1 << _CAP_DAC_OVERRIDE)
    if _libc.capset(header, sets) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def become_subreaper() -> None:
    """Be the parent of whatever is left by those below this process that end."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def close_all_but(kept: int) -> None:
    """Close every file of this process but the standard streams and one more."""
    for first, last in ((3, kept - 1), (kept + 1, _LAST_FILE)):
        if first <= last and (_close_range is None or _close_range(first, last, 0) != 0):  # Linux 5.9, glibc 2.34
            for name in os.listdir("/proc/self/fd"):
                if first <= int(name) <= last:
                    with contextlib.suppress(OSError):  # that of the folder which was listed
                        os.close(int(name))


def name_process(name: str) -> None:
    """Give this process the name that `ps` shows, of which 15 bytes count."""
    _prctl(_PR_SET_NAME, ctypes.c_char_p(name.encode()[:15]))


def mark(marker: str) -> None:
    """Write the marker where /proc/<pid>/environ shows it: over the room that the zygote was started with."""
    place = _libc.getenv(MARKER.encode())
    if place and len(os.environ.get(MARKER, "")) == MARKER_ROOM:
        text = marker.encode()[:MARKER_ROOM]
        ctypes.memmove(place, text + b"\0" * (MARKER_ROOM - len(text)), MARKER_ROOM)


def private_areas() -> list[tuple[int, int]]:
    """First and last address of this process' writable memory that is not shared with others by design."""
    areas = []
    with open("/proc/self/maps") as file:
        for line in file:
            fields = line.split(maxsplit=5)
            if fields[1] == "rw-p":
                first, _, last = fields[0].partition("-")
                areas.append((int(first, 16), int(last, 16)))
    return areas


def use_large_pages() -> None:
    """Have this process' memory in large pages where the kernel makes them at once (Linux 6.1).

    What a fork has to note, and the end of one to forget, is a fraction then.  What is shared with the process that
    this one was forked from becomes its own.
    """
    for first, last in private_areas():
        for start in range(-(-first // _LARGE_PAGE_BYTES) * _LARGE_PAGE_BYTES, last, _LARGE_PAGE_BYTES):
            if start + _LARGE_PAGE_BYTES <= last:  # a refusal is about this one: it is too empty, or none is free
                _libc.madvise(start, _LARGE_PAGE_BYTES, _MADV_COLLAPSE)


def copied_pages(areas: Iterable[tuple[int, int]], gap_pages: int = 1) -> list[tuple[int, int]]:
    """Start and size of what this process no longer shares with the one that it was forked from.

    Stretches that are at most `gap_pages` apart are taken as one.  Empty where the kernel does not say.  Source:
    Linux, Documentation/admin-guide/mm/pagemap.rst: bit 63 present, bit 61 of a file, bit 56 mapped only here.
    """
    page = os.sysconf("SC_PAGE_SIZE")
    found: list[list[int]] = []
    try:
        with open("/proc/self/pagemap", "rb", buffering=0) as file:
            for first, last in areas:
                file.seek(first // page * 8)
                for number, (entry,) in enumerate(struct.iter_unpack("Q", file.read((last - first) // page * 8))):
                    if entry >> 63 and entry >> 56 & 1 and not entry >> 61 & 1:
                        start = first + number * page
                        if found and found[-1][0] >= first and start - found[-1][1] <= gap_pages * page:
                            found[-1][1] = start + page
                        else:
                            found.append([start, start + page])
    except (OSError, struct.error):
        return []
    return [(start, end - start) for start, end in found]


def populate(start: int, size: int) -> bool:
    """Copy memory that is shared with the process that this one was forked from; False where the kernel cannot."""
    return bool(_libc.madvise(start, size, _MADV_POPULATE_WRITE) == 0)


def _prctl(option: int, value: Any) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}")
