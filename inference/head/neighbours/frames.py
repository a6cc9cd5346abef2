"""Frames between two heads of one machine, over a Unix socket of their user's: a header in msgpack, and bytes.

    offset size  field
    0      4     u32 bytes of the header
    4      4     u32 bytes of the payload
    8            the header, a msgpack list
                 the payload

Both ends are processes of one user; what does not begin like a frame of theirs ends the connection.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from typing import Any, Final

import msgpack

from ringpull.ps.errors import ProtocolError

PRELUDE: Final = struct.Struct("<II")
MAX_HEADER_BYTES: Final = 4 << 20
"""Bytes of the longest header: names of columns are in it."""
MAX_PAYLOAD_BYTES: Final = 512 << 20
"""Bytes of the longest payload: several of the longest messages that a head takes by default."""

Header = list[Any]
Part = bytes | memoryview


def write_frame(transport: asyncio.WriteTransport, header: Sequence[Any], payload: Sequence[Part] = ()) -> None:
    """Send a frame whose payload is these parts, end to end."""
    packed: bytes = msgpack.packb(header)
    parts = [each for each in payload if len(each)]  # some loops keep an empty one for ever
    transport.writelines([PRELUDE.pack(len(packed), sum(map(len, parts))) + packed, *parts])


class FrameReader:
    """Frames of one connection, as its bytes come."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> list[tuple[Header, bytes]]:
        """Return the frames that are whole now: header and payload of each.

        Raises:
            ProtocolError: This is no such connection.
        """
        self._held += data
        frames = []
        while (frame := self._next()) is not None:
            frames.append(frame)
        return frames

    def _next(self) -> tuple[Header, bytes] | None:
        if len(self._held) < PRELUDE.size:
            return None
        header_bytes, payload_bytes = PRELUDE.unpack_from(self._held)
        if header_bytes > MAX_HEADER_BYTES or payload_bytes > MAX_PAYLOAD_BYTES:
            raise ProtocolError(
                f"a frame of a neighbour has {header_bytes} bytes of header and {payload_bytes} of others"
            )
        begin, end = PRELUDE.size + header_bytes, PRELUDE.size + header_bytes + payload_bytes
        if len(self._held) < end:
            return None
        with memoryview(self._held) as held:
            packed, payload = bytes(held[PRELUDE.size : begin]), bytes(held[begin:end])  # whose numbers are aligned
        del self._held[:end]
        try:
            header = msgpack.unpackb(packed)
        except (ValueError, msgpack.UnpackException) as exc:
            raise ProtocolError(f"a frame of a neighbour has no header: {exc}") from exc
        if not isinstance(header, list):
            raise ProtocolError("a frame of a neighbour has no list for a header")
        return header, payload
