"""Reading a TopK message: straight from protobuf's bytes to the queries and keys that the head works on."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.head.frontends.grpc.decoding import all_typed, decode_request
from ringpull.inference.head.frontends.lookups.messages import KEY_TYPES, hashed
from ringpull.inference.head.request.received import Limits
from ringpull.inference.head.request.top_k import ListedKeys, QueryKeys, TopKRequest, check_sizes
from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.inference.wire.column_codec import OFFSETS, ColumnBytes, DataType
from ringpull.inference.wire.messages import decode_tensor, read_column
from ringpull.inference.wire.top_k_codec import METRICS
from ringpull.ps.errors import InvalidInput, LimitExceeded, ProtocolError
from ringpull.ps.hashing import UInt64Array
from ringpull.ps.top_k_messages import MAX_LISTED_KEYS, MAX_QUERIES
from ringpull.router.top_k import METRICS as ROUTED
from ringpull.router.top_k import Metric

_METRICS: Final[dict[int, Metric]] = {int(METRICS[name]): name for name in ROUTED}


def decode_top_k(message: pb.TopKRequest, limits: Limits) -> TopKRequest:
    """Return what a message asks for.

    Raises:
        InvalidInput: Queries, keys or the metric are none; the message names which.
        LimitExceeded: There are more of them than are taken.
    """
    metric = _METRICS.get(message.metric)
    if metric is None:
        raise InvalidInput(f"metric: is {message.metric}; it must be {' or '.join(METRICS)}, numbered from 0")
    request = TopKRequest(
        model=message.model,
        table=message.table,
        version=message.version,
        label=message.label,
        k=message.k,
        metric=metric,
        vectors=_vectors(message) if message.HasField("vectors") else None,
        like=_like(message) if message.HasField("like") else None,
        columns=decode_request(_columns(message), limits).columns if message.HasField("features") else None,
        output=message.output,
        exclude=_listed("exclude", message.exclude) if message.HasField("exclude") else None,
        among=_listed("among", message.among) if message.HasField("among") else None,
        request_id=message.request_id,
    )
    if request.like is None and (message.query_table or message.keep_self):
        raise InvalidInput("query_table, keep_self: say of which table the keys of like are, and there is no like")
    return request


def is_typed(message: pb.TopKRequest) -> bool:
    """Whether the queries were typed fields, so that the reply's numbers shall be, too."""
    if message.HasField("vectors"):
        return not message.vectors.data
    if message.HasField("like"):
        return not message.like.HasField("raw")
    return all_typed(message.features)


def _vectors(message: pb.TopKRequest) -> NDArray[np.float32]:
    tensor = message.vectors
    if tensor.shape:  # before its numbers are looked at
        check_sizes(1, tensor.shape[0])
    try:
        vectors = decode_tensor("vectors", tensor)
    except ProtocolError as exc:
        raise InvalidInput(f"vectors: {str(exc).removeprefix('output vectors: ')}") from exc
    if vectors.ndim != 2:
        raise InvalidInput(f"vectors: have the shape {vectors.shape}; they are (Q, dim)")
    return vectors


def _columns(message: pb.TopKRequest) -> pb.PredictRequest:
    asked = message.features
    for name in ("model", "version", "label", "outputs", "request_id", "with_timings", "with_unknown"):
        if getattr(asked, name):
            raise InvalidInput(f"features: has {name}, which is to be said of the request itself, or not at all")
    return asked


def _like(message: pb.TopKRequest) -> QueryKeys:
    column = _keys("like", message.like, MAX_QUERIES)
    if column.offsets is not None:
        raise InvalidInput("like: has offsets; it is flat, a key for each query")
    return QueryKeys(
        keys=_hashed("like", column),
        key_type=KEY_TYPES[column.dtype] if column.values else None,
        table=message.query_table,
        keep_self=message.keep_self,
    )


def _listed(name: str, message: pb.Column) -> ListedKeys:
    return listed_keys(name, _keys(name, message, MAX_LISTED_KEYS))


def listed_keys(name: str, column: ColumnBytes) -> ListedKeys:
    """Return lists of keys that came as bytes.

    Raises:
        InvalidInput: A string is not UTF-8.
    """
    return ListedKeys(
        keys=_hashed(name, column),
        key_type=KEY_TYPES[column.dtype] if column.values else None,
        offsets=None if column.offsets is None else np.frombuffer(column.offsets, OFFSETS),
        texts=column if column.dtype == DataType.STRING else None,
    )


def _keys(name: str, message: pb.Column, most: int) -> ColumnBytes:
    kind = message.WhichOneof("values")
    if kind is None:
        raise InvalidInput(f"{name}: has no values: set int64s, uint64s, strings or raw")
    check_count(name, 0 if kind == "raw" else len(getattr(message, kind).values), most)  # each of these costs
    try:
        column = read_column(name, message)
    except InvalidInput as exc:
        raise InvalidInput(str(exc).removeprefix("feature ")) from exc
    if column.dtype not in KEY_TYPES:
        raise InvalidInput(f"{name}: are floats; they must be integers or strings")
    if column.width or column.weights is not None:
        raise InvalidInput(f"{name}: has a width or weights; keys have none")
    check_count(name, column.values, most)
    return column


def check_count(name: str, keys: int, most: int) -> None:
    """Check a number of keys before anything is done for them.

    Raises:
        LimitExceeded: They are too many.
    """
    if keys > most:
        raise LimitExceeded(f"{name}: {keys} keys; the most is {most}")


def _hashed(name: str, column: ColumnBytes) -> UInt64Array:
    try:
        return hashed(column)
    except InvalidInput as exc:
        raise InvalidInput(f"{name}: {str(exc).removeprefix('keys: ')}") from exc
