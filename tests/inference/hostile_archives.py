"""Archives that one reader takes for a good program and another for a hostile one, packed by hand.

Which member is last, where a directory is and whether there is a second one can be told in several places of a zip
file, and `zipfile`, by which they could be looked through, and torch's reader look at different ones.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Final

from tests.inference.hostile_programs import CONSTANTS, GRAPH, ROOT, Members, members_of, packed

BLOB: Final = ROOT + "extra/blob"
_LOCAL_SIZE: Final = 30


def local(name: str, content: bytes, *, flags: int = 0x800, extra: bytes = b"") -> bytes:
    """Return a member as it stands in an archive."""
    sizes = zlib.crc32(content), len(content), len(content)
    head = struct.pack("<4s5H3I2H", b"PK\3\4", 0, flags, 0, 0, 0, *sizes, len(name.encode()), len(extra))
    return head + name.encode() + extra + content


def entry(
    name: str,
    content: bytes,
    offset: int,
    *,
    flags: int = 0x800,
    extra: bytes = b"",
    comment: bytes = b"",
    disk: int = 0,
    attributes: int = 0,
    size: int = -1,
) -> bytes:
    """Return a member's entry in the directory."""
    sizes = zlib.crc32(content), len(content), len(content) if size < 0 else size
    lengths = len(name.encode()), len(extra), len(comment)
    head = struct.pack("<4s6H3I5H2I", b"PK\1\2", 0, 0, flags, 0, 0, 0, *sizes, *lengths, disk, 0, attributes, offset)
    return head + name.encode() + extra + comment


def end(count: int, size: int, begin: int, *, disk: int = 0) -> bytes:
    """Return the end of an archive."""
    return struct.pack("<4s4H2IH", b"PK\5\6", disk, disk, count, count, size, begin, 0)


def end_64(count: int, size: int, begin: int) -> bytes:
    """Return the end of an archive in 64 bits."""
    return struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, begin)


def locator(place: int) -> bytes:
    """Return what says where the end in 64 bits is."""
    return struct.pack("<4sIQI", b"PK\6\7", 0, place, 1)


def directory_of(members: Members, first: int, last: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """Return members one behind the other, and their directory.

    Args:
        first: Where they begin in the file.
        last: What the entry of the last one has besides.
    """
    body = directory = b""
    for number, (name, content) in enumerate(members.items(), 1):
        directory += entry(name, content, first + len(body), **(last if number == len(members) else {}))
        body += local(name, content)
    return body, directory


def by_hand(members: Members, last: Mapping[str, Any] | None = None, more: bytes = b"", **of_end: int) -> bytes:
    """Return an archive of members; `more` is counted to its directory."""
    body, directory = directory_of(members, 0, last or {})
    directory += more
    return body + directory + end(len(members), len(directory), len(body), **of_end)


def _two_directories(good: Members, evil: Members) -> tuple[Members, int]:
    """Return the good members behind one that holds the evil ones as an archive, and where the end of that is."""
    first = _LOCAL_SIZE + len(BLOB) + 64
    body, directory = directory_of(evil, first, {})
    second = end_64(len(evil), len(directory), first + len(body))
    blob = bytes(64) + body + directory + second + bytes(64)
    return {BLOB: blob, **good}, first + len(body) + len(directory)


def _locator_in_a_comment(good: bytes, evil: bytes) -> bytes:
    both, place = _two_directories(members_of(good), members_of(evil))
    return by_hand(both, {"comment": locator(place)})


def _locator_in_an_extra_field(good: bytes, evil: bytes) -> bytes:
    both, place = _two_directories(members_of(good), members_of(evil))
    return by_hand(both, {"extra": struct.pack("<2H", 0x7777, 20) + locator(place)})


def _ends_counted_to_the_directory(good: bytes, evil: bytes) -> bytes:
    both, place = _two_directories(members_of(good), members_of(evil))
    body, directory = directory_of(both, 0, {})
    ends = end_64(len(both), len(directory), len(body)) + locator(place)
    return body + directory + ends + end(len(both), len(directory) + len(ends), len(body))


def _locator_of_another_end(good: bytes, evil: bytes) -> bytes:
    both, place = _two_directories(members_of(good), members_of(evil))
    body, directory = directory_of(both, 0, {})
    ends = end_64(len(both), len(directory), len(body)) + locator(place)
    return body + directory + ends + end(len(both), len(directory), len(body))


def _ends_with_a_gap(good: bytes, evil: bytes) -> bytes:
    members = members_of(good)
    body, directory = directory_of(members, 0, {})
    before = body + directory + bytes(8)
    ends = end_64(len(members), len(directory), len(body)) + locator(len(before))
    return before + ends + end(len(members), len(directory), len(body))


def _last(**last: Any) -> Callable[[bytes, bytes], bytes]:
    return lambda good, evil: by_hand(members_of(good), last)


def _another_order(good: bytes, evil: bytes) -> bytes:
    members = members_of(good)
    body, _ = directory_of(members, 0, {})
    entries, offset = [], 0
    for name, content in members.items():
        entries.append(entry(name, content, offset))
        offset += len(local(name, content))
    directory = b"".join(reversed(entries))
    return body + directory + end(len(members), len(directory), len(body))


def _field_before(good: bytes, evil: bytes) -> bytes:
    """A name in Unicode before the member, which some readers take for its name."""
    members = members_of(good)
    name, content = "archive/extra/x", b"text"
    extra = struct.pack("<2HBI", 0x7075, 5 + 4, 1, zlib.crc32(name.encode())) + b"name"
    body, directory = directory_of(members, 0, {})
    directory += entry(name, content, len(body))
    body += local(name, content, extra=extra)
    return body + directory + end(len(members) + 1, len(directory), len(body))


def _overlapping(good: bytes, evil: bytes) -> bytes:
    """Two entries of one member, under two names."""
    members = members_of(good)
    body, directory = directory_of(members, 0, {})
    directory += entry(CONSTANTS + "tensor_9", members[GRAPH], body.index(GRAPH.encode()) - _LOCAL_SIZE)
    return body + directory + end(len(members) + 1, len(directory), len(body))


def _within(make: Callable[[bytes, bytes], bytes], name: str) -> Callable[[bytes, bytes], bytes]:
    return lambda good, evil: packed({**members_of(good), name: make(good, evil)})


def _within_torchs(good: bytes, evil: bytes) -> bytes:
    """In an archive that torch unpickles, whose second directory has another pickle."""
    both, place = _two_directories(
        {"archive/data.pkl": b"\x80\x02}.", "archive/version": b"3\n"},
        {"archive/data.pkl": members_of(evil)[ROOT + "data/sample_inputs/model.pt"], "archive/version": b"3\n"},
    )
    content = by_hand(both, {"comment": locator(place)})
    return packed({**members_of(good), ROOT + "data/sample_inputs/model.pt": content})


TWO_READERS: Final[dict[str, Callable[[bytes, bytes], bytes]]] = {
    "a locator in a comment of a member": _locator_in_a_comment,
    "a locator in an extra field": _locator_in_an_extra_field,
    "a locator that is counted to the directory": _ends_counted_to_the_directory,
    "a locator of an end in a member": _locator_of_another_end,
    "a gap before the end in 64 bits": _ends_with_a_gap,
    "a locator in a comment, in an archive within": _within(_locator_in_a_comment, ROOT + "extra/more"),
    "a locator in a comment, in an archive of torch": _within_torchs,
    "a comment of a member": _last(comment=b"text"),
    "an extra field": _last(extra=struct.pack("<2HBI", 0x7075, 9, 1, 0) + b"name"),
    "half an extra field": _last(extra=b"\1\0\x08"),
    "sizes in 64 bits that 32 say": _last(extra=struct.pack("<2HQ", 1, 8, 5)),
    "sizes in 64 bits that are not there": _last(size=0xFFFFFFFF),
    "a member on another disk": _last(disk=1),
    "a member that is a folder to DOS": _last(attributes=0x10),
    "an archive on another disk": lambda good, evil: by_hand(members_of(good), disk=1),
    "bytes in the directory": lambda good, evil: by_hand(members_of(good), more=bytes(8)),
    "an entry that is not counted": lambda good, evil: by_hand(members_of(good), more=entry(BLOB, b"", 0)),
    "a directory in another order": _another_order,
    "a field before a member": _field_before,
    "one member under two names": _overlapping,
}
"""Name of a kind -> what makes an archive of it, of a good and a hostile one."""
