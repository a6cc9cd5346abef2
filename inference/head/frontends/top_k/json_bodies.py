"""Bodies of a top-k over HTTP: what is asked for in JSON, and the answer as JSON.

    {"vectors": [[0.5, 1.0]], "k": 10, "metric": "cosine", "exclude": [7, 9], "among": [[1, 2, 3]]}
    {"like": [7], "query_table": "user", "k": 10}
    {"features": {"history": [[7, 9]]}, "context": {}, "output": "query", "k": 10}
    {"model": "ranker", "version": 3, "table": "item", "keys": [[4, 2]], "scores": [[0.5, 0.25]], "found": [true]}

`vector` may stand for one of `vectors`. Of what is absent `k` is 10 and `metric` dot.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.head.frontends.lookups.messages import KEY_TYPES, hashed
from ringpull.inference.head.frontends.top_k.messages import check_count, listed_keys
from ringpull.inference.head.request.received import Limits, ReceivedColumns
from ringpull.inference.head.request.top_k import ListedKeys, QueryKeys, TopKRequest, check_sizes
from ringpull.inference.schema.columns import Column, as_column
from ringpull.inference.top_k_answer import TopK
from ringpull.inference.wire.json_writing import JsonWriter, plain
from ringpull.inference.wire.request_json import columns_from_json
from ringpull.inference.wire.top_k_codec import keys_column, lists_column, read_k, read_metric
from ringpull.ps.errors import InvalidInput
from ringpull.ps.top_k_messages import MAX_LISTED_KEYS, MAX_QUERIES

FIELDS: Final = (
    "vectors",
    "vector",
    "like",
    "query_table",
    "keep_self",
    "features",
    "context",
    "output",
    "k",
    "metric",
    "exclude",
    "among",
    "request_id",
)
DEFAULT_K: Final = 10
KEY_BYTES: Final = 24
"""Bytes that a key has in JSON, with its comma, or nearly so; a score has fewer."""


def read_top_k(body: Any, limits: Limits, *, model: str, table: str, version: int, label: str) -> TopKRequest:
    """Return what a body asks for.

    Raises:
        InvalidInput: It is no such request; the message names the field.
        LimitExceeded: It asks for too much at once.
    """
    if not isinstance(body, dict):
        raise InvalidInput('the body must be an object, as in {"vectors": [[0.5, 1.0]], "k": 10}')
    if unknown := sorted(set(body) - set(FIELDS)):
        raise InvalidInput(f"the body has an unknown field {unknown[0]!r:.80}; it takes {', '.join(FIELDS)}")
    for name in ("query_table", "output", "request_id"):
        if not isinstance(body.get(name, ""), str):
            raise InvalidInput(f"{name}: must be a string, not {type(body[name]).__name__}")
    if not isinstance(body.get("keep_self", False), bool):
        raise InvalidInput(f"keep_self: must be true or false, not {type(body['keep_self']).__name__}")
    if "like" not in body and ("query_table" in body or "keep_self" in body):
        raise InvalidInput("query_table, keep_self: say of which table the keys of like are, and there is no like")
    if "context" in body and "features" not in body:
        raise InvalidInput("context: stands beside features, and there are none")
    metric: Any = read_metric(body.get("metric", "dot"))
    return TopKRequest(
        model=model,
        table=table,
        version=version,
        label=label,
        k=read_k(body.get("k", DEFAULT_K)),
        metric=metric,
        vectors=_vectors(body) if "vectors" in body or "vector" in body else None,
        like=_like(body) if "like" in body else None,
        columns=_columns(body, limits) if "features" in body else None,
        output=body.get("output", ""),
        exclude=_listed("exclude", body["exclude"]) if "exclude" in body else None,
        among=_listed("among", body["among"]) if "among" in body else None,
        request_id=body.get("request_id", ""),
    )


def _vectors(body: dict[str, Any]) -> NDArray[np.float32]:
    if "vectors" in body and "vector" in body:
        raise InvalidInput("vector: stands for one of vectors; give either")
    name = "vectors" if "vectors" in body else "vector"
    given = body["vectors"] if name == "vectors" else [body["vector"]]
    if not isinstance(given, list) or not all(isinstance(each, list) for each in given):
        raise InvalidInput(f"{name}: must be a list of {'lists of ' if name == 'vectors' else ''}numbers")
    check_sizes(1, len(given))
    for vector in given:
        if any(type(number) not in (int, float) for number in vector):
            raise InvalidInput(f"{name}: must be numbers; one is none")
        if len(vector) != len(given[0]):
            raise InvalidInput(f"{name}: have {len(given[0])} and {len(vector)} numbers; all have as many")
    try:
        with np.errstate(over="ignore"):  # beyond float32 becomes infinite, and is refused by name
            return np.array(given, np.float64).astype(np.float32)
    except OverflowError as exc:  # an integer of hundreds of digits
        raise InvalidInput(f"{name}: a number is too large") from exc


def _like(body: dict[str, Any]) -> QueryKeys:
    given = body["like"]
    if not isinstance(given, list):
        raise InvalidInput(f"like: must be a list, not {type(given).__name__}")
    check_count("like", len(given), MAX_QUERIES)
    column = keys_column("like", given)
    return QueryKeys(
        keys=hashed(column),
        key_type=KEY_TYPES[column.dtype] if column.values else None,
        table=body.get("query_table", ""),
        keep_self=body.get("keep_self", False),
    )


def _columns(body: dict[str, Any], limits: Limits) -> ReceivedColumns:
    features, context = (columns_from_json(body.get(name, {})) for name in ("features", "context"))
    as_columns: list[dict[str, Column]] = [
        {name: as_column(name, values) for name, values in each.items()} for each in (features, context)
    ]
    try:
        return ReceivedColumns.of_columns(as_columns[0], as_columns[1], limits)
    except UnicodeEncodeError as exc:
        raise InvalidInput(f"features: {exc.object!r:.80} is no text: it holds half a character") from exc


def _listed(name: str, given: Any) -> ListedKeys:
    if not isinstance(given, list):
        raise InvalidInput(f"{name}: must be a list of keys, or of a list for each query, not {type(given).__name__}")
    nested = bool(given) and all(isinstance(each, list) for each in given)
    check_count(name, sum(map(len, given)) if nested else len(given), MAX_LISTED_KEYS)
    return listed_keys(name, lists_column(name, given))


def answer_bytes(answer: TopK) -> int:
    """Return how many bytes an answer has in JSON, or nearly so."""
    return 2 * KEY_BYTES * int(answer.counts.sum())


def write_answer(answer: TopK, out: JsonWriter) -> bytes:
    """Return the body of an answer. Infinity is bare, as over TensorFlow Serving's API.

    Raises:
        LimitExceeded, DeadlineExceeded: See `JsonWriter.write`.
    """
    out.write(plain({"model": answer.model, "version": answer.version, "table": answer.table})[:-1])
    for name, rows in (("keys", answer.keys), ("scores", answer.scores)):
        out.write(f',"{name}":['.encode())
        for query, count in enumerate(answer.counts.tolist()):
            if query:
                out.write(b",")
            out.array(rows[query, :count])
        out.write(b"]")
    rest: dict[str, Any] = {"hashed": True} if answer.hashed else {}
    if answer.found is not None:
        rest |= {"found": answer.found.tolist(), "missing": answer.missing}
    rest |= {name: value for name in ("lost", "lost_queries") if (value := getattr(answer, name))}
    if answer.filled:
        rest["filled"] = [
            {"feature": each.feature, "reason": each.reason, "values": each.values} for each in answer.filled
        ]
    if answer.unknown:
        rest["unknown"] = [{"feature": each.feature, "ids": each.ids} for each in answer.unknown]
    rest["request_id"] = answer.request_id
    out.write(b"," + plain(rest)[1:])
    return out.to_bytes()
