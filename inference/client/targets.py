"""Targets: the addresses that clients and commands are given, read in one way. No I/O.

A target is HOST:PORT of a head's gRPC port, or HOST alone for the default port; an IPv6 host stands in brackets where a
port follows. gRPC's own forms are taken too: `unix:PATH`, `dns:///HOST:PORT`, `ipv4:`, `ipv6:` and others. gRPC by
itself reads much as something else: of port 99999 it takes the lower 16 bits, and without a port it asks at 443.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from typing import Final

from ringpull.inference.loopback import is_loopback
from ringpull.ps.errors import InvalidInput

DEFAULT_PORT: Final = 8500
"""Port of gRPC where a target names none."""

MAX_PORT: Final = 65_535

AS_THEY_ARE: Final = ("unix:", "unix-abstract:", "vsock:", "xds:", "google-c2p:")
"""Beginnings of targets that are gRPC's own business."""

RESOLVED: Final = ("dns:", "ipv4:", "ipv6:")
"""Beginnings after which an address follows that has a port."""

EXAMPLE: Final = "write HOST:PORT, such as 127.0.0.1:8500"

_HOST: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?")
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)


def parse_targets(target: str | Sequence[str], name: str = "target") -> tuple[str, ...]:
    """Return the addresses in `"a:1,b:2"` or `["a:1", "b:2"]`, each once, in their order, written in one way.

    Args:
        name: What the message calls it.

    Raises:
        InvalidInput: There is none, or one that is no address.
    """
    texts = target.split(",") if isinstance(target, str) else target
    if not isinstance(texts, Sequence) or isinstance(texts, bytes) or not all(isinstance(each, str) for each in texts):
        raise InvalidInput(f"{name} is {target!r}; it must be a text or a list of texts: {EXAMPLE}")
    stripped = [text.strip() for text in texts]
    if not stripped or not all(stripped):
        raise InvalidInput(f"{name} is {target!r}; it must be HOST:PORT, or several of them")
    return tuple(dict.fromkeys(parse_target(text, name) for text in stripped))


def parse_target(text: str, name: str = "target", *, port_needed: bool = False) -> str:
    """Return one address, written in one way: HOST:PORT with a host in lower case, or a form of gRPC's own.

    Args:
        name: What the message calls it, such as `--target`.
        port_needed: Whether an address without a port is refused.

    Raises:
        InvalidInput: It is none; the message says what to write.
    """
    if not isinstance(text, str):
        raise InvalidInput(f"{name} is {text!r}; it must be a text: {EXAMPLE}")
    if text.startswith(AS_THEY_ARE):
        if not text.partition(":")[2].strip("/"):
            raise InvalidInput(f"{name} {text!r} names nothing after {text.partition(':')[0]}:")
        return text
    for scheme in RESOLVED:
        if text.startswith(scheme):
            authority, address = _split_authority(text.removeprefix(scheme))
            return f"{scheme}{authority}{_address(address, text, name, port_needed)}"
    if found := _SCHEME.fullmatch(text):
        raise InvalidInput(f"{name} {text!r}: write HOST:PORT{_such(_without_url(found[2]))}, without {found[1]}://")
    bare = _without_url(text)
    if bare != text:  # a path, as of a URL, or a user
        raise InvalidInput(f"{name} {text!r}: write HOST:PORT{_such(bare)}")
    return _address(text, text, name, port_needed)


def stays_here(target: str) -> bool:
    """Return whether a target, as `parse_target` gives it, never leaves this machine."""
    return target.startswith(("unix:", "unix-abstract:")) or is_loopback(host_of(target))


def host_of(target: str) -> str:
    """Return the host of a target, as `parse_target` gives it; empty of one that has none."""
    for scheme in RESOLVED:
        if target.startswith(scheme):
            target = _split_authority(target.removeprefix(scheme))[1]
    return "" if target.startswith(AS_THEY_ARE) else target.rpartition(":")[0].strip("[]")


def proxy_of(target: str, environment: Mapping[str, str]) -> str:
    """Return the variable of the environment that has gRPC go through a proxy to a target; empty: it goes straight.

    gRPC looks at the same variables, in the same order.
    """
    if stays_here(target) or target.startswith((*AS_THEY_ARE, "ipv4:", "ipv6:")):
        return ""
    variable = next((each for each in ("grpc_proxy", "https_proxy", "http_proxy") if environment.get(each)), "")
    without = environment.get("no_grpc_proxy") or environment.get("no_proxy") or ""
    return "" if any(_covers(each.strip(), host_of(target)) for each in without.split(",")) else variable


def _covers(entry: str, host: str) -> bool:
    """Return whether an entry of `no_proxy` is about a host: the end of its name, or a network it is in."""
    if not entry:
        return False
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return host.endswith(entry.lower())


def _split_authority(text: str) -> tuple[str, str]:
    """Split `//AUTHORITY/ADDRESS` or `ADDRESS`."""
    if not text.startswith("//"):
        return "", text
    authority, slash, address = text[2:].partition("/")
    return f"//{authority}{slash}", address


def _address(text: str, whole: str, name: str, port_needed: bool = False) -> str:
    """Return HOST:PORT of what was written for it.

    Raises:
        InvalidInput: It is none.
    """
    host, port = _parted(text, whole, name)
    if port is None and (port_needed or host.isdecimal()):
        raise InvalidInput(f"{name} {whole!r}: {EXAMPLE}")
    if port is None:
        port = str(DEFAULT_PORT)
    digits = port.lstrip("0") if port.isascii() and port.isdecimal() else ""
    # Python refuses to read a number of thousands of digits.
    if not 1 <= len(digits) <= len(str(MAX_PORT)) or int(digits) > MAX_PORT:
        raise InvalidInput(f"{name} {whole!r}: the port is {port!r}, and must be from 1 to {MAX_PORT}; {EXAMPLE}")
    return f"{_host(host, whole, name)}:{digits}"


def _parted(text: str, whole: str, name: str) -> tuple[str, str | None]:
    """Split host and port; None: there is no port."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise InvalidInput(f"{name} {whole!r}: write an IPv6 address as [::1]:{DEFAULT_PORT}")
        return f"[{host}]", rest[1:] if rest else None
    if text.count(":") > 1:
        head, _, last = text.rpartition(":")
        if _is_ipv6(head) and last.isdecimal():
            raise InvalidInput(
                f"{name} {whole!r} can be read in two ways: write [{text}]:{DEFAULT_PORT}, or [{head}]:{last}"
            )
        return f"[{text}]", None
    host, colon, port = text.partition(":")
    return host, port if colon else None


def _host(host: str, whole: str, name: str) -> str:
    if host.startswith("["):
        if not _is_ipv6(host[1:-1]):
            raise InvalidInput(f"{name} {whole!r}: {host[1:-1]!r} is no IPv6 address; {EXAMPLE}")
        return f"[{ipaddress.IPv6Address(host[1:-1])}]"
    if not host.isascii():
        raise InvalidInput(f"{name} {whole!r}: write the host's name in ASCII (xn--...)")
    if not _HOST.fullmatch(host):
        what = f"{host!r} is no host" if host else "there is no host"
        raise InvalidInput(f"{name} {whole!r}: {what}; {EXAMPLE}")
    return host.lower()


def _without_url(text: str) -> str:
    """Return what is an address in a URL without its scheme: no user, no path."""
    return re.split(r"[/?#]", text, maxsplit=1)[0].rpartition("@")[2]


def _such(text: str) -> str:
    """Return how an address is to be written, for a message; empty of what is none."""
    try:
        return f", here {_address(text, text, 'target')}"
    except InvalidInput:
        return ""


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True
