"""Columns from plain Python values: what a client may hand over without numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringpull.inference.schema.columns import Ragged, as_column
from ringpull.ps.errors import InvalidInput


@pytest.mark.parametrize(
    ("values", "expected", "kind"),
    [
        (7, [7], "i"),
        (2**63, [2**63], "u"),
        (0.5, [0.5], "f"),
        (True, [True], "b"),
        ("x", ["x"], "O"),
        (np.float32(0.5), [0.5], "f"),
        (np.str_("x"), ["x"], "O"),
        (np.array(7), [7], "i"),
        ([1, 2], [1, 2], "i"),
        ((1, 2.5), [1, 2.5], "f"),
        (["a", np.str_("b")], ["a", "b"], "O"),
        ([np.int32(1), 2], [1, 2], "i"),
        ([], [], "i"),
        (range(3), [0, 1, 2], "i"),
    ],
)
def test_plain_values_become_one_entry_per_row(values, expected, kind) -> None:
    column = as_column("a", values)
    assert isinstance(column, np.ndarray)
    assert (column.tolist(), column.dtype.kind, column.ndim) == (expected, kind, 1)


@given(st.lists(st.lists(st.integers(-9, 9)), min_size=1))
def test_lists_of_lists_become_ragged(rows) -> None:
    column = as_column("a", rows)
    assert isinstance(column, Ragged)
    column.check("a")
    assert [row.tolist() for row in np.split(column.values, column.offsets[1:-1])] == rows
    same = Ragged.from_lists(rows)
    np.testing.assert_array_equal(column.values, same.values)
    np.testing.assert_array_equal(column.offsets, same.offsets)


def test_columns_pass_through() -> None:
    for column in (np.arange(3), np.zeros((2, 3)), Ragged([1], [0, 1])):
        assert as_column("a", column) is column


def test_lists_of_arrays_become_ragged() -> None:
    column = as_column("a", [np.array([1, 2]), np.array([], np.int64)])
    assert isinstance(column, Ragged)
    assert (column.values.tolist(), column.offsets.tolist()) == ([1, 2], [0, 2, 2])


def test_lists_of_arrays_without_dimensions_are_lists_of_values() -> None:
    assert as_column("a", [np.array(1), np.array(2)]).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, "a"], "feature a: values of type int, str"),
        ([None], "values of type NoneType"),
        (None, "NoneType is no value"),
        ({"int64s": [1]}, "dict is no value"),
        ([b"x"], "values of type bytes"),
        ([[1], 2], "either every row is a list"),
        ([[[1]]], "values of type list"),
        ([2**63, -1], "fit neither int64 nor uint64"),
        ([2**64], "fit neither int64 nor uint64"),
        (np.zeros((1, 1, 1)), "an array of 3 dimensions"),
    ],
)
def test_what_is_no_column(values, message) -> None:
    with pytest.raises(InvalidInput, match=message):
        as_column("a", values)
