"""Reading the raw ids of a table's rows, and finding one that no row has: exactly, and in little memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from itertools import count
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ringpull.inference.export import keys as keys_module
from ringpull.inference.export.keys import RowKeys, key_type_of, read_ids
from ringpull.ps.errors import ExportError
from ringpull.ps.spec import KeyType
from tests.reference import key_of_string

NEAR = st.integers(-9, 3) | st.integers(-(2**63), 2**63 - 1)


@pytest.fixture
def small_chunks() -> Iterator[None]:
    """A few ids are many chunks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keys_module, "CHUNK", 3)
        yield


def signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


@pytest.mark.usefixtures("small_chunks")
@given(st.lists(NEAR, min_size=1, max_size=30, unique=True), st.booleans())
def test_unkeyed_integer_is_the_first_below_zero_that_no_row_has(ids, unsigned) -> None:
    keyed = np.array(ids, np.int64)
    keys = RowKeys.read("t", len(ids), keyed.view(np.uint64) if unsigned else keyed)
    assert keys.unkeyed_id() == next(-each for each in count(1) if -each not in set(ids))


@pytest.mark.usefixtures("small_chunks")
def test_unkeyed_integer_beside_many_rows_in_a_row() -> None:
    ids = np.random.default_rng(0).permutation(np.arange(-1000, 0))
    assert RowKeys.read("t", 1000, ids).unkeyed_id() == -1001
    assert RowKeys.read("t", 999, ids[ids != -500]).unkeyed_id() == -500


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("taken", [0, 1, 5])
@pytest.mark.parametrize("kind", [object, str])
def test_unkeyed_string_is_none_of_the_rows(taken: int, kind: Any) -> None:
    texts = ["a", "", "ä", *(f"\0unkeyed {number}" for number in range(taken)), "z"]
    found = RowKeys.read("t", len(texts), np.array(texts, kind)).unkeyed_id()
    assert found == signed(key_of_string(f"\0unkeyed {taken}"))


@pytest.mark.medium
@pytest.mark.parametrize("make", [lambda ids: ids, lambda ids: ids.view(np.uint64), lambda ids: ids.astype(str)])
def test_no_copy_of_the_ids_is_made(make) -> None:
    ids = make(np.arange(-(2**21), 2**21)[::-1].copy())
    tracemalloc.start()
    try:
        RowKeys.read("t", len(ids), ids).unkeyed_id()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * 2**20 < ids.nbytes


# -- reading -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected", "key_type"),
    [
        ([3, -1], [3, -1], KeyType.INT64),
        ((3, 2**63), [3, 2**63], KeyType.UINT64),
        ([np.uint64(2**63), np.int64(1)], [2**63, 1], KeyType.UINT64),
        (range(2), [0, 1], KeyType.INT64),
        (dict.fromkeys(["b", "a"]), ["b", "a"], KeyType.STRING),
        (np.array([1, 2**63], object), [1, 2**63], KeyType.UINT64),
        (np.array(["b", "a"], object), ["b", "a"], KeyType.STRING),
        (np.array(["b", "a"]), ["b", "a"], KeyType.STRING),
        (np.array([1, 2], np.int16), [1, 2], KeyType.INT64),
        (torch.tensor([5, 4]), [5, 4], KeyType.INT64),
    ],
)
def test_ids_are_exact_however_they_are_given(given, expected, key_type) -> None:
    ids = read_ids("t", given)
    assert ids.tolist() == expected
    assert key_type_of(ids) is key_type


def test_arrays_that_are_fine_are_taken_as_they_are() -> None:
    for ids in (np.arange(3), np.arange(3, dtype=np.uint64), np.array(["a", "b"]), np.array(["a", "b"], object)):
        assert read_ids("t", ids) is ids


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([1, "a"], "must be all integers or all strings"),
        ([True, 2], "must be all integers or all strings"),
        ([1.0], "must be all integers or all strings"),
        (np.array([1, None], object), "must be all integers or all strings"),
        (np.array([True, False]), "are of type bool"),
        (np.zeros((2, 2), np.int64), r"have the shape \(2, 2\)"),
        (torch.tensor([0.5]), "are of type float32"),
        (torch.ones(2, requires_grad=True), "Tensor cannot be read as an array"),
        ([-1, 2**63], "must all be int64, or all uint64"),
        ([np.int64(-1), 2**63], "must all be int64, or all uint64"),
        ([2**64], "must all be int64, or all uint64"),
        ("abc", "are str"),
        (7, "are int"),
    ],
)
def test_what_is_no_list_of_ids_is_refused_by_the_table(given, message) -> None:
    with pytest.raises(ExportError, match=f"keys of table t: {message}"):
        read_ids("t", given)
