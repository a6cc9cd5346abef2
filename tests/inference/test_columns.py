"""Columns from plain Python values: what a client may hand over without numpy."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import pytest
import torch
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


# -- integers of 64 bits -----------------------------------------------------------------------------------------------

WIDE = st.integers(-(2**64), 2**65) | st.sampled_from([0, 1, -1, 2**53 + 1, 2**63 - 1, 2**63, 2**63 + 5, 2**64 - 1])


def scalar_of(value: int, how: int) -> Any:
    """An integer as one of the types that hold it."""
    types = [int] if how == 0 else [np.int64, np.uint64, np.int32, np.uint8]
    fitting = [kind for kind in types if kind is int or np.iinfo(kind).min <= value <= np.iinfo(kind).max]
    return fitting[how % len(fitting)](value) if fitting else value


@given(st.lists(st.tuples(WIDE, st.integers(0, 4)), min_size=1, max_size=5))
def test_integers_are_exact_or_refused(drawn) -> None:
    """Those on both sides of 2^63, for which numpy has no type, among them."""
    values = [value for value, _ in drawn]
    scalars = [scalar_of(value, how) for value, how in drawn]
    signed, unsigned = (all(low <= each < high for each in values) for low, high in ((-(2**63), 2**63), (0, 2**64)))
    forms = {
        "list": scalars,
        "tuple": tuple(values),
        "sequence": deque(values),
        "objects": np.array(values, object),
        "matrix": np.array([values], object),
        "lists": [values, scalars],
        "arrays": [np.array(values, object), np.array(values, object)],
        "scalars": [np.array(value) for value in scalars],
    }
    for name, form in forms.items():
        if not (signed or unsigned):
            with pytest.raises(InvalidInput, match="feature a: its integers fit neither int64 nor uint64"):
                as_column("a", form)
            with pytest.raises(InvalidInput, match="its integers fit neither int64 nor uint64"):
                Ragged(scalars, [0, len(scalars)])
            continue
        column = as_column("a", form)
        flat = column.values if isinstance(column, Ragged) else column.ravel()
        assert flat.dtype.kind in "iu", name
        assert flat.tolist() == (values * 2 if name in ("lists", "arrays") else values), name
        assert Ragged(scalars, [0, len(scalars)]).values.tolist() == values
        assert Ragged.from_lists([values]).values.tolist() == values


def test_truth_values_and_floats_stay_what_they_are() -> None:
    assert as_column("a", np.array([True, False], object)).dtype == bool
    assert as_column("a", [True, 2**63 + 5]).tolist() == [1, 2**63 + 5]
    assert as_column("a", np.array([1, 2.5], object)).dtype == np.float64
    with pytest.raises(InvalidInput, match="ragged values: some are not int64"):
        Ragged.from_lists([[2**63]], np.int64)


# -- what says itself as an array --------------------------------------------------------------------------------------


class Labelled:
    """A column as another library has it: no sequence, iterable by label, and an array when asked."""

    def __init__(self, values: Any) -> None:
        self._values = values

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.asarray(self._values, dtype)


class Unreadable:
    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise RuntimeError("lies on another device")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (Labelled(np.arange(3)), [0, 1, 2]),
        (Labelled(np.array(["a", "b"], object)), ["a", "b"]),
        (Labelled(np.array([1, 2**63 + 5], object)), [1, 2**63 + 5]),
        (Labelled(np.zeros((2, 2), np.float32)), [[0, 0], [0, 0]]),
        (torch.tensor([3, 4]), [3, 4]),
        (torch.tensor(7), [7]),
        (torch.tensor([[0.5], [1.5]]), [[0.5], [1.5]]),
        ([torch.tensor(1), torch.tensor(2)], [1, 2]),
        (memoryview(np.arange(2)), [0, 1]),
    ],
)
def test_what_says_itself_as_an_array_is_that_array(values, expected) -> None:
    column = as_column("a", values)
    assert isinstance(column, np.ndarray)
    assert column.tolist() == expected


@pytest.mark.parametrize(
    "values",
    [
        [torch.tensor([1, 2]), torch.tensor([]), torch.tensor([7])],
        [Labelled(np.array([1, 2])), [], (7,)],
        Labelled(np.array([[1, 2], [], [7]], object)),
        np.array([np.array([1, 2]), np.array([], np.int64), np.array([7])], object),
        [range(1, 3), range(0), range(7, 8)],
        deque([[1, 2], [], (7,)]),
    ],
    ids=["tensors", "columns", "column", "objects", "ranges", "deque"],
)
def test_rows_that_say_themselves_as_arrays_are_ragged(values) -> None:
    column = as_column("a", values)
    assert isinstance(column, Ragged)
    assert (column.values.tolist(), column.offsets.tolist()) == ([1, 2, 7], [0, 2, 2, 3])


@pytest.mark.parametrize("values", [Unreadable(), [Unreadable()], torch.ones(2, requires_grad=True)])
def test_what_cannot_say_itself_as_an_array_is_refused_by_name(values) -> None:
    with pytest.raises(InvalidInput, match=r"feature a: .* cannot be read as an array: "):
        as_column("a", values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([1, None], object), "feature a: values of type NoneType, int"),
        (np.array([[1, "x"]], object), "feature a: values of type int, str"),
        ([[1], None], "either every row is a list"),
        ([np.zeros((1, 1))], "values of type ndarray"),
        ([1, "a"], "feature a: values of type int, str"),
        ([None], "values of type NoneType"),
        (None, "NoneType is no value"),
        ({"int64s": [1]}, "dict is no value"),
        ([b"x"], "values of type bytes"),
        ([[1], 2], "either every row is a list"),
        ([[[1]]], "values of type list"),
        ([2**63, -1], "fit neither int64 nor uint64"),
        ([2**64], "fit neither int64 nor uint64"),
        (np.ma.array([1, 2], mask=[False, True]), "feature a: masks some of its values"),
        ([np.ma.array([1, 2], mask=[False, True])], "feature a: masks some of its values"),
        (np.zeros((1, 1, 1)), "an array of 3 dimensions"),
    ],
)
def test_what_is_no_column(values, message) -> None:
    with pytest.raises(InvalidInput, match=message):
        as_column("a", values)


def test_kinds_of_arrays_are_their_values_alone() -> None:
    """A matrix of numpy's stays one when it is laid flat; a mask without effect is none."""
    for array in (np.array([[1, 2]]).view(np.matrix), np.ma.array([[1, 2]], mask=False)):
        column = as_column("a", array)
        assert type(column) is np.ndarray
        assert column.tolist() == [[1, 2]]
