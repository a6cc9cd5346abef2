"""Zip archives of a version, taken only where every reader of their bytes finds the same members.

Readers of zip files differ: in which directory they believe, which of two members of one name they take, and what
before, between and behind the members they pass over. So an archive is taken only if there is one way to read it:

- members lie one behind the other from the first byte, then the directory, then its end, and nothing else
- each member is stored as it is (so nothing grows when it is read), unencrypted, and has its checksum
- what stands before a member says the same as the directory does
- names are plain, relative and different, also where upper and lower case are one
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from typing import Final

from ringpull.ps.errors import CorruptData

MAX_MEMBERS: Final = 100_000
"""Largest number of members of one archive; torch writes one for each tensor, and ten more."""

_LOCAL: Final = struct.Struct("<4s5H3I2H")
_END: Final = struct.Struct("<4s4H2IH")
_END_64: Final = struct.Struct("<4sQ2H2I4Q")
_LOCATOR: Final = struct.Struct("<4sIQI")
_FULL: Final = 0xFFFFFFFF
_SIZES_BEHIND: Final = 0x8
_UTF_8: Final = 0x800
_FLAGS: Final = _SIZES_BEHIND | _UTF_8
_LINK: Final = 0xA


def is_archive(content: memoryview) -> bool:
    """Return whether bytes are a zip file for any reader: they begin as one, or end as one, behind other bytes."""
    if bytes(content[:4]) in (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08", b"PK\x00\x00PK"):
        return True
    tail = bytes(content[-(0xFFFF + _END.size) :])
    place = tail.rfind(b"PK\x05\x06")
    while place >= 0:
        if place + _END.size <= len(tail) and _END.unpack_from(tail, place)[-1] == len(tail) - place - _END.size:
            return True
        place = tail.rfind(b"PK\x05\x06", 0, place)
    return False


def members(content: memoryview, where: str) -> dict[str, memoryview]:
    """Return the content of each member of an archive, by name and in the file's order; nothing is copied.

    Args:
        content: The whole file.
        where: Its name, for messages.

    Raises:
        CorruptData: It is no zip file, or one that two readers could take for two different ones.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
            directory = archive.start_dir
    except Exception as exc:  # zipfile raises errors of many roots for bytes it does not understand
        raise CorruptData(f"{where}: not a zip archive: {type(exc).__name__}: {exc}") from exc
    if len(infos) > MAX_MEMBERS:
        raise CorruptData(f"{where}: {len(infos)} members; an archive may have {MAX_MEMBERS}")
    _check_end(content, directory, len(infos), where)
    found: dict[str, memoryview] = {}
    names: set[str] = set()
    position = 0
    for info in infos:
        _check_name(info, names, where)
        begin, position = _place(content, info, position, where)
        found[info.filename] = content[begin : begin + info.file_size]
        if zlib.crc32(found[info.filename]) != info.CRC:
            raise CorruptData(f"{where}: member {info.filename!r} has another checksum than the archive says")
    if position != directory:
        raise CorruptData(f"{where}: {directory - position} bytes between the last member and the directory")
    return found


def _check_name(info: zipfile.ZipInfo, names: set[str], where: str) -> None:
    name, original = info.filename, info.orig_filename
    plain = name.isprintable() and "\\" not in name and ":" not in name.partition("/")[0][:2]
    if name != original or not plain or {"", ".", ".."} & set(name.split("/")):
        raise CorruptData(f"{where}: member {original!r}; names must be plain, relative paths of files")
    if name.lower() in names:
        raise CorruptData(f"{where}: member {name!r} is there twice (upper and lower case are one)")
    names.add(name.lower())
    if info.external_attr >> 28 not in (0, 8):
        kind = "a link" if info.external_attr >> 28 == _LINK else "no file"
        raise CorruptData(f"{where}: member {name!r} is {kind}")
    if info.flag_bits & ~_FLAGS:
        raise CorruptData(f"{where}: member {name!r} is encrypted, or has flags {info.flag_bits:#x} that none has here")
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise CorruptData(f"{where}: member {name!r} is compressed; members must be stored as they are")


def _place(content: memoryview, info: zipfile.ZipInfo, position: int, where: str) -> tuple[int, int]:
    """Return where a member's content begins and where the next member does."""
    name = info.filename
    if info.header_offset != position:
        raise CorruptData(f"{where}: member {name!r} begins at {info.header_offset}; the one before ends at {position}")
    try:
        magic, _, flags, method, _, _, crc, packed, size, name_bytes, extra = _LOCAL.unpack_from(content, position)
    except struct.error as exc:
        raise CorruptData(f"{where}: cut short at member {name!r}") from exc
    named = bytes(content[position + _LOCAL.size : position + _LOCAL.size + name_bytes])
    sizes = (crc, packed, size)
    told = (info.CRC, info.compress_size, info.file_size)
    later = bool(flags & _SIZES_BEHIND)
    if (
        magic != b"PK\x03\x04"
        or (flags, method) != (info.flag_bits, info.compress_type)
        or named != name.encode("utf-8" if flags & _UTF_8 else "cp437")
        or any(
            here not in ((each, 0, _FULL) if later else (each, _FULL)) for here, each in zip(sizes, told, strict=True)
        )
        or (not later and crc != info.CRC)
    ):
        raise CorruptData(f"{where}: member {name!r}: what stands before it differs from the archive's directory")
    begin = position + _LOCAL.size + name_bytes + extra
    end = begin + info.file_size
    if end > len(content):
        raise CorruptData(f"{where}: cut short in member {name!r}")
    return begin, end + (_behind(content, info, end, where) if later else 0)


def _behind(content: memoryview, info: zipfile.ZipInfo, end: int, where: str) -> int:
    """Return the size of what repeats a member's sizes behind it: with a mark or without, in 32 bits or in 64."""
    for form in ("<4s3I", "<4sI2Q", "<3I", "<I2Q"):
        if end + struct.calcsize(form) > len(content):
            continue
        *mark, crc, packed, size = struct.unpack_from(form, content, end)
        if mark in ([], [b"PK\x07\x08"]) and (crc, packed, size) == (info.CRC, info.compress_size, info.file_size):
            return struct.calcsize(form)
    raise CorruptData(f"{where}: member {info.filename!r}: what stands behind it differs from the archive's directory")


def _check_end(content: memoryview, directory: int, count: int, where: str) -> None:
    """Check that the directory is the last thing in the file, but for its end, which tells the same of it."""
    end = len(content) - _END.size
    magic, disk, first_disk, here, in_all, size, offset, comment = _END.unpack_from(content, end)
    if magic != b"PK\x05\x06" or comment or disk or first_disk:
        raise CorruptData(f"{where}: there is something behind the archive, or it is a part of one")
    span = (here, in_all, size, offset)
    told = (count, count, end - directory, directory)
    between = content[directory + (size if size != _FULL else 0) : end]
    if len(between) >= _END_64.size + _LOCATOR.size and bytes(content[end - _LOCATOR.size :][:4]) == b"PK\x06\x07":
        record = end - _LOCATOR.size - _END_64.size
        _, disk, place, disks = _LOCATOR.unpack_from(content, end - _LOCATOR.size)
        magic, size_of, _, _, number, first, *large = _END_64.unpack_from(content, record)
        told = (count, count, record - directory, directory)
        if (magic, place, disk, disks, number, first, size_of) != (b"PK\x06\x06", record, 0, 1, 0, 0, 44) or (
            tuple(large) != told
        ):
            raise CorruptData(f"{where}: its two ends differ")
        told = tuple(
            here if here == full else each
            for here, each, full in zip(span, told, (0xFFFF, 0xFFFF, _FULL, _FULL), strict=True)
        )  # type: ignore[assignment]
    if span != told:
        raise CorruptData(
            f"{where}: its end tells of {span} members, bytes and place of the directory; there are {told}"
        )
