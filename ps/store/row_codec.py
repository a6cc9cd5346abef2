"""The codec of rows: from float32 numbers to stored bytes and back, for each row type.

    float32   dim x f32
    float16   dim x IEEE binary16
    bfloat16  dim x the upper half of an f32
    int8      f32 scale, f32 offset, dim x u8 code, zeros up to a multiple of 4; number = code * scale + offset

The two short float types round to nearest, ties to even; infinities and NaN survive. int8 spreads its 256 codes over
the row's own range; a row of one number has scale 0, and is exact. Decoding is part of the format: product and sum are
rounded to float32 each, here and in the kernel, so that all readers see the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.errors import InvalidInput
from ringpull.ps.spec import AFFINE_BYTES, Float32Array, RowType, TableSpec

ByteArray = NDArray[np.uint8]

_CODES: Final = 255
"""Steps between the smallest and the largest code."""
_WIDEST: Final = 3.4e38
"""Largest distance between numbers of one int8 row: a little below the largest float32, so that none decodes to an
infinity."""


def encode(rows: Float32Array, spec: TableSpec) -> ByteArray:
    """Return rows (n, dim) as stored, uint8 (n, row_bytes); a view where nothing changes.

    Raises:
        InvalidInput: The row type cannot hold a number: beyond its largest, or for int8 not finite.
    """
    return _CODECS[spec.row_type].encode(np.ascontiguousarray(rows), spec)


def decode(raw: ByteArray, spec: TableSpec) -> Float32Array:
    """Return stored rows, uint8 (n, row_bytes), as float32 (n, dim): exactly what kernels pool; a copy."""
    return _CODECS[spec.row_type].decode(np.ascontiguousarray(raw), spec)


def _encode_float32(rows: Float32Array, _spec: TableSpec) -> ByteArray:
    return rows.view(np.uint8)


def _decode_float32(raw: ByteArray, _spec: TableSpec) -> Float32Array:
    return raw.view(np.float32).copy()


def _encode_float16(rows: Float32Array, spec: TableSpec) -> ByteArray:
    with np.errstate(over="ignore"):
        halves = rows.astype(np.float16)
    _refuse_overflow(rows, np.isinf(halves), spec, "65504")
    return halves.view(np.uint8)


def _decode_float16(raw: ByteArray, _spec: TableSpec) -> Float32Array:
    return raw.view(np.float16).astype(np.float32)


def _encode_bfloat16(rows: Float32Array, spec: TableSpec) -> ByteArray:
    bits = rows.view(np.uint32)
    # Half of the last kept place, a little less where that is even: carries do the rest.
    rounded = ((bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) >> np.uint32(16)).astype("<u2")
    nan = np.isnan(rows)
    rounded[nan] = (bits[nan] >> np.uint32(16)) | np.uint32(0x40)  # else a NaN's low bits could carry it to infinity
    _refuse_overflow(rows, (rounded & 0x7FFF) == 0x7F80, spec, "3.39e38")
    return rounded.view(np.uint8)


def _decode_bfloat16(raw: ByteArray, _spec: TableSpec) -> Float32Array:
    return (raw.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)


def _encode_int8(rows: Float32Array, spec: TableSpec) -> ByteArray:
    out = np.zeros((len(rows), spec.row_bytes), np.uint8)
    affine = out[:, :AFFINE_BYTES].view("<f4")
    lowest = rows.min(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        width = rows.max(axis=1, keepdims=True).astype(np.float64) - lowest
    if not (width <= _WIDEST).all():  # NaN and infinities fail too
        raise InvalidInput(
            f"table {spec.name}: a row of type int8 must be finite, and its numbers less than 3.4e38 apart; take"
            " another row_type"
        )
    scale = (width / _CODES).astype(np.float32)
    # The rounded scale is the one that decodes. A row of one number, or too narrow for any scale, has codes 0.
    steps = np.where(scale > 0, scale, np.float32(1)).astype(np.float64)
    codes = np.rint((rows.astype(np.float64) - lowest) / steps)
    affine[:, :1], affine[:, 1:] = scale, lowest
    out[:, AFFINE_BYTES : AFFINE_BYTES + spec.dim] = np.minimum(codes, _CODES)
    return out


def _decode_int8(raw: ByteArray, spec: TableSpec) -> Float32Array:
    affine = raw[:, :AFFINE_BYTES].copy().view("<f4")
    codes = raw[:, AFFINE_BYTES : AFFINE_BYTES + spec.dim].astype(np.float32)
    rows: Float32Array = codes * affine[:, :1] + affine[:, 1:]
    return rows


def _refuse_overflow(rows: Float32Array, infinite: NDArray[np.bool_], spec: TableSpec, largest: str) -> None:
    if bool((infinite & np.isfinite(rows)).any()):
        raise InvalidInput(
            f"table {spec.name}: a number is beyond {largest}, the largest of {spec.row_type.value}; take another"
            " row_type"
        )


class _Codec(NamedTuple):
    """Codec of one row type: from float32 rows to stored ones, and back."""

    encode: Callable[[Float32Array, TableSpec], ByteArray]
    decode: Callable[[ByteArray, TableSpec], Float32Array]


_CODECS: Final[Mapping[RowType, _Codec]] = MappingProxyType(
    {
        RowType.FLOAT32: _Codec(_encode_float32, _decode_float32),
        RowType.FLOAT16: _Codec(_encode_float16, _decode_float16),
        RowType.BFLOAT16: _Codec(_encode_bfloat16, _decode_bfloat16),
        RowType.INT8: _Codec(_encode_int8, _decode_int8),
    }
)
