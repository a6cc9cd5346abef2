"""The only hash: from a key to its position on the ring, and from a string to a key.

A position is the murmur3 64-bit finalizer of the key (Appleby, public domain, `fmix64` in MurmurHash3.cpp). It is a
bijection: two keys never share a position, and `keys_of` gives the key back. Stores, wire and ring work on positions,
so a key is hashed once, at the router. Changing anything here changes the file format: the golden values in
tests/ps/test_hashing.py are it. The finalizer itself is compiled (`ringpull.ps.hash_kernels`), and loaded by the first
call that needs it: an operator's command or a client hashes nothing, and starts without the compiler.

    position = fmix64(key);  slot = position >> 48
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from types import ModuleType
from typing import Final

import mmh3
import numpy as np
from numpy.typing import NDArray

from ringpull.extras import needing
from ringpull.ps.errors import InvalidInput, NoText

SLOTS: Final = 65_536
"""The ring is quantised into this many slots; a slot is `position >> SLOT_SHIFT`."""
SLOT_SHIFT: Final = 48
POSITION_BYTES: Final = 8
"""Bytes of a ring position, and so of a key, wherever they are stored or sent."""

UInt64Array = NDArray[np.uint64]


def positions_of(keys: UInt64Array) -> UInt64Array:
    """Return the ring positions of uint64 keys (N,), freshly allocated, in the order given."""
    out = np.empty_like(keys)
    _kernels().map_positions(keys, out)
    return out


def positions_without_compiler(keys: UInt64Array) -> UInt64Array:
    """Return what `positions_of` does, in numpy: for clients, which have no compiler. Ten times slower."""
    mixed: UInt64Array = keys ^ (keys >> np.uint64(33))
    mixed *= np.uint64(0xFF51AFD7ED558CCD)
    mixed ^= mixed >> np.uint64(33)
    mixed *= np.uint64(0xC4CEB9FE1A85EC53)
    mixed ^= mixed >> np.uint64(33)
    return mixed


def keys_of(positions: UInt64Array) -> UInt64Array:
    """Return the keys of uint64 positions (N,): the inverse of `positions_of`."""
    out = np.empty_like(positions)
    _kernels().map_keys(positions, out)
    return out


def as_keys(ids: NDArray[np.generic]) -> UInt64Array:
    """Return integer ids (N,) as uint64 keys: an int64 is taken bit for bit.

    Raises:
        InvalidInput: The array is not of integers (strings go through `keys_of_strings`).
    """
    if ids.dtype == np.uint64:
        return ids  # type: ignore[return-value]
    if ids.dtype.kind == "u":
        return ids.astype(np.uint64)
    if ids.dtype.kind == "i":
        return ids.astype(np.int64, copy=False).view(np.uint64)
    raise InvalidInput(f"ids of type {ids.dtype} cannot be keys: use integers, or strings")


def keys_of_strings(texts: Iterable[str | bytes], what: str = "strings") -> UInt64Array:
    """Return the keys of strings, uint64 (N,), in the order given; bytes are taken for UTF-8 as they are.

    Args:
        what: Name of the strings, for errors.

    Raises:
        NoText: One holds half a character; the message says which.
    """
    hash64, given = mmh3.hash64, list(texts)
    # Encoded here: handed half a character as a `str`, mmh3 (5.3.1) reads at NULL, and the process is gone.
    encoded = (text.encode() if isinstance(text, str) else text for text in given)
    try:
        return np.fromiter((hash64(data, 0, signed=False)[0] for data in encoded), np.uint64, len(given))
    except UnicodeEncodeError as exc:
        raise no_text(what, given) from exc


def halves_of_bytes(texts: Iterable[bytes]) -> UInt64Array:
    """Return both halves of the hash that keys of strings are the first of, uint64 (N, 2)."""
    return np.array([mmh3.hash64(bytes(text), 0, signed=False) for text in texts], np.uint64).reshape(-1, 2)


def are_utf8(data: bytes, lengths: NDArray[np.integer]) -> bool:
    """Return whether strings that lie end to end are UTF-8, each by itself.

    Args:
        lengths: Bytes of each, (N,); they add up to those of `data`.
    """
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    begins = (np.cumsum(lengths, dtype=np.int64) - lengths)[lengths > 0]
    # None begins amid a character of the one before it.
    return not ((np.frombuffer(data, np.uint8)[begins] & 0xC0) == 0x80).any()


def check_texts(what: str, texts: Sequence[str]) -> None:
    """Check that strings have UTF-8, and so keys.

    Args:
        what: Name of the strings.

    Raises:
        NoText: One holds half a character; the message says which.
    """
    try:
        "".join(texts).encode()
    except UnicodeEncodeError as exc:
        raise no_text(what, texts) from exc


def no_text(what: str, texts: Sequence[object]) -> NoText:
    """Return the error of the first of some strings that holds half a character."""
    for place, text in enumerate(texts):
        if isinstance(text, str) and (half := _half_of(text)) is not None:
            why = f"{text!r:.80} is no text: it holds half a character, {text[half]!r}"
            return NoText(f"{what}[{place}]: {why}", place=place, why=why)
    raise AssertionError("all are texts")


def _half_of(text: str) -> int | None:
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        return exc.start
    return None


def keys_of_texts(data: bytes, lengths: NDArray[np.uint32]) -> UInt64Array:
    """Return the keys of strings that lie end to end, uint64 (N,): what `keys_of_strings` gives for each.

    Args:
        data: Their UTF-8 bytes.
        lengths: (N,): bytes of each, adding up to those of `data`.
    """
    ends = np.cumsum(lengths, dtype=np.int64)
    out = np.empty(len(ends), np.uint64)
    _kernels().map_texts(np.frombuffer(data, np.uint8), ends, out)
    return out


@lru_cache(maxsize=1)
def _kernels() -> ModuleType:
    with needing("export", "hashing ids"):
        from ringpull.ps import hash_kernels
    return hash_kernels
