"""FarmHash64 of texts (Google, MIT, `farmhashna::Hash64` of farmhash.cc), compiled: TensorFlow's fingerprint of a text.

What TensorFlow hashes into buckets or crosses, it takes this fingerprint of. Four ways by length: up to 16 bytes, 32,
64, and more, in rounds of 64. All words are little-endian, all arithmetic is of 64 bits and wraps around.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from ringpull.ps.compiled import kernel
from ringpull.ps.hash_kernels import read_word

UInt8Array = NDArray[np.uint8]
UInt64Array = NDArray[np.uint64]
Int64Array = NDArray[np.int64]

_K0 = np.uint64(0xC3A5C85C97CB3127)
_K1 = np.uint64(0xB492B66FBE98F273)
_K2 = np.uint64(0x9AE16A3B2F90404F)
_SEED = np.uint64(81)
_ADDED = np.uint64(113)
_NINE = np.uint64(9)


@numba.njit(inline="always")
def _rotated(word: np.uint64, bits: int) -> np.uint64:
    """Return a word rotated to the right."""
    return (word >> np.uint64(bits)) | (word << np.uint64(64 - bits))


@numba.njit(inline="always")
def _mixed(word: np.uint64) -> np.uint64:
    return word ^ (word >> np.uint64(47))


@numba.njit(inline="always")
def _joined(one: np.uint64, other: np.uint64, factor: np.uint64) -> np.uint64:
    """Return two words as one."""
    first = _mixed((one ^ other) * factor)
    return _mixed((other ^ first) * factor) * factor


@numba.njit(inline="never")
def _short(data: UInt8Array, at: int, size: int) -> np.uint64:
    """Return the hash of up to 16 bytes."""
    factor = _K2 + np.uint64(2 * size)
    if size >= 8:
        a = read_word(data, at, 8) + _K2
        b = read_word(data, at + size - 8, 8)
        return _joined(_rotated(b, 37) * factor + a, (_rotated(a, 25) + b) * factor, factor)
    if size >= 4:
        first = np.uint64(size) + (read_word(data, at, 4) << np.uint64(3))
        return _joined(first, read_word(data, at + size - 4, 4), factor)
    if size > 0:
        y = np.uint64(data[at]) + (np.uint64(data[at + (size >> 1)]) << np.uint64(8))
        z = np.uint64(size) + (np.uint64(data[at + size - 1]) << np.uint64(2))
        return _mixed((y * _K2) ^ (z * _K0)) * _K2
    return _K2


@numba.njit(inline="never")
def _middle(data: UInt8Array, at: int, size: int) -> np.uint64:
    """Return the hash of 17 to 64 bytes."""
    factor = _K2 + np.uint64(2 * size)
    end = at + size
    a = read_word(data, at, 8) * (_K1 if size <= 32 else _K2)
    b = read_word(data, at + 8, 8)
    c = read_word(data, end - 8, 8) * factor
    d = read_word(data, end - 16, 8) * _K2
    y = _rotated(a + b, 43) + _rotated(c, 30) + d
    z = _joined(y, a + _rotated(b + _K2, 18) + c, factor)
    if size <= 32:
        return z
    e = read_word(data, at + 16, 8) * factor
    f = read_word(data, at + 24, 8)
    g = (y + read_word(data, end - 32, 8)) * factor
    h = (z + read_word(data, end - 24, 8)) * factor
    return _joined(_rotated(e + f, 43) + _rotated(g, 30) + h, e + _rotated(f + a, 18) + g, factor)


@numba.njit(inline="always")
def _pair(data: UInt8Array, at: int, a: np.uint64, b: np.uint64) -> tuple[np.uint64, np.uint64]:
    """Return two words of 32 bytes and two seeds."""
    last = read_word(data, at + 24, 8)
    a += read_word(data, at, 8)
    b = _rotated(b + a + last, 21)
    first = a
    a += read_word(data, at + 8, 8) + read_word(data, at + 16, 8)
    return a + last, b + _rotated(a, 44) + first


@numba.njit(inline="never")
def _long(data: UInt8Array, at: int, size: int) -> np.uint64:
    """Return the hash of more than 64 bytes: rounds of 64 from the front, and a last one of the last 64."""
    zero = np.uint64(0)
    y = _SEED * _K1 + _ADDED
    z = _mixed(y * _K2 + _ADDED) * _K2
    v0, v1, w0, w1 = zero, zero, zero, zero
    x = _SEED * _K2 + read_word(data, at, 8)
    rounds = (size - 1) // 64
    for _ in range(rounds):
        x = _rotated(x + y + v0 + read_word(data, at + 8, 8), 37) * _K1
        y = _rotated(y + v1 + read_word(data, at + 48, 8), 42) * _K1
        x ^= w1
        y += v0 + read_word(data, at + 40, 8)
        z = _rotated(z + w0, 33) * _K1
        v0, v1 = _pair(data, at, v1 * _K1, x + w0)
        w0, w1 = _pair(data, at + 32, z + w1, y + read_word(data, at + 16, 8))
        x, z = z, x
        at += 64
    factor = _K1 + ((z & np.uint64(0xFF)) << np.uint64(1))
    rest = (size - 1) & 63
    at += rest - 63
    w0 += np.uint64(rest)
    v0 += w0
    w0 += v0
    x = _rotated(x + y + v0 + read_word(data, at + 8, 8), 37) * factor
    y = _rotated(y + v1 + read_word(data, at + 48, 8), 42) * factor
    x ^= w1 * _NINE
    y += v0 * _NINE + read_word(data, at + 40, 8)
    z = _rotated(z + w0, 33) * factor
    v0, v1 = _pair(data, at, v1 * factor, x + w0)
    w0, w1 = _pair(data, at + 32, z + w1, y + read_word(data, at + 16, 8))
    first = _joined(v0, w0, factor) + _mixed(y) * _K0 + x  # x and z change places after the last round, too
    return _joined(first, _joined(v1, w1, factor) + z, factor)


@kernel()
def map_fingerprints(data: UInt8Array, ends: Int64Array, out: UInt64Array) -> None:
    """Write the fingerprint of each text to `out` (N,).

    Args:
        data: Bytes of all texts, end to end.
        ends: (N,): end of each; never decreasing, and none beyond `data`.
    """
    begin = 0
    for i in range(ends.size):
        size = ends[i] - begin
        if size <= 16:
            out[i] = _short(data, begin, size)
        elif size <= 64:
            out[i] = _middle(data, begin, size)
        else:
            out[i] = _long(data, begin, size)
        begin = ends[i]
