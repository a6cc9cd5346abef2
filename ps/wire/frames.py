"""The frame: a fixed prelude, a msgpack header, and raw little-endian buffers. Sans-IO: no sockets here.

    offset size  field          meaning
    0      4     magic          b"RPL1"
    4      1     version        2
    5      1     kind           a `Kind`
    6      2     reserved       0
    8      8     request id     chosen by the caller, repeated in the answer
    16     4     header bytes   of the msgpack header, without its padding
    20     4     remaining      microseconds the caller still waits; 0 in answers
    24     8     payload bytes  of all buffers with their padding
    32           header         msgpack array: [[numbers in each buffer], field, ...], zero-padded to a multiple of 8
                 buffers        in the order of `LAYOUT`, each zero-padded to a multiple of 8

Invariants: nothing is allocated from a length before that length was held against a limit, and a payload only after its
header was found to describe exactly that many bytes; a header that is long becomes objects, which weigh many times as
much, only once its frame is complete, and no more of them than an honest one has; beyond `FIRST_BYTES` memory grows
with what has arrived, whatever was announced, and only while its owner has room (a frame for which there is none is
read and dropped); up to that a payload is received where its arrays will lie, never copied; bytes that are no frame
raise `ProtocolError`, after which the decoder must not be used any more.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from reprlib import repr as brief
from typing import Any, Final, NamedTuple

import msgpack
import numpy as np
from numpy.typing import NDArray

from ringpull.ps.errors import LimitExceeded, ProtocolError
from ringpull.ps.wire import headers

MAGIC: Final = b"RPL1"
VERSION: Final = 2
"""Version of the protocol. In the first one connections began without a hello."""
PRELUDE: Final = struct.Struct("<4sBBHQIIQ")
ALIGNMENT: Final = 8
MAX_REMAINING_US: Final = 2**32 - 1
"""Largest time that fits; a caller that waits longer (over 71 minutes) sends this."""

MAX_ITEMS: Final = headers.MAX_ITEMS
"""Upper bound on elements of one msgpack array of a header: look-ups of a pull, tables of a statistics reply."""
_ARRAYS: Final = (list, tuple)
"""Types that msgpack packs as arrays. `list | tuple` in the loop over a header's fields would be made anew for each."""
SHORT_HEADER_BYTES: Final = 1024
"""Size up to which a header is unpacked before its payload is there: the objects weigh about as much as the scratch."""
HELLO_BYTES: Final = 4096
"""Upper bound on the header of a hello, which anybody may send."""

SCRATCH_BYTES: Final = 64 * 1024
"""Receive buffer of a connection. Also the upper bound on bytes of a payload that are copied on their way in."""
AHEAD_BYTES: Final = 1024
"""The same after a frame with a payload that is larger than that buffer: the next one is most likely as large, and what
is read along with its header would be copied."""
SMALL_BYTES: Final = SCRATCH_BYTES
"""Size up to which a payload is received without asking for room: no more than a connection takes anyway."""
FIRST_BYTES: Final = 1 << 20
"""Memory that a payload is first given; one that is larger gets `GROWTH` times as much whenever that is full."""
GROWTH: Final = 4
"""Factor by which memory of a payload grows: of a large one a third is copied once more."""
JOIN_BYTES: Final = 4 * 1024
"""Size up to which frames leave as one bytes object: a copy is cheaper there than more entries in the writev."""


class Kind(IntEnum):
    """Kind of a frame. Answers have the top bit."""

    PULL = 1
    RANGE_PULL = 2
    STATISTICS = 3
    DESCRIBE = 4
    HELLO = 5
    TOP_K = 6
    CANCEL = 7
    """Nobody waits any more for the answer to the `TOP_K` of this request id. It has no answer of its own."""
    PUSH = 8
    NEWEST = 9
    PULL_REPLY = 129
    RANGE_PULL_REPLY = 130
    STATISTICS_REPLY = 131
    DESCRIBE_REPLY = 132
    HELLO_REPLY = 133
    BYTES_REPLY = 134
    """`PULL_REPLY` of a pull that has rows of bytes."""
    RANGE_BYTES_REPLY = 135
    """`RANGE_PULL_REPLY` of a table of bytes."""
    ABSENT_REPLY = 136
    """`BYTES_REPLY`, or one without such rows, that tells which keys are absent."""
    TOP_K_REPLY = 137
    FILES_REPLY = 138
    """Answer to a `DESCRIBE` of a table without a name."""
    PUSH_REPLY = 139
    NEWEST_REPLY = 140
    ERROR = 255


REQUESTS: Final = frozenset(kind for kind in Kind if kind < 128)
REPLIES: Final = frozenset(Kind) - REQUESTS

_F4, _U1, _U4, _U8 = (np.dtype(code) for code in ("<f4", "u1", "<u4", "<u8"))

LAYOUT: Final[dict[Kind, tuple[np.dtype[Any], ...]]] = {
    Kind.PULL: (_U8, _U4, _F4),  # positions, lengths, weights
    Kind.RANGE_PULL: (),
    Kind.STATISTICS: (),
    Kind.DESCRIBE: (),
    Kind.HELLO: (),
    Kind.TOP_K: (_F4, _U4, _U4, _U8),  # vectors, ranges, lengths, positions
    Kind.CANCEL: (),
    Kind.PUSH: (_U8, _U1, _U4),  # positions, rows, lengths
    Kind.NEWEST: (),
    Kind.PULL_REPLY: (_F4, _U4, _U1),  # values, missing, found
    Kind.RANGE_PULL_REPLY: (_U8, _U1),  # positions, rows
    Kind.STATISTICS_REPLY: (),
    Kind.DESCRIBE_REPLY: (_U1,),  # spec
    Kind.HELLO_REPLY: (),
    Kind.BYTES_REPLY: (_F4, _U4, _U1, _U4, _U1),  # values, missing, found, lengths, data
    Kind.RANGE_BYTES_REPLY: (_U8, _U1, _U4),  # positions, rows, lengths
    Kind.ABSENT_REPLY: (_F4, _U4, _U1, _U4, _U1, _U4),  # values, missing, found, lengths, data, absent
    Kind.TOP_K_REPLY: (_U4, _U8, _F4),  # counts, positions, scores
    Kind.FILES_REPLY: (_U1,),  # packed
    Kind.PUSH_REPLY: (),
    Kind.NEWEST_REPLY: (_U8, _U1, _U4),  # positions, rows, lengths
    Kind.ERROR: (),
}
"""The element types of the buffers of each kind of frame."""

_KINDS: Final = {int(kind): kind for kind in Kind}

AnyArray = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest frame one side accepts or sends."""

    header_bytes: int = 1 << 20
    payload_bytes: int = 1 << 30


REQUEST_LIMITS: Final = Limits(payload_bytes=256 << 20)
"""Limits of requests: 32 million keys for one shard in one micro-batch."""
REPLY_LIMITS: Final = Limits(payload_bytes=1 << 30)


class Frame(NamedTuple):
    """Complete frame."""

    kind: Kind
    request_id: int
    remaining_us: int
    fields: list[Any]
    """The header's fields after the counts; their types are not checked yet."""
    arrays: tuple[AnyArray, ...]
    """Buffers in the order of `LAYOUT`; writable views of memory that belongs to this frame alone."""
    header_bytes: int = 0
    """Size of the header, of which the fields were made."""


class Prelude(NamedTuple):
    """Beginning of a frame: what it is, and how much comes."""

    kind: Kind
    request_id: int
    header_bytes: int
    remaining_us: int
    payload_bytes: int


class Refusal(NamedTuple):
    """Frame for which there was no room: the rest of it is read and dropped."""

    prelude: Prelude


Room = Callable[[Prelude, int], bool]
"""Function that says whether there is room for so many bytes more of a frame. It may raise `ProtocolError`."""


class _Section:
    """A stretch of bytes being filled: a header or a payload. Its memory may be less than its size: see `grow`."""

    __slots__ = ("filled", "size", "target")

    def __init__(self, target: memoryview, size: int) -> None:
        self.target = target
        self.size = size
        self.filled = 0

    @property
    def full(self) -> bool:
        """Whether its memory is full and it is not complete."""
        return self.filled == len(self.target) < self.size

    @property
    def next_bytes(self) -> int:
        """Memory that it has after it has grown."""
        return min(self.size, GROWTH * len(self.target))

    def grow(self) -> None:
        """Move to more memory."""
        target = _allocate(self.next_bytes)
        target[: self.filled] = self.target
        self.target = target


def padded(size_bytes: int) -> int:
    """Return `size_bytes` rounded up to the alignment of buffers."""
    return (size_bytes + ALIGNMENT - 1) & -ALIGNMENT


def _allocate(size_bytes: int) -> memoryview:
    """Return uninitialised, aligned memory; `size_bytes` is a multiple of the alignment."""
    return np.empty(size_bytes // ALIGNMENT, np.uint64).view(np.uint8).data


def encode(
    kind: Kind,
    request_id: int,
    fields: Sequence[object],
    arrays: Sequence[AnyArray] = (),
    *,
    remaining_us: int = 0,
    limits: Limits = REPLY_LIMITS,
) -> list[bytes | memoryview]:
    """Return one frame as pieces for `transport.writelines`.

    Big arrays are not copied: the pieces are views of them, and they must not change until the bytes have left.

    Args:
        arrays: One-dimensional, of the element types of `LAYOUT[kind]` and in its order.

    Raises:
        LimitExceeded: The frame is larger than `limits`, which the peer would refuse.
    """
    pieces: list[bytes | memoryview] = [b""]
    counts = []
    payload_bytes = 0
    for array, dtype in zip(arrays, LAYOUT[kind], strict=True):
        counts.append(array.size)
        if array.size == 0:
            continue
        plain = np.ascontiguousarray(array, dtype)
        pieces.append(plain.view(np.uint8).data)
        padding = -plain.nbytes % ALIGNMENT
        if padding:
            pieces.append(bytes(padding))
        payload_bytes += plain.nbytes + padding
    header: bytes = msgpack.packb([counts, *fields])
    if len(header) > MAX_ITEMS:  # else no array has more, as each takes a byte at least
        _check_items(fields)
    if len(header) > limits.header_bytes:
        raise LimitExceeded(f"the frame's header takes {len(header)} bytes; the limit is {limits.header_bytes}")
    if payload_bytes > limits.payload_bytes:
        raise LimitExceeded(f"the frame's buffers take {payload_bytes} bytes; the limit is {limits.payload_bytes}")
    remaining_us = min(max(remaining_us, 0), MAX_REMAINING_US)
    prelude = PRELUDE.pack(MAGIC, VERSION, kind, 0, request_id, len(header), remaining_us, payload_bytes)
    pieces[0] = prelude + header + bytes(-len(header) % ALIGNMENT)
    if payload_bytes <= JOIN_BYTES and len(pieces) > 1:
        return [b"".join(pieces)]
    return pieces


def _check_items(fields: Iterable[object]) -> None:
    for field in fields:
        if isinstance(field, _ARRAYS) and len(field) > MAX_ITEMS:
            raise LimitExceeded(f"the frame's header has an array of {len(field)} items; the limit is {MAX_ITEMS}")


class Decoder:
    """Turns a stream of bytes, cut anywhere, into frames.

    The receiver asks `get_buffer` where the next bytes go, writes there, says with `buffer_updated` how many, and calls
    `next_frame` until it returns None: the shape of `asyncio.BufferedProtocol`.
    """

    def __init__(
        self, accepts: Collection[Kind], limits: Limits, room: Room | None = None, *, first: Kind | None = None
    ) -> None:
        """Begin between two frames.

        Args:
            room: Asked before a frame is given memory beyond `SMALL_BYTES`; None: there always is.
            first: Kind of hello that has to come before all others; None: whatever is accepted may come first.
        """
        self._first = first
        self._accepts = frozenset(accepts)
        self._limits = limits
        self._room = room
        self._dropping = 0  # bytes to come of a frame that was refused
        self._dropped = 0  # bytes of it that came, and were dropped; kept until the next frame is complete
        self._scratch = _allocate(SCRATCH_BYTES)
        self._begin = self._end = 0  # unread bytes of the scratch
        self._room_ahead = SCRATCH_BYTES  # bytes of the scratch that are received into
        self._prelude: Prelude | None = None
        self._header: _Section | None = None
        self._payload: _Section | None = None
        self._unread = b""  # a long header of a frame that is not complete
        self._fields: list[Any] = []
        self._places: list[tuple[np.dtype[Any], int, int]] = []  # of the payload's arrays: type, count, first byte

    @property
    def mid_frame(self) -> bool:
        """Whether the bytes so far end inside a frame."""
        return self._prelude is not None or self._begin != self._end or self._dropping > 0

    @property
    def arrived(self) -> int:
        """Bytes that have arrived of the header or the payload that is being received, or of what is dropped."""
        section = self._payload or self._header
        return self._dropped + (0 if section is None else section.filled)

    def forget(self) -> None:
        """Let go of what has arrived of a frame: the connection is given up."""
        self._let_go()
        self._begin = self._end = self._dropping = 0

    def _let_go(self) -> None:
        self._prelude = self._header = self._payload = None
        self._unread, self._fields, self._places = b"", [], []

    def get_buffer(self) -> memoryview:
        """Return where the next bytes are to be written; at least one byte long."""
        section = self._payload or self._header
        if section is not None:
            return section.target[section.filled :]
        # Every header and payload drains the scratch, so at most a part of one prelude is left to move.
        if self._begin:
            left = self._end - self._begin
            self._scratch[:left] = self._scratch[self._begin : self._end]
            self._begin, self._end = 0, left
        return self._scratch[self._end : self._room_ahead]

    def buffer_updated(self, size_bytes: int) -> bool:
        """Take in that the first `size_bytes` of the last `get_buffer` were written.

        Returns:
            Whether there is something for `next_frame` to do; if not, more is to be written first.
        """
        section = self._payload or self._header
        if section is None:
            self._end += size_bytes
            return True
        section.filled += size_bytes
        return section.filled == len(section.target)

    def next_frame(self) -> Frame | Refusal | None:
        """Return the next complete frame, or one that is refused, or None when more bytes are needed.

        Raises:
            ProtocolError: The bytes are not a frame, or one that this side does not accept; says why.
        """
        prelude = self._prelude
        if prelude is None:
            if self._dropping:
                self._drop()
            if self._end - self._begin < PRELUDE.size:
                return None
            prelude = self._prelude = self._read_prelude()
            size, begin = padded(prelude.header_bytes), self._begin
            if self._end - begin >= size:  # mostly: it needs no memory of its own then
                self._begin += size
                self._read_header(prelude, bytes(self._scratch[begin : begin + prelude.header_bytes]))
            else:
                self._header = _Section(memoryview(bytearray(min(size, SMALL_BYTES))), size)
        if (header := self._header) is not None:
            if not self._fill(header):
                return self._grown(prelude, header) if header.full else None
            self._read_header(prelude, bytes(header.target[: prelude.header_bytes]))
            self._header = None
        payload = self._payload
        if payload is None:
            size, begin = prelude.payload_bytes, self._begin
            first = min(size, FIRST_BYTES)
            kept = first + len(self._unread)
            if kept > SMALL_BYTES and self._room is not None and not self._room(prelude, kept):
                return self._refuse(prelude)
            target = _allocate(first)
            if self._end - begin >= size:  # mostly: all of it is there
                target[:] = self._scratch[begin : begin + size]
                self._begin += size
                return self._complete(prelude, target)
            payload = self._payload = _Section(target, size)
        if not self._fill(payload):
            return self._grown(prelude, payload) if payload.full else None
        return self._complete(prelude, payload.target)

    def _complete(self, prelude: Prelude, payload: memoryview) -> Frame:
        if self._unread:
            self._fields, self._places = self._read(prelude, headers.unpack(self._unread))
            self._unread = b""
        self._dropped = 0
        self._room_ahead = AHEAD_BYTES if len(payload) > SCRATCH_BYTES else SCRATCH_BYTES
        fields, arrays = self._fields, self._cut(payload)
        self._prelude = self._payload = self._first = None
        self._fields, self._places = [], []
        kind, request_id, header_bytes, remaining_us, _ = prelude
        return Frame(kind, request_id, remaining_us, fields, arrays, header_bytes)

    def _fill(self, section: _Section) -> bool:
        """Move what the scratch has of `section` into it; return whether it is complete."""
        take = min(self._end - self._begin, len(section.target) - section.filled)
        if take:
            section.target[section.filled : section.filled + take] = self._scratch[self._begin : self._begin + take]
            section.filled += take
            self._begin += take
        return section.filled == section.size

    def _grown(self, prelude: Prelude, section: _Section) -> Frame | Refusal | None:
        """Give a section that is full more memory, if there is room, and go on."""
        if self._room is not None and not self._room(prelude, section.next_bytes - len(section.target)):
            return self._refuse(prelude)
        section.grow()
        return self.next_frame()

    def _refuse(self, prelude: Prelude) -> Refusal:
        """Let go of what has arrived of a frame, and have the rest of it dropped."""
        header = self._header
        ahead = 0 if header is None else header.size
        section = self._payload or header
        self._dropping = ahead + prelude.payload_bytes - (0 if section is None else section.filled)
        self._dropped = 0
        self._room_ahead = SCRATCH_BYTES  # which is what the rest is read into
        self._let_go()
        return Refusal(prelude)

    def _drop(self) -> None:
        take = min(self._end - self._begin, self._dropping)
        self._begin += take
        self._dropping -= take
        self._dropped += take

    def _read_prelude(self) -> Prelude:
        fields = PRELUDE.unpack_from(self._scratch, self._begin)
        self._begin += PRELUDE.size
        magic, version, kind_code, reserved, request_id, header_bytes, remaining_us, payload_bytes = fields
        if magic != MAGIC:
            raise ProtocolError(f"a frame begins with {magic!r}; it must begin with {MAGIC!r}")
        if version != VERSION:
            raise ProtocolError(f"the frame's version is {version}; this build speaks version {VERSION}")
        kind = _KINDS.get(kind_code)
        if kind is None or kind not in self._accepts:
            raise ProtocolError(f"a frame of kind {kind_code if kind is None else kind.name} is not accepted here")
        if reserved != 0:
            raise ProtocolError(f"the prelude's reserved field is {reserved}; it must be 0")
        if not 0 < header_bytes <= self._limits.header_bytes:
            raise ProtocolError(f"the header has {header_bytes} bytes; it must have 1 to {self._limits.header_bytes}")
        if self._first is not None:
            if kind is not self._first:
                raise ProtocolError(
                    f"a connection begins with {self._first.name} of the request id 0;"
                    f" this one began with {kind.name} of {request_id}"
                )
            if header_bytes > HELLO_BYTES:
                raise ProtocolError(f"a hello has a header of {header_bytes} bytes; the limit is {HELLO_BYTES}")
        if payload_bytes > self._limits.payload_bytes:
            raise ProtocolError(f"the buffers have {payload_bytes} bytes; the limit is {self._limits.payload_bytes}")
        return Prelude(kind, request_id, header_bytes, remaining_us, payload_bytes)

    def _read_header(self, prelude: Prelude, header: bytes) -> None:
        """Read a header; of a long one only the counts, while its payload is still to come."""
        if len(header) > SHORT_HEADER_BYTES and self._end - self._begin < prelude.payload_bytes:
            self._unread = header
            _, self._places = self._read(prelude, [headers.counts_of(header)])
        else:
            self._fields, self._places = self._read(prelude, headers.unpack(header))

    @staticmethod
    def _read(prelude: Prelude, fields: Any) -> tuple[list[Any], list[tuple[np.dtype[Any], int, int]]]:
        """Hold a header's counts against the layout and the payload's size; return the other fields, and the places."""
        if type(fields) is not list or not fields or type(fields[0]) is not list:
            raise ProtocolError("the header must be an array that begins with the buffers' counts")
        counts = fields[0]
        layout = LAYOUT[prelude.kind]
        if len(counts) != len(layout):
            raise ProtocolError(f"{prelude.kind.name} has {len(layout)} buffers; the header counts {brief(counts)}")
        described = 0
        places = []
        for count, dtype in zip(counts, layout, strict=True):
            if type(count) is not int or count < 0:
                raise ProtocolError(f"{prelude.kind.name}: a buffer's count is {brief(count)}")
            places.append((dtype, count, described))
            described = (described + count * dtype.itemsize + ALIGNMENT - 1) & -ALIGNMENT  # `padded`, without the call
        if described != prelude.payload_bytes:
            raise ProtocolError(f"the header describes {described} payload bytes, the prelude {prelude.payload_bytes}")
        return fields[1:], places

    def _cut(self, payload: memoryview) -> tuple[AnyArray, ...]:
        """Return the arrays that lie in a complete payload, as views."""
        arrays = [
            np.frombuffer(payload, dtype, count, begin) if count else np.empty(0, dtype)
            for dtype, count, begin in self._places
        ]
        return tuple(arrays)
