"""Lists of `tf.Example`, as Classify and Regress take them, to the columns of a request.

An example is a row: each of its features has a list of values, of integers, floats or bytes. One with many values a row
takes any number of them, with weights in a feature `NAME_weights`; any other as many as it has. Those of the list's
context stand for every row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.head.frontends.tensors import OFFSETS, WEIGHTS, columns_of, has_many, owner_of, unknown_input
from ringpull.inference.head.request.received import Limits, ReceivedColumns, check_count
from ringpull.inference.schema.kinds import Cross, Dense, Feature, SentFeature
from ringpull.ps.errors import InvalidInput, LimitExceeded

BYTES_OF_FEATURE: Final = 16
"""Bytes that take as long to read as one feature of one example, or as it takes to see that it is not there."""


def examples_of(given: Any) -> Sequence[Any]:
    """Return the examples of an `Input`."""
    kind = given.WhichOneof("kind")
    return getattr(given, kind).examples if kind else ()


def size_of_input(given: Any, features: Sequence[Feature]) -> int:
    """Return how much work the examples of an `Input` are, as a number of bytes."""
    return BYTES_OF_FEATURE * len(examples_of(given)) * len(features)


def columns_of_input(given: Any, features: Iterable[Feature], limits: Limits) -> ReceivedColumns:
    """Return the examples of an `Input` as the columns of one request, checked for size.

    Where examples have nothing of their own, that is one row, whose answer is that of every example: written out, a
    context that is repeated would be much larger than its message.

    Args:
        features: Features of the version that is asked for.

    Raises:
        InvalidInput: There is no example, or a feature is unknown, or its lists do not fit; the message names it.
        LimitExceeded: The request is larger than `limits`.
    """
    examples = examples_of(given)
    if not examples:
        raise InvalidInput("input: Input is empty. Send at least one example")
    if len(examples) > limits.max_candidates:
        raise LimitExceeded(f"the request has {len(examples)} rows; max_candidates is {limits.max_candidates}")
    known = {each.name: each for each in features if not isinstance(each, Cross)}
    tensors = _tensors([each.features.feature for each in examples], "examples", known, limits)
    if given.HasField("example_list_with_context"):
        context = given.example_list_with_context.context.features.feature
        for name, values in _tensors([context], "context", known, limits).items():
            if name in tensors:
                raise InvalidInput(f"feature {name}: is both in examples and in their context")
            tensors[name] = values
    return columns_of(tensors, known.values(), limits)


def _tensors(
    rows: Sequence[Mapping[str, Any]], where: str, known: Mapping[str, SentFeature], limits: Limits
) -> dict[str, NDArray[Any]]:
    """Return the features of examples as tensors: (B, w), or (N,) with their offsets."""
    for row in rows:
        check_count(len(row), limits.max_columns)
    names = set(chain.from_iterable(rows))
    check_count(len(names), limits.max_columns)
    for name in names - known.keys():
        owner = owner_of(name, known)
        if owner + WEIGHTS != name or owner not in names:
            raise unknown_input(name, owner if owner + WEIGHTS == name else "", known)
    tensors: dict[str, NDArray[Any]] = {}
    for name in sorted(names):
        feature = known.get(name)
        values, counts = _lists(name, where, rows)
        if feature is None:
            owner = owner_of(name, known)
            if not np.array_equal(counts, _lists(owner, where, rows)[1]):
                raise InvalidInput(f"feature {name}: must have as many values as {owner}, in every example")
            tensors[name] = values
            continue
        if has_many(feature):
            tensors[name] = values
            tensors[name + OFFSETS] = np.concatenate(([0], np.cumsum(counts)))
            continue
        width = feature.width if isinstance(feature, Dense) else 1
        if (wrong := np.flatnonzero(counts != width)).size:
            place = int(wrong[0])
            raise InvalidInput(
                f"feature {name}: {where}[{place}] has {counts[place]} values; it takes {width} in every example"
            )
        tensors[name] = values.reshape(len(rows), width)
    return tensors


def _lists(name: str, where: str, rows: Sequence[Mapping[str, Any]]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return the values of a feature, end to end, and how many each row has."""
    lists: list[Sequence[Any]] = []
    kinds: set[str] = set()
    for row in rows:
        feature = row.get(name)  # By row[name] an absent one would be made.
        kind: str | None = None if feature is None else feature.WhichOneof("kind")
        values = getattr(feature, kind).value if kind else ()
        if kind and values:
            kinds.add(kind)
        lists.append(values)
    if len(kinds) > 1:
        raise InvalidInput(f"feature {name}: {where} hold {' and '.join(sorted(kinds))} of it; give all in one kind")
    counts = np.array([len(each) for each in lists], np.int64)
    flat = list(chain.from_iterable(lists))
    if kinds == {"bytes_list"}:
        strings = np.empty(len(flat), object)
        strings[:] = flat
        return strings, counts
    return np.array(flat, np.float32 if kinds == {"float_list"} else np.int64), counts
