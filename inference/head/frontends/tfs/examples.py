"""Lists of `tf.Example`, as Classify and Regress take them, to the columns of a request.

An example is a row: each of its features has a list of values, of integers, floats or bytes. One with many values a row
takes any number of them, with weights in a feature `NAME_weights`; any other as many as it has. Those of the list's
context stand for every row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.head.frontends.tensors import (
    CHUNK,
    OFFSETS,
    WEIGHTS,
    columns_of,
    has_many,
    owner_of,
    unknown_input,
)
from ringpull.inference.head.frontends.tfs.tensor_codec import array_of_list
from ringpull.inference.head.request.received import Limits, ReceivedColumns, check_count
from ringpull.inference.schema.kinds import Dense, Feature, MadeFeature, SentFeature
from ringpull.ps.errors import InvalidInput, LimitExceeded

_DTYPES: Final[dict[str | None, np.dtype[Any]]] = {
    None: np.dtype(np.int64),
    "int64_list": np.dtype(np.int64),
    "float_list": np.dtype(np.float32),
    "bytes_list": np.dtype(object),
}
"""Types of arrays by the kind of lists."""

BYTES_OF_FEATURE: Final = 16
"""Bytes that take as long to read as one feature of one example, or as it takes to see that it is not there."""


def examples_of(given: Any) -> Sequence[Any]:
    """Return the examples of an `Input`."""
    kind = given.WhichOneof("kind")
    return getattr(given, kind).examples if kind else ()


def size_of_input(given: Any, features: Sequence[Feature], nbytes: int) -> int:
    """Return how much work the examples of an `Input` are, as a number of bytes.

    Args:
        nbytes: Bytes of its message.
    """
    return max(nbytes, BYTES_OF_FEATURE * len(examples_of(given)) * len(features))


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
    known = {each.name: each for each in features if not isinstance(each, MadeFeature)}
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
    names: set[str] = set()
    for row in rows:
        names.update(row)
    check_count(len(names), limits.max_columns)
    for name in names - known.keys():
        owner = owner_of(name, known) if name.endswith(WEIGHTS) else None
        if owner is None or owner not in names:
            raise unknown_input(name, owner, known)
    tensors: dict[str, NDArray[Any]] = {}
    for name in sorted(names):
        feature = known.get(name)
        lists = _Lists.of(name, where, rows)
        counts = lists.counts
        if (longest := int(counts.max())) > limits.max_values_per_row:
            raise LimitExceeded(
                f"feature {name}: a row has {longest} values; max_values_per_row is {limits.max_values_per_row}"
            )
        if feature is None:
            owner = owner_of(name, known)
            assert owner is not None
            if not np.array_equal(counts, _Lists.of(owner, where, rows).counts):
                raise InvalidInput(f"feature {name}: must have as many values as {owner}, in every example")
            tensors[name] = lists.values()
            continue
        width = feature.width if isinstance(feature, Dense) else 1
        if has_many(feature):
            if name + OFFSETS not in known:
                tensors[name] = lists.values()
                tensors[name + OFFSETS] = np.concatenate(([0], np.cumsum(counts)))
                continue
            width = int(counts[0])
        if (wrong := np.flatnonzero(counts != width)).size:
            place = int(wrong[0])
            raise InvalidInput(
                f"feature {name}: {where}[{place}] has {counts[place]} values; it takes {width} in every example"
            )
        tensors[name] = lists.values().reshape(len(rows), width)
    return tensors


class _Lists(NamedTuple):
    """The values of a feature in each row, still in their message."""

    lists: list[Sequence[Any]]
    kind: str | None
    """Name of the kind of lists; None: all are empty."""
    counts: NDArray[np.int64]
    """How many values each row has."""

    @classmethod
    def of(cls, name: str, where: str, rows: Sequence[Mapping[str, Any]]) -> _Lists:
        """Return the lists of a feature."""
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
            raise InvalidInput(
                f"feature {name}: {where} hold {' and '.join(sorted(kinds))} of it; give all in one kind"
            )
        return cls(lists, next(iter(kinds), None), np.array([len(each) for each in lists], np.int64))

    def values(self) -> NDArray[Any]:
        """Return the values of all rows, end to end."""
        dtype = _DTYPES[self.kind]
        if int(self.counts.sum()) <= CHUNK:
            return array_of_list(list(chain.from_iterable(self.lists)), dtype)
        joined: NDArray[Any] = np.concatenate([array_of_list(each, dtype) for each in self.lists])
        return joined
