"""A feature called like the offsets of another one: nothing that could be read in two ways is taken."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ringpull.inference.head.frontends.plans import kind_of, plan_of
from ringpull.inference.head.frontends.tensors import columns_of
from ringpull.inference.head.frontends.tfs import messages
from ringpull.inference.head.frontends.tfs.examples import columns_of_input
from ringpull.inference.head.frontends.tfs.rest_requests import example_tensors, predict_tensors
from ringpull.inference.head.request.received import Limits, ReceivedColumns
from ringpull.inference.schema.kinds import IdSequence, SentFeature, Sparse
from ringpull.ps.errors import InvalidInput

LIMITS = Limits(max_candidates=50, max_values_per_row=20)
FEATURES: dict[str, SentFeature] = {
    "h": IdSequence("h", length=3, missing=()),
    "h_offsets": Sparse("h_offsets", missing=0),
}


def rows_of(columns: ReceivedColumns) -> dict[str, list[Any]]:
    return {name: np.asarray(column).tolist() for part in columns.columns() for name, column in part.items()}


def by_tensors(**tensors: Any) -> dict[str, list[Any]]:
    arrays = {name: np.asarray(values) for name, values in tensors.items()}
    return rows_of(columns_of(arrays, FEATURES.values(), LIMITS))


def by_rows(key: str, rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    read = predict_tensors if key == "instances" else example_tensors
    return rows_of(columns_of(read({key: rows}, FEATURES, LIMITS).tensors, FEATURES.values(), LIMITS))


def by_examples(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    examples = [
        {"features": {"feature": {name: {"int64_list": {"value": values}} for name, values in row.items()}}}
        for row in rows
    ]
    request = messages.RegressionRequest(input={"example_list": {"examples": examples}})
    return rows_of(columns_of_input(request.input, FEATURES.values(), LIMITS))


EVEN = [{"h": [1, 2], "h_offsets": [5]}, {"h": [3, 4], "h_offsets": [6]}]
UNEVEN = [{"h": [1, 2], "h_offsets": [5]}, {"h": [3], "h_offsets": [6]}]
MEANT = {"h": [[1, 2], [3, 4]], "h_offsets": [5, 6]}


def test_rows_of_one_length_are_taken() -> None:
    assert by_tensors(**MEANT) == MEANT
    assert by_examples(EVEN) == MEANT
    for key in ("instances", "examples"):
        assert by_rows(key, EVEN) == MEANT
        assert by_rows(key, [{"h": row["h"]} for row in EVEN]) == {"h": MEANT["h"]}


def test_rows_of_other_lengths_are_refused() -> None:
    """They used to come out as rows of one value each, or under the other feature's name."""
    with pytest.raises(InvalidInput, match=r"input h: its shape is \(3,\); it takes B bags of w values"):
        by_tensors(h=[1, 2, 3], h_offsets=[0, 2, 3])
    with pytest.raises(InvalidInput, match=r"feature h: examples\[1\] has 1 values; it takes 2"):
        by_examples(UNEVEN)
    for key in ("instances", "examples"):
        with pytest.raises(InvalidInput, match="Expecting tensor size: 2 but got: 1"):
            by_rows(key, UNEVEN)


def test_no_plan_is_made_of_values_end_to_end() -> None:
    ragged = [kind_of("h", "INT64", (3,)), kind_of("h_offsets", "INT64", (3,))]
    assert plan_of(ragged, FEATURES.values()) is None
    assert plan_of([kind_of("h", "INT64", (3, 2)), kind_of("h_offsets", "INT64", (3,))], FEATURES.values())
