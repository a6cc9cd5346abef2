"""Look-ups of rows by key as messages of the public contract: what clients send, what heads answer, and back.

Keys travel as a `Column`, raw; how a head reads them is in `ringpull.inference.head.frontends.lookups.messages`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.inference.rows_answer import RowsAnswer
from ringpull.inference.schema.plain_values import as_array, says_array
from ringpull.inference.wire.codec import check_texts, checked_version
from ringpull.inference.wire.column_codec import (
    OFFSETS,
    WEIGHTS,
    ColumnBytes,
    DataType,
    column_of_numbers,
    column_of_texts,
)
from ringpull.inference.wire.messages import column_message, decode_tensor
from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.errors import InvalidInput, NoText, ProtocolError
from ringpull.ps.spec import Pooling

POOLINGS: Final[dict[Pooling, pb.LookupRequest.Pooling]] = {
    Pooling.NONE: pb.LookupRequest.NONE,
    Pooling.SUM: pb.LookupRequest.SUM,
    Pooling.MEAN: pb.LookupRequest.MEAN,
    Pooling.MAX: pb.LookupRequest.MAX,
}


def encode_lookup(
    model: str,
    table: str,
    keys: Sequence[int] | Sequence[str] | NDArray[Any],
    *,
    version: int | None = None,
    label: str | None = None,
    pooling: str | None = None,
    offsets: Sequence[int] | NDArray[np.int64] | None = None,
    weights: Sequence[float] | NDArray[np.float32] | None = None,
    request_id: str = "",
) -> pb.LookupRequest:
    """Return a look-up as a message. That offsets and weights fit the keys is for the head to check.

    Args:
        keys: (N,): integers, or strings.
        version: Version that is to answer; None: the live one, or the one with the label.
        pooling: sum, mean or max; None: every row by itself.
        offsets: (B+1,): starts of bags.
        weights: (N,): one number per key.

    Raises:
        InvalidInput: An argument cannot be sent; the message names it.
    """
    check_texts(model=model, table=table, request_id=request_id, label="" if label is None else label)
    try:
        message = pb.LookupRequest(
            model=model,
            table=table,
            version=checked_version(version) or 0,
            label=label or "",
            keys=column_message(encode_keys(keys)),
            pooling=POOLINGS[read_pooling(pooling)],
            request_id=request_id,
        )
    except UnicodeEncodeError as exc:
        raise InvalidInput(f"request: {exc.object!r} is no text: it holds half a character") from exc
    if offsets is not None:
        message.keys.raw_offsets = read_offsets(offsets).astype(OFFSETS, copy=False).tobytes()
    if weights is not None:
        message.keys.raw_weights = read_weights(weights).astype(WEIGHTS, copy=False).tobytes()
    return message


def encode_keys(given: Any) -> ColumnBytes:
    """Return keys as bytes.

    Args:
        given: (N,): integers, or strings; a list, an array, or what says itself as one.

    Raises:
        InvalidInput: They are neither.
    """
    return column_of_keys(read_keys(given))


def read_keys(given: Any) -> NDArray[Any]:
    """Return keys that a caller gives, (N,): an array of integers of 64 bits or less, or of objects that are strings.

    Raises:
        InvalidInput: They are neither.
    """
    if isinstance(given, str | bytes):
        raise InvalidInput(f"keys: is {given!r}; it must be a list of keys, or an array")
    try:
        array = as_array("keys", given) if says_array(type(given)) else None
        if array is not None and array.dtype == object and array.ndim == 1:
            array = None  # objects that are strings, or integers
        keys = _array(given) if array is None else array
    except OverflowError as exc:
        raise InvalidInput(
            "keys: must be all integers of 64 bits; some are beyond them, or negative beside 2^63"
        ) from exc
    except (TypeError, ValueError) as exc:
        raise InvalidInput(f"keys: must be all integers of 64 bits, or all strings: {exc}") from exc
    if keys.ndim != 1:
        raise InvalidInput(f"keys: have the shape {keys.shape}; they must be (N,)")
    if keys.dtype.kind in "iu" or not keys.size:
        return keys
    if keys.dtype.kind not in "UO" or not all(isinstance(key, str) for key in keys.tolist()):
        raise InvalidInput(f"keys: are {keys.dtype}; they must be all integers, or all strings")
    return keys


def column_of_keys(keys: NDArray[Any]) -> ColumnBytes:
    """Return what `read_keys` gave as bytes.

    Raises:
        InvalidInput: A string has half a character.
    """
    if keys.dtype.kind in "iu" or not keys.size:
        return column_of_numbers(DataType.UINT64 if keys.dtype == np.uint64 else DataType.INT64, keys)
    try:
        return column_of_texts("keys", keys.tolist())
    except NoText as exc:
        raise InvalidInput(f"keys: key {exc.place}: {exc.why}") from exc


def _array(given: Any) -> NDArray[Any]:
    keys = list(given)
    if not keys:
        return np.empty(0, np.int64)
    if all(isinstance(key, str) for key in keys):
        return np.array(keys, object)
    if any(isinstance(key, bool | np.bool_) or not isinstance(key, int | np.integer) for key in keys):
        raise TypeError("some are neither")
    try:
        return np.array(keys, np.int64)
    except OverflowError:
        if min(keys) < 0:  # which numpy 1 would wrap around
            raise
        return np.array(keys, np.uint64)


def read_pooling(given: Any) -> Pooling:
    """Return a pooling by its name; None is none.

    Raises:
        InvalidInput: There is no such pooling.
    """
    try:
        return Pooling.NONE if given is None else Pooling(given)
    except ValueError as exc:
        raise InvalidInput(f"pooling: is {given!r}; it must be one of {', '.join(Pooling)}") from exc


def read_offsets(given: Any) -> NDArray[np.int64]:
    """Return starts of bags that are given as numbers. That they fit the keys is for the head to check.

    Raises:
        InvalidInput: They are no integers (B+1,).
    """
    return _numbers("offsets", given, "iu", np.int64)


def read_weights(given: Any) -> NDArray[np.float32]:
    """Return weights that are given as numbers.

    Raises:
        InvalidInput: They are no numbers (N,).
    """
    return _numbers("weights", given, "iuf", np.float32)


def _numbers(what: str, given: Any, kinds: str, dtype: Any) -> NDArray[Any]:
    try:
        numbers = np.asarray(given)
    except ValueError as exc:
        raise InvalidInput(f"{what}: must be a list of numbers: {exc}") from exc
    if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in kinds):
        raise InvalidInput(f"{what}: are {numbers.dtype} {numbers.shape}; they must be numbers, (N,)")
    with np.errstate(over="ignore"):  # beyond float32 becomes infinite: the server refuses it by name
        return numbers.astype(dtype)


def encode_rows(answer: RowsAnswer, *, typed: bool = False) -> pb.LookupResponse:
    """Return an answer as a message, vectors typed or raw."""
    message = pb.LookupResponse(
        model=answer.model,
        version=answer.version,
        missing=answer.missing,
        lost=answer.lost,
        request_id=answer.request_id,
    )
    if answer.found is not None:
        message.found = answer.found.tobytes()
    rows = answer.rows
    if isinstance(rows, BytesRows):
        message.bytes.data = rows.data.tobytes()
        message.bytes.offsets = rows.offsets.astype("<i8", copy=False).tobytes()
    else:
        vectors = message.vectors  # filled in where it is: a message that is put into another one is copied
        vectors.shape.extend(rows.shape)
        if typed:
            vectors.floats.extend(rows.ravel())
        else:
            vectors.data = rows.astype("<f4", copy=False).tobytes()
    return message


def decode_rows(message: pb.LookupResponse, *, pooled: bool) -> RowsAnswer:
    """Return a message's answer, its arrays freshly allocated.

    Args:
        pooled: Whether bags were asked for, of which none is found or not.

    Raises:
        ProtocolError: What it holds does not fit together.
    """
    kind = message.WhichOneof("rows")
    rows: NDArray[np.float32] | BytesRows
    if kind == "bytes":
        rows = _bytes_rows(message.bytes)
    elif kind == "vectors":
        rows = decode_tensor("rows", message.vectors)
        if rows.ndim != 2:
            raise ProtocolError(f"rows: have the shape {rows.shape}; rows are (N, dim)")
    else:
        raise ProtocolError("the answer has no rows")
    found = None if pooled else np.frombuffer(message.found, np.uint8) != 0
    if found is not None and len(found) != len(rows):
        raise ProtocolError(f"found: has {len(found)} entries for {len(rows)} rows")
    return RowsAnswer(
        model=message.model,
        version=message.version,
        rows=rows,
        found=found,
        missing=message.missing,
        lost=message.lost,
        request_id=message.request_id,
    )


def _bytes_rows(message: pb.BytesRows) -> BytesRows:
    data, raw = message.data, message.offsets
    if not raw or len(raw) % 8:
        raise ProtocolError(f"rows: {len(raw)} bytes are no offsets")
    offsets = np.frombuffer(raw, "<i8").astype(np.int64)
    if offsets[0] != 0 or offsets[-1] != len(data) or bool((offsets[1:] < offsets[:-1]).any()):
        raise ProtocolError(f"rows: offsets from {offsets[0]} to {offsets[-1]} do not fit {len(data)} bytes")
    return BytesRows(np.frombuffer(data, np.uint8), offsets)
