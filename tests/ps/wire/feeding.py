"""Feeding bytes to a decoder as a transport would."""

from __future__ import annotations

from collections.abc import Iterable

from ringpull.ps.wire.frames import Decoder, Frame


def joined(pieces: Iterable[bytes | memoryview]) -> bytes:
    return b"".join(bytes(piece) for piece in pieces)


def feed(decoder: Decoder, data: bytes, *, at_most: int = 1 << 62) -> list[Frame]:
    """Write `data` into the decoder's buffers, never more than `at_most` bytes at a time; return the frames."""
    frames = []
    rest = memoryview(data)
    while rest:
        target = decoder.get_buffer()
        assert len(target) > 0
        take = min(len(target), len(rest), at_most)
        target[:take] = rest[:take]
        rest = rest[take:]
        before, has_work = len(frames), decoder.buffer_updated(take)
        while (frame := decoder.next_frame()) is not None:
            frames.append(frame)
        assert has_work or len(frames) == before
    return frames
