"""Headers of frames, from msgpack to objects, no more of them than an honest header has."""

from __future__ import annotations

from typing import Any, Final

import msgpack

from ringpull.ps.errors import ProtocolError

MAX_ITEMS: Final = 4096
"""Upper bound on elements of one msgpack array of a header: look-ups of a pull, tables of a statistics reply."""

MAX_ELEMENTS: Final = 10 * MAX_ITEMS
"""Upper bound on the elements of all arrays of a header, with the arrays: a statistics reply has 9 for a table."""
COUNTS_BYTES: Final = 64
"""Size that the counts at the beginning of a header do not exceed."""


class _Elements:
    """Count of the elements of a header as it is unpacked, so that one with too many is given up in the middle."""

    __slots__ = ("_count",)

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, items: list[Any]) -> list[Any]:
        self._count += 1 + len(items)
        if self._count > MAX_ELEMENTS:
            raise ValueError(f"it has more than {MAX_ELEMENTS} elements")
        return items


def unpack(header: bytes) -> Any:
    """Return the values of a header.

    Raises:
        ProtocolError: It is not valid msgpack, or has too many elements.
    """
    # An element has a byte at least: a header that is shorter than the limit cannot be over it, and goes faster.
    count = None if len(header) <= MAX_ELEMENTS else _Elements()
    try:
        return msgpack.unpackb(
            header, max_array_len=min(MAX_ITEMS, len(header)), max_map_len=0, max_ext_len=0, list_hook=count
        )
    except ValueError as exc:  # the root of all of msgpack's errors
        raise _no_header(exc) from exc


def counts_of(header: bytes) -> Any:
    """Return what a header begins with, and read no further.

    Raises:
        ProtocolError: It is not valid msgpack.
    """
    unpacker = msgpack.Unpacker(max_buffer_size=COUNTS_BYTES, max_array_len=COUNTS_BYTES, max_map_len=0, max_ext_len=0)
    unpacker.feed(header[:COUNTS_BYTES])
    try:
        unpacker.read_array_header()
        return unpacker.unpack()
    except (ValueError, msgpack.OutOfData) as exc:
        raise _no_header(exc) from exc


def _no_header(exc: Exception) -> ProtocolError:
    return ProtocolError(f"the header is not valid msgpack: {exc or type(exc).__name__}")
