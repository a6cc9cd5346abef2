"""Hosts that are reached from their own machine only, as far as their names tell."""

from __future__ import annotations

import ipaddress


def is_loopback(host: str) -> bool:
    """Return whether a host, a name or an IP address without brackets or port, never leads off this machine.

    An IPv4 address within an IPv6 one (RFC 4291, 2.5.5.2) is that IPv4 address. Of names, those of RFC 6761 are known.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = host.rstrip(".")
        return name in ("localhost", "ip6-localhost", "ip6-loopback") or name.endswith(".localhost")
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)
