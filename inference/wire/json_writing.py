"""JSON that is written in pieces, between which other threads run: the counterpart of `json_reading`.

`json` holds Python's lock for as long as it writes, and JSON is long: a float32 has 4 bytes as it is and some 20 in
JSON, and 32 as an object of Python. So what a reply has many of is turned into objects and written some at a time, its
length is counted, and the deadline looked at, in between.
"""

from __future__ import annotations

import json
import math
import time
from typing import Any, Final

from numpy.typing import NDArray

from ringpull.ps.errors import DeadlineExceeded, LimitExceeded

NUMBER_BYTES: Final = 20
"""Bytes that a float32 has in JSON, with its comma, or nearly so."""
PIECE_VALUES: Final = 1 << 10
"""Values of an array that are written at a time: 1 ms."""
PIECE_BYTES: Final = 64 << 10
"""Bytes after which the lock is given away."""
PART_BYTES: Final = 64
"""Bytes as which a part counts besides its own: many short ones take time, too."""
PAUSE_S: Final = 1e-4
"""Time for which the lock is given away: without it whoever waits for it wakes up too late."""


def plain(value: Any) -> bytes:
    """Return a short value as JSON: without blanks, in UTF-8, NaN and Infinity bare.

    Raises:
        UnicodeEncodeError: A text has half a character.
    """
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


class JsonWriter:
    """One text that is being written."""

    def __init__(self, max_bytes: int, deadline_s: float = math.inf) -> None:
        """Begin.

        Args:
            max_bytes: Most bytes that it may have.
            deadline_s: Absolute, `time.monotonic()` seconds.
        """
        self._max_bytes = max_bytes
        self._deadline_s = deadline_s
        self._parts: list[bytes] = []
        self._nbytes = 0
        self._unpaused = 0

    def write(self, part: bytes) -> None:
        """Append a part as it is.

        Raises:
            LimitExceeded: The text becomes too long.
            DeadlineExceeded: The deadline passed.
        """
        self._nbytes += len(part)
        if self._nbytes > self._max_bytes:
            raise LimitExceeded(
                f"the reply is longer as JSON than max_message_bytes, {self._max_bytes}; ask for fewer rows at once, or"
                " for binary ones (gRPC, or the binary extension of the Open Inference Protocol)"
            )
        self._parts.append(part)
        self._unpaused += len(part) + PART_BYTES
        if self._unpaused >= PIECE_BYTES:
            self._unpaused = 0
            time.sleep(PAUSE_S)
            if time.monotonic() >= self._deadline_s:
                raise DeadlineExceeded("the deadline passed while the reply was written")

    def array(self, values: NDArray[Any]) -> None:
        """Append an array as lists within each other.

        Raises:
            LimitExceeded, DeadlineExceeded: See `write`.
        """
        if values.size <= PIECE_VALUES:
            self.write(plain(values.tolist()))
            return
        step = PIECE_VALUES * len(values) // values.size
        self.write(b"[")
        for begin in range(0, len(values), max(1, step)):
            if begin:
                self.write(b",")
            if step:
                self.write(plain(values[begin : begin + step].tolist())[1:-1])
            else:
                self.array(values[begin])
        self.write(b"]")

    def to_bytes(self) -> bytes:
        """Return all that was written."""
        return b"".join(self._parts)
