"""Hashes of `ringpull.ps.hashing`, compiled: the finalizer and its inverse, for use inside other kernels and over
arrays, and murmur3 x64 128 (Appleby, public domain, MurmurHash3.cpp) over strings that lie end to end."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from ringpull.ps.compiled import kernel
from ringpull.ps.hashing import UInt64Array

UInt8Array = NDArray[np.uint8]
Int64Array = NDArray[np.int64]


@numba.njit(inline="always")
def fmix64(key: np.uint64) -> np.uint64:
    """Return the position of one key (for use inside kernels)."""
    h = key
    h ^= h >> np.uint64(33)
    h *= np.uint64(0xFF51AFD7ED558CCD)
    h ^= h >> np.uint64(33)
    h *= np.uint64(0xC4CEB9FE1A85EC53)
    h ^= h >> np.uint64(33)
    return h


@numba.njit(inline="always")
def unfmix64(position: np.uint64) -> np.uint64:
    """Return the key of one position: the steps of `fmix64` backwards, with the inverse multipliers."""
    h = position
    h ^= h >> np.uint64(33)
    h *= np.uint64(0x9CB4B2F8129337DB)
    h ^= h >> np.uint64(33)
    h *= np.uint64(0x4F74430C22A54005)
    h ^= h >> np.uint64(33)
    return h


@kernel()
def map_positions(keys: UInt64Array, out: UInt64Array) -> None:
    """Write the position of each key to `out`, both uint64 (N,)."""
    for i in range(keys.size):
        out[i] = fmix64(keys[i])


@kernel()
def map_keys(positions: UInt64Array, out: UInt64Array) -> None:
    """Write the key of each position to `out`, both uint64 (N,)."""
    for i in range(positions.size):
        out[i] = unfmix64(positions[i])


_C1 = np.uint64(0x87C37B91114253D5)
_C2 = np.uint64(0x4CF5AD432745937F)


@numba.njit(inline="always")
def _rotated(word: np.uint64, bits: int) -> np.uint64:
    return (word << np.uint64(bits)) | (word >> np.uint64(64 - bits))


@numba.njit(inline="always")
def read_word(data: UInt8Array, begin: int, size: int) -> np.uint64:
    """Return up to eight bytes as one little-endian word."""
    word = np.uint64(0)
    for i in range(size):
        word |= np.uint64(data[begin + i]) << np.uint64(8 * i)
    return word


@kernel()
def map_texts(data: UInt8Array, ends: Int64Array, out: UInt64Array) -> None:
    """Write the low half of the hash, seed 0, of each string to `out` (N,).

    Args:
        data: Bytes of all strings, end to end.
        ends: (N,): end of each; never decreasing, and none beyond `data`.
    """
    begin = 0
    for i in range(ends.size):
        size = ends[i] - begin
        h1 = h2 = np.uint64(0)
        at = begin
        for _ in range(size // 16):
            h1 ^= _rotated(read_word(data, at, 8) * _C1, 31) * _C2
            h1 = (_rotated(h1, 27) + h2) * np.uint64(5) + np.uint64(0x52DCE729)
            h2 ^= _rotated(read_word(data, at + 8, 8) * _C2, 33) * _C1
            h2 = (_rotated(h2, 31) + h1) * np.uint64(5) + np.uint64(0x38495AB5)
            at += 16
        tail = ends[i] - at
        if tail > 8:
            h2 ^= _rotated(read_word(data, at + 8, tail - 8) * _C2, 33) * _C1
        h1 ^= _rotated(read_word(data, at, min(tail, 8)) * _C1, 31) * _C2
        h1 ^= np.uint64(size)
        h2 ^= np.uint64(size)
        h1 += h2
        h2 += h1
        out[i] = fmix64(h1) + fmix64(h2)
        begin = ends[i]
