"""Compression of replies, for clients that ask for it (`Accept-Encoding`)."""

from __future__ import annotations

import zlib
from typing import Final

from ringpull.inference.head.frontends.http.bodies import WINDOW_BITS

LEVEL: Final = 1
"""Effort: what is sent is numbers, of which more effort saves little."""
MIN_BYTES: Final = 1 << 10
"""Shortest body that is compressed: others take less time to send than to compress."""


def accepted(accept_encoding: str) -> str:
    """Return the content coding to answer by: the first one of a client's that is known here; empty: none."""
    for each in accept_encoding.lower().split(","):
        coding, _, quality = (part.strip() for part in each.partition(";"))
        if coding in WINDOW_BITS and quality.replace(" ", "").rstrip("0") not in ("q=", "q=0."):
            return coding
    return ""


def compressed(body: bytes, coding: str) -> bytes:
    """Return a body in a content coding."""
    packing = zlib.compressobj(LEVEL, zlib.DEFLATED, WINDOW_BITS[coding])
    return packing.compress(body) + packing.flush()
