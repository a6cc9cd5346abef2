"""Bytes with accidents: what a broken disk, a broken client or a stranger may hand over, as a hypothesis strategy."""

from __future__ import annotations

from typing import Final

from hypothesis import strategies as st

LARGE: Final = [b"\xff" * 8, b"\xff\xff\xff\x7f", b"\x00" * 8, b"\xff\xff\xff\xff\xff\xff\xff\x7f"]
"""What a length field may claim."""


@st.composite
def mangled(draw: st.DrawFn, whole: bytes, *, accidents: int = 3) -> bytes:
    """Bytes like `whole`, but for up to `accidents` changes: flipped, cut out, put in, repeated, or a large number."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, accidents))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        length = draw(st.sampled_from([1, 2, 4, 8, 64]))
        kind = draw(st.sampled_from(["flip", "cut", "put", "repeat", "large", "end"]))
        if kind == "flip" and content:
            content[at] ^= draw(st.integers(1, 255))
        elif kind == "cut":
            del content[at : at + length]
        elif kind == "put":
            content[at:at] = draw(st.binary(min_size=1, max_size=16))
        elif kind == "repeat":
            content[at:at] = content[at : at + length]
        elif kind == "large":
            number = draw(st.sampled_from(LARGE))
            content[at : at + len(number)] = number
        else:
            del content[at:]
    return bytes(content)
