"""Top-k as messages of the public contract: what clients send, what heads answer, and back.

How a head reads a request is in `ringpull.inference.head.frontends.top_k.messages`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.prediction import Prediction
from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.inference.schema.columns import Ragged
from ringpull.inference.schema.plain_values import as_array, says_array
from ringpull.inference.top_k_answer import TopK
from ringpull.inference.wire.codec import (
    as_call,
    check_texts,
    checked_version,
    decode_response,
    encode_request,
    encode_response,
)
from ringpull.inference.wire.column_codec import OFFSETS, WEIGHTS, ColumnBytes, DataType, column_of_texts, decode_column
from ringpull.inference.wire.lookup_codec import encode_keys
from ringpull.inference.wire.messages import column_message, read_column
from ringpull.ps.errors import InvalidInput, ProtocolError

METRICS: Final[dict[str, pb.TopKRequest.Metric]] = {"dot": pb.TopKRequest.DOT, "cosine": pb.TopKRequest.COSINE}
MAX_UINT32: Final = 2**32 - 1


def encode_top_k(
    model: str,
    table: str = "",
    query: Any = None,
    k: int = 10,
    *,
    like: Any = None,
    query_table: str = "",
    keep_self: bool = False,
    features: Mapping[str, Any] | None = None,
    context: Mapping[str, Any] | None = None,
    output: str = "",
    metric: str = "dot",
    exclude: Any = None,
    among: Any = None,
    version: int | None = None,
    label: str | None = None,
    request_id: str = "",
) -> pb.TopKRequest:
    """Return a top-k as a message. That queries and keys fit the table is for the head to check.

    The arguments are those of `Client.top_k`.

    Raises:
        InvalidInput: An argument cannot be sent; the message names it.
    """
    check_texts(
        model=model, table=table, query_table=query_table, output=output, request_id=request_id, label=label or ""
    )
    number = checked_version(version) or 0
    given = [name for name, value in (("query", query), ("like", like), ("features", features)) if value is not None]
    if len(given) != 1:
        raise InvalidInput(
            "give the queries in one way, as query (vectors), like (keys) or features;"
            f" these are given: {', '.join(given) or 'none'}"
        )
    try:
        message = pb.TopKRequest(
            model=model,
            table=table,
            version=number,
            label=label or "",
            k=read_k(k),
            metric=METRICS[read_metric(metric)],
            query_table=query_table,
            keep_self=keep_self,
            output=output,
            request_id=request_id,
        )
    except UnicodeEncodeError as exc:
        raise InvalidInput(f"request: {exc.object!r} is no text: it holds half a character") from exc
    if query is not None:
        vectors = read_vectors(query)
        message.vectors.shape.extend(vectors.shape)
        message.vectors.data = vectors.astype(WEIGHTS, copy=False).tobytes()
    elif like is not None:
        message.like.CopyFrom(column_message(keys_column("like", [like] if is_one_key(like) else like)))
    else:
        message.features.CopyFrom(encode_request(as_call("", features or {}, context)))
    if exclude is not None:
        message.exclude.CopyFrom(column_message(lists_column("exclude", exclude)))
    if among is not None:
        message.among.CopyFrom(column_message(lists_column("among", among)))
    return message


def read_k(given: Any) -> int:
    """Return a number of rows.

    Raises:
        InvalidInput: It is none that could be sent.
    """
    if isinstance(given, bool) or not isinstance(given, int | np.integer) or not 1 <= given <= MAX_UINT32:
        raise InvalidInput(f"k: is {given!r:.80}; it must be an integer of at least 1")
    return int(given)


def read_metric(given: Any) -> str:
    """Return the name of a metric.

    Raises:
        InvalidInput: There is no such metric.
    """
    if not isinstance(given, str) or given not in METRICS:
        raise InvalidInput(f"metric: is {given!r:.80}; it must be one of {', '.join(METRICS)}")
    return given


def read_vectors(given: Any) -> NDArray[np.float32]:
    """Return queries that are given as numbers: (Q, dim), of a single vector (1, dim).

    Raises:
        InvalidInput: They are no numbers of that shape, or not finite as float32.
    """
    try:
        vectors = as_array("query", given) if says_array(type(given)) else np.asarray(given)
    except ValueError as exc:
        raise InvalidInput(f"query: must be a vector, or a list of vectors of one length: {exc}") from exc
    if vectors.dtype.kind not in "iuf" or vectors.ndim not in (1, 2):
        raise InvalidInput(f"query: is {vectors.dtype} {vectors.shape}; it must be numbers, (dim,) or (Q, dim)")
    with np.errstate(over="ignore"):
        vectors = np.atleast_2d(vectors).astype(np.float32)
    if not np.isfinite(vectors).all():
        raise InvalidInput("query: holds NaN, or what is infinite as float32")
    return vectors


def is_one_key(given: Any) -> bool:
    """Whether an argument is one key, and no list of them."""
    return isinstance(given, str | int | np.integer) and not isinstance(given, bool)


def keys_column(name: str, given: Any) -> ColumnBytes:
    """Return keys (N,) as bytes; see `encode_keys`.

    Raises:
        InvalidInput: They are no keys; the message names the argument.
    """
    try:
        return encode_keys(given)
    except InvalidInput as exc:
        raise InvalidInput(f"{name}: {str(exc).removeprefix('keys: ')}") from exc


def lists_column(name: str, given: Any) -> ColumnBytes:
    """Return keys (N,) for all queries, or, of a list of lists or `Ragged`, a list of them for each query.

    Raises:
        InvalidInput: They are no keys; the message names the argument.
    """
    if isinstance(given, Ragged):
        given.check(name)
        offsets = given.offsets.astype(OFFSETS, copy=False).tobytes()
        return keys_column(name, given.values)._replace(offsets=offsets)
    if isinstance(given, np.ndarray) and given.ndim == 2:
        given = list(given)
    if isinstance(given, list | tuple) and given and all(isinstance(each, list | tuple | np.ndarray) for each in given):
        lengths = [len(each) for each in given]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(OFFSETS).tobytes()
        return keys_column(name, [key for each in given for key in each])._replace(offsets=offsets)
    return keys_column(name, given)


def encode_answer(answer: TopK, *, typed: bool = False) -> pb.TopKResponse:
    """Return an answer as a message, its numbers typed or raw."""
    valid = np.arange(answer.keys.shape[1]) < answer.counts[:, None]
    offsets = np.concatenate([[0], np.cumsum(answer.counts)]).astype(OFFSETS)
    of_model = encode_response(Prediction({}, answer.version, filled=answer.filled, unknown=answer.unknown))
    message = pb.TopKResponse(
        model=answer.model,
        version=answer.version,
        table=answer.table,
        missing=answer.missing,
        lost=answer.lost,
        lost_queries=answer.lost_queries,
        hashed=answer.hashed,
        filled=of_model.filled,
        unknown=of_model.unknown,
        request_id=answer.request_id,
    )
    keys, scores = answer.keys[valid], answer.scores[valid]
    if answer.found is not None:
        message.found = answer.found.tobytes()
    if typed:
        message.keys.CopyFrom(_typed_keys(keys))
        message.keys.offsets.extend(offsets.tolist())
        message.scores.extend(scores.tolist())
        return message
    if keys.dtype == object:
        column = column_of_texts("keys", keys.tolist())
    else:
        kind = DataType.UINT64 if keys.dtype == np.uint64 else DataType.INT64
        column = ColumnBytes(kind, len(keys), keys.tobytes())
    message.keys.CopyFrom(column_message(column._replace(offsets=offsets.tobytes())))
    message.raw_scores = scores.astype(WEIGHTS, copy=False).tobytes()
    return message


def _typed_keys(keys: NDArray[Any]) -> pb.Column:
    values = keys.tolist()
    if keys.dtype == object:
        return pb.Column(strings=pb.StringList(values=values))
    if keys.dtype == np.uint64:
        return pb.Column(uint64s=pb.UInt64List(values=values))
    return pb.Column(int64s=pb.Int64List(values=values))


def decode_answer(message: pb.TopKResponse, k: int) -> TopK:
    """Return a message's answer, its arrays freshly allocated, (Q, k).

    Args:
        k: Rows that were asked for.

    Raises:
        ProtocolError: What it holds does not fit together.
    """
    try:
        column = read_column("keys", message.keys)
        values = decode_column("keys", column._replace(offsets=None))
    except InvalidInput as exc:
        raise ProtocolError(f"the answer's {exc}") from exc
    assert not isinstance(values, Ragged)
    scores = (
        np.frombuffer(message.raw_scores, WEIGHTS)
        if message.raw_scores and not len(message.raw_scores) % WEIGHTS.itemsize
        else np.array(message.scores, np.float32)
    )
    offsets = np.frombuffer(column.offsets or b"", OFFSETS)
    counts = np.diff(offsets)
    fits = len(offsets) and offsets[0] == 0 and offsets[-1] == len(values) and len(scores) == len(values)
    if not fits or bool((counts < 0).any()) or bool((counts > k).any()):
        raise ProtocolError(
            f"the answer has {len(values)} keys and {len(scores)} scores for {len(offsets) - 1} queries"
        )
    valid = np.arange(k) < counts[:, None]
    texts = values.dtype == object
    keys = np.full(valid.shape, None, object) if texts else np.zeros(valid.shape, values.dtype.newbyteorder("="))
    laid = np.full(valid.shape, -np.inf, np.float32)
    keys[valid], laid[valid] = values, scores
    found = np.frombuffer(message.found, np.uint8) != 0 if message.found else None
    if found is not None and len(found) != len(counts):
        raise ProtocolError(f"found: has {len(found)} entries for {len(counts)} queries")
    told = decode_response(pb.PredictResponse(filled=message.filled, unknown=message.unknown))
    return TopK(
        model=message.model,
        version=message.version,
        table=message.table,
        keys=keys,
        scores=laid,
        counts=counts.astype(np.int64),
        hashed=message.hashed,
        found=found,
        missing=message.missing,
        lost=message.lost,
        lost_queries=message.lost_queries,
        filled=told.filled,
        unknown=told.unknown,
        request_id=message.request_id,
    )
