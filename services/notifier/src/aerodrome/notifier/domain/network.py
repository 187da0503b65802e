"""Which addresses may be called: those of the internet, and those that the configuration allows.

Whoever may choose where a message goes could otherwise reach what only this machine or its network can.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAT64 = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))


def refusal(address: Address, allowed: Sequence[Network]) -> str | None:
    """Why this address is not called, or None if it may be: every address that it stands for has to be permitted."""
    for meant in _meant(address):
        if any(meant in network for network in allowed):
            continue
        kind = _kind(meant)
        if kind is not None:
            return f"{address} is {kind}; add it to notifier.network.allow if it is meant to be called"
    return None


def _kind(address: Address) -> str | None:
    if address.is_loopback:
        return "a loopback address"
    if address.is_link_local:
        return "a link-local address"
    if address.is_multicast:
        return "a multicast address"
    if address.is_unspecified:
        return "no address of a host"
    if address.is_private or not address.is_global:
        return "a private address"
    return "a reserved address" if address.is_reserved else None


def _meant(address: Address) -> Iterator[Address]:
    """The addresses that packets to this one may end at."""
    if isinstance(address, ipaddress.IPv4Address):
        yield address
        return
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
        return
    if any(address in network for network in _NAT64):
        yield ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        return
    yield address
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
