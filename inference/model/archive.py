"""Zip archives of a version, taken only where every reader of their bytes finds the same members.

Readers of zip files differ: in which directory they believe, which of two members of one name they take, and what
before, between and behind the members they pass over. So an archive is taken only if there is one way to read it:

- members lie one behind the other from the first byte, then the directory in the same order, then its end, and nothing
  else; entries of the directory have no comments, and no extra fields but sizes in 64 bits where 32 do not say them
- an end in 64 bits, which some readers look for and others do not, lies between the directory and its end only
- each member is a file stored as it is (so nothing grows when it is read), unencrypted, and has its checksum
- what stands before a member says the same as the directory does
- no two names are one; those of programs are plain and relative, too, and different where upper and lower case are one

The directory is read here from its first byte to its last, because a reader that is lenient would hide what it skips.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Final

from ringpull.ps.errors import CorruptData

MAX_MEMBERS: Final = 100_000
"""Largest number of members of one archive; torch writes one for each tensor, and ten more."""

_LOCAL: Final = struct.Struct("<4s5H3I2H")
_ENTRY: Final = struct.Struct("<4s6H3I5H2I")
_END: Final = struct.Struct("<4s4H2IH")
_END_64: Final = struct.Struct("<4sQ2H2I4Q")
_LOCATOR: Final = struct.Struct("<4sIQI")
_FIELD: Final = struct.Struct("<2H")
_FULL_COUNT: Final = 0xFFFF
_FULL: Final = 0xFFFFFFFF
_SIZES_BEHIND: Final = 0x8
_UTF_8: Final = 0x800
_FLAGS: Final = _SIZES_BEHIND | _UTF_8
_IS_FOLDER: Final = 0x10
_LINK: Final = 0xA
_LARGE: Final = 0x0001
_PADDING: Final = 0x4246
"""Extra field before a member that torch fills up to where its tensors should begin."""


def is_archive(content: memoryview) -> bool:
    """Return whether bytes are a zip file for any reader: they begin as one, or end as one, behind other bytes."""
    if bytes(content[:4]) in (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08", b"PK00"):
        return True
    tail = bytes(content[-(0xFFFF + _END.size) :])
    place = tail.rfind(b"PK\x05\x06")
    while place >= 0:
        if place + _END.size <= len(tail) and _END.unpack_from(tail, place)[-1] == len(tail) - place - _END.size:
            return True
        place = tail.rfind(b"PK\x05\x06", 0, place)
    return False


def members(content: memoryview, where: str, *, plain_names: bool = True) -> dict[str, memoryview]:
    """Return the content of each member of an archive, by name and in the file's order; nothing is copied.

    Args:
        content: The whole file.
        where: Its name, for messages.
        plain_names: Whether names must be relative paths that differ in more than case: members are files to whoever
            reads a program, and only names to whoever reads samples, which those of a model's features are in.

    Raises:
        CorruptData: It is no zip file, or one that two readers could take for two different ones.
    """
    entries, directory = _directory(content, where)
    found: dict[str, memoryview] = {}
    names: set[str] = set()
    position = 0
    for entry in entries:
        _check_entry(entry, where)
        if plain_names:
            _check_plain(entry.name, where)
        name = entry.name.lower() if plain_names else entry.name
        if name in names:
            alike = " (upper and lower case are one)" if plain_names else ""
            raise CorruptData(f"{where}: member {entry.name!r} is there twice{alike}")
        names.add(name)
        begin, position = _place(content, entry, position, where)
        found[entry.name] = content[begin : begin + entry.size]
        if position > directory:
            raise CorruptData(f"{where}: member {entry.name!r} reaches into the directory")
        if zlib.crc32(found[entry.name]) != entry.crc:
            raise CorruptData(f"{where}: member {entry.name!r} has another checksum than the archive says")
    if position != directory:
        raise CorruptData(f"{where}: {directory - position} bytes between the last member and the directory")
    return found


@dataclass(frozen=True, slots=True)
class _Entry:
    """What the directory says of a member."""

    raw_name: bytes
    name: str
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    attributes: int
    offset: int


def _directory(content: memoryview, where: str) -> tuple[list[_Entry], int]:
    """Return the directory's entries, and where it begins: it goes to the last byte before its end."""
    count, size, begin, end = _end(content, where)
    if begin + size != end:
        raise CorruptData(
            f"{where}: its end tells of a directory of {size} bytes at {begin}; there are {end - begin} from there on"
        )
    if count > MAX_MEMBERS:
        raise CorruptData(f"{where}: {count} members; an archive may have {MAX_MEMBERS}")
    entries, position = [], begin
    for _ in range(count):
        entry, position = _entry(content, position, end, where)
        entries.append(entry)
    if position != end:
        raise CorruptData(f"{where}: {end - position} bytes of the directory are behind its {count} members")
    return entries, begin


def _end(content: memoryview, where: str) -> tuple[int, int, int, int]:
    """Return the directory's number of members, size and begin, as its end tells, and where it has to end."""
    end = len(content) - _END.size
    if end < 0 or bytes(content[end : end + 4]) != b"PK\x05\x06":
        raise CorruptData(f"{where}: not a zip archive, cut short, or there is something behind it")
    _, disk, first_disk, here, in_all, size, begin, comment = _END.unpack_from(content, end)
    if comment or disk or first_disk or here != in_all:
        raise CorruptData(f"{where}: there is something behind the archive, or it is a part of one")
    place = end - _LOCATOR.size
    if place < 0 or bytes(content[place : place + 4]) != b"PK\x06\x07":
        return in_all, size, begin, end
    # Whatever else these bytes may be, a comment or a part of a name, some readers go by them.
    record = place - _END_64.size
    if record < 0:
        raise CorruptData(f"{where}: cut short before its end")
    told_disk, told_place, disks = _LOCATOR.unpack_from(content, place)[1:]
    magic, size_of, _, _, *disks_64, here_64, count, size_64, begin_64 = _END_64.unpack_from(content, record)
    if (
        (magic, told_place, told_disk, disks, disks_64, size_of) != (b"PK\x06\x06", record, 0, 1, [0, 0], 44)
        or here_64 != count
        or in_all not in (count, _FULL_COUNT)
        or size not in (size_64, _FULL)
        or begin not in (begin_64, _FULL)
    ):
        raise CorruptData(f"{where}: its two ends differ")
    return count, size_64, begin_64, record


def _entry(content: memoryview, position: int, end: int, where: str) -> tuple[_Entry, int]:
    """Return the entry at a position of the directory, and where the next one is."""
    if position + _ENTRY.size > end:
        raise CorruptData(f"{where}: the directory is cut short")
    magic, _, _, flags, method, _, _, crc, *rest = _ENTRY.unpack_from(content, position)
    packed, size, name_bytes, extra_bytes, comment, disk, _, attributes, offset = rest
    name_end = position + _ENTRY.size + name_bytes
    behind = name_end + extra_bytes + comment
    if magic != b"PK\x01\x02" or behind > end:
        raise CorruptData(f"{where}: the directory is cut short, or counts more members than it has")
    raw = bytes(content[name_end - name_bytes : name_end])
    try:
        name = raw.decode("utf-8" if flags & _UTF_8 else "ascii")
    except ValueError as exc:
        raise CorruptData(f"{where}: member {raw!r}: its name is no text: {exc}") from exc
    extra = _fields(content[name_end : name_end + extra_bytes], f"{where}: member {name!r}")
    sizes = [size, packed, offset]
    large = [place for place, each in enumerate(sizes) if each == _FULL]
    if comment or disk or set(extra) - {_LARGE} or len(extra.get(_LARGE, b"")) != 8 * len(large):
        raise CorruptData(
            f"{where}: member {name!r}: its entry in the directory has a comment, another disk, or extra fields that"
            " none has here"
        )
    if large:
        for place, each in zip(large, struct.unpack(f"<{len(large)}Q", extra[_LARGE]), strict=True):
            sizes[place] = each
    size, packed, offset = sizes
    return _Entry(raw, name, flags, method, crc, packed, size, attributes, offset), behind


def _fields(extra: memoryview, what: str) -> dict[int, bytes]:
    """Return extra fields by kind: each there once, and one behind the other to the last byte."""
    found: dict[int, bytes] = {}
    position = 0
    while position < len(extra):
        if position + _FIELD.size > len(extra):
            raise CorruptData(f"{what}: its extra fields are cut short")
        kind, length = _FIELD.unpack_from(extra, position)
        position += _FIELD.size
        if position + length > len(extra) or kind in found:
            raise CorruptData(f"{what}: its extra fields are cut short, or one is there twice")
        found[kind] = bytes(extra[position : position + length])
        position += length
    return found


def _check_entry(entry: _Entry, where: str) -> None:
    name, kind = entry.name, entry.attributes >> 28
    if not name or "\0" in name:
        raise CorruptData(f"{where}: member {name!r}; names must be plain, relative paths of files")
    if kind not in (0, 8) or entry.attributes & _IS_FOLDER:
        raise CorruptData(f"{where}: member {name!r} is {'a link' if kind == _LINK else 'no file'}")
    if entry.flags & ~_FLAGS:
        raise CorruptData(f"{where}: member {name!r} is encrypted, or has flags {entry.flags:#x} that none has here")
    if entry.method or entry.packed != entry.size:
        raise CorruptData(f"{where}: member {name!r} is compressed; members must be stored as they are")


def _check_plain(name: str, where: str) -> None:
    plain = name.isprintable() and "\\" not in name and ":" not in name.partition("/")[0][:2]
    if not plain or {"", ".", ".."} & set(name.split("/")):
        raise CorruptData(f"{where}: member {name!r}; names must be plain, relative paths of files")


def _place(content: memoryview, entry: _Entry, position: int, where: str) -> tuple[int, int]:
    """Return where a member's content begins and where the next member does."""
    name = entry.name
    if entry.offset != position:
        raise CorruptData(f"{where}: member {name!r} begins at {entry.offset}; the one before ends at {position}")
    if position + _LOCAL.size > len(content):
        raise CorruptData(f"{where}: cut short at member {name!r}")
    magic, _, flags, method, _, _, crc, packed, size, name_bytes, extra = _LOCAL.unpack_from(content, position)
    name_end = position + _LOCAL.size + name_bytes
    begin, end = name_end + extra, name_end + extra + entry.size
    if end > len(content):
        raise CorruptData(f"{where}: cut short in member {name!r}")
    later = bool(flags & _SIZES_BEHIND)
    fields = _fields(content[name_end:begin], f"{where}: member {name!r}")
    same = (entry.size, entry.packed)
    given = struct.unpack("<2Q", fields[_LARGE]) if len(fields.get(_LARGE, b"")) == 16 else None
    if (
        magic != b"PK\x03\x04"
        or (flags, method) != (entry.flags, entry.method)
        or bytes(content[name_end - name_bytes : name_end]) != entry.raw_name
        or set(fields) - {_LARGE, _PADDING}
        or crc not in ((entry.crc, 0, _FULL) if later else (entry.crc,))
        or any(
            here not in ((each, 0, _FULL) if later else (each, _FULL))
            for here, each in ((size, same[0]), (packed, same[1]))
        )
        or (_FULL in (size, packed) and not later and given != same)
    ):
        raise CorruptData(f"{where}: member {name!r}: what stands before it differs from the archive's directory")
    return begin, end + (_behind(content, entry, end, where) if later else 0)


def _behind(content: memoryview, entry: _Entry, end: int, where: str) -> int:
    """Return the size of what repeats a member's sizes behind it: with a mark or without, in 32 bits or in 64."""
    for form in ("<4s3I", "<4sI2Q", "<3I", "<I2Q"):
        if end + struct.calcsize(form) > len(content):
            continue
        *mark, crc, packed, size = struct.unpack_from(form, content, end)
        if mark in ([], [b"PK\x07\x08"]) and (crc, packed, size) == (entry.crc, entry.packed, entry.size):
            return struct.calcsize(form)
    raise CorruptData(f"{where}: member {entry.name!r}: what stands behind it differs from the archive's directory")
