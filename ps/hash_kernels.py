"""Finalizer of `ringpull.ps.hashing` and its inverse, compiled: for use inside other kernels, and over arrays."""

from __future__ import annotations

import numba
import numpy as np

from ringpull.ps.compiled import kernel
from ringpull.ps.hashing import UInt64Array


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
