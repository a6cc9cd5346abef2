"""Transforms: golden values (training depends on them), the algebra against slow loops, and what they refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringpull.inference.schema.transforms import Bucketize, Clip, Fingerprint, Hash, Log, Normalize, Vocabulary
from ringpull.ps.errors import InvalidInput
from ringpull.ps.hashing import positions_of
from tests.reference import key_of_string

INT64 = st.integers(-(2**63), 2**63 - 1)
UINT64 = st.integers(0, 2**64 - 1)


def test_hash_golden_values() -> None:
    """These never change: a model trained with them is served with them."""
    assert Hash(1000).apply(np.array([0, 1, -1, 2**62])).tolist() == [0, 604, 289, 72]
    assert Hash(1000).apply(np.array(["", "55117", "größe"], object)).tolist() == [0, 777, 739]


@given(st.lists(INT64, max_size=20), st.integers(1, 2**63 - 1))
def test_hash_is_position_of_the_key_modulo_buckets(ids: list[int], buckets: int) -> None:
    hashed = Hash(buckets).apply(np.array(ids, np.int64))
    assert hashed.dtype == np.int64
    assert hashed.tolist() == [int(positions_of(np.array([i], np.int64).view(np.uint64))[0]) % buckets for i in ids]


def test_hash_of_a_string_is_the_hash_of_its_key() -> None:
    keys = np.array([key_of_string(text) for text in ("a", "b")], np.uint64)
    assert Hash(97).apply(np.array(["a", "b"])).tolist() == Hash(97).apply(keys).tolist()


@given(st.lists(INT64, min_size=1, max_size=30, unique=True), st.lists(INT64, max_size=20))
def test_vocabulary_of_integers_equals_a_dictionary(ids: list[int], others: list[int]) -> None:
    values = np.array(ids + others, np.int64)
    known = {value: place + 1 for place, value in enumerate(ids)}
    assert Vocabulary(tuple(ids)).apply(values).tolist() == [known.get(value, 0) for value in values.tolist()]


@given(st.integers(-(2**63), 2**63 - 200), st.lists(st.integers(0, 99), min_size=20, max_size=100, unique=True))
def test_vocabulary_of_close_integers_equals_a_dictionary(low: int, distances: list[int]) -> None:
    """Ids that lie close together take the gather instead of the search."""
    ids = [low + distance for distance in distances]
    values = np.array([*ids, *range(low, low + 150), -(2**63), 2**63 - 1, 0, -1], np.int64)
    known = {value: place + 1 for place, value in enumerate(ids)}
    assert Vocabulary(ids).apply(values).tolist() == [known.get(value, 0) for value in values.tolist()]


@given(st.lists(UINT64, min_size=1, max_size=30, unique=True))
def test_vocabulary_of_uint64(ids: list[int]) -> None:
    vocabulary = Vocabulary(tuple(ids))
    assert vocabulary.accepts("uint64")
    assert vocabulary.apply(np.array(ids[::-1], np.uint64)).tolist() == list(range(len(ids), 0, -1))


def test_vocabulary_of_strings() -> None:
    vocabulary = Vocabulary(np.array(["red", "green"]))
    assert vocabulary.apply(np.array(["green", "blue", "red", ""], object)).tolist() == [2, 0, 1, 0]
    assert vocabulary.size == 3
    assert repr(vocabulary) == "Vocabulary(2 ids)"


def test_vocabulary_accepts_only_the_types_its_ids_fit() -> None:
    assert Vocabulary([-1, 5]).accepts("int64")
    assert not Vocabulary([-1, 5]).accepts("uint64")
    assert not Vocabulary([2**63]).accepts("int64")
    assert not Vocabulary(["a"]).accepts("int64")
    assert not Vocabulary([1]).accepts("string")
    assert not Vocabulary([1]).accepts("float32")


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=10, unique=True).map(sorted),
    st.lists(st.floats(-2e6, 2e6), max_size=20),
)
def test_bucketize_counts_the_boundaries_not_above(boundaries: list[float], values: list[float]) -> None:
    got = Bucketize(tuple(boundaries)).apply(np.array(values, np.float64))
    assert got.tolist() == [sum(boundary <= value for boundary in boundaries) for value in values]


def test_bucketize_compares_float32_features_in_float32() -> None:
    assert Bucketize([0.1]).apply(np.array([0.1], np.float32)).tolist() == [1]


def test_bucketize_takes_integers() -> None:
    assert Bucketize([18, 30]).apply(np.array([17, 18, 30, 31])).tolist() == [0, 1, 2, 2]


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_log_is_defined_everywhere_and_odd(x: float) -> None:
    there, back = Log().apply(np.array([x, -x], np.float32))
    assert there == -back
    assert there == pytest.approx(math.copysign(math.log1p(abs(x)), x), rel=1e-6, abs=1e-30)


def test_clip() -> None:
    assert Clip(0, 9).apply(np.array([-5, 3, 12])).tolist() == [0, 3, 9]
    clipped = Clip(-0.5, 0.5).apply(np.array([-1, 0.25, 1], np.float32))
    assert clipped.tolist() == [-0.5, 0.25, 0.5]
    assert clipped.dtype == np.float32
    assert not Clip(0, 0.5).accepts("int64")
    assert not Clip(-1, 5).accepts("uint64")


def test_normalize_one_or_each_column() -> None:
    values = np.array([[1, 10], [3, 30]], np.float32)
    assert Normalize(1, 2).apply(values).tolist() == [[0, 4.5], [1, 14.5]]
    each = Normalize((1, 10), (1, 10))
    assert each.apply(values).tolist() == [[0, 0], [2, 2]]
    assert each.apply(values).dtype == np.float32
    assert each.widths == {2}


@pytest.mark.medium
def test_a_fingerprint_is_tensorflows() -> None:
    """Values that TensorFlow 2.21 gives (`tf.fingerprint`), of every way that a length is hashed."""
    golden = {
        "": 11160318154034397263,
        "a": 12917804110809363939,
        "abcd": 1897425971756105985,
        "Köln": 18397101426071041002,
        "12345678": 3430003927990384362,
        "b" * 16: 16034981547450048569,
        "c" * 17: 9927998640271667786,
        "y" * 33: 8610735037765521150,
        "q" * 64: 17062660539388978295,
        "r" * 65: 8125297036318867178,
        "t" * 128: 15034229540971743227,
        "u" * 129: 15021529140033089332,
        "text " * 100: 15441975256493276423,
    }
    found = Fingerprint().apply(np.array(list(golden), object))
    assert found.dtype == np.int64
    assert found.view(np.uint64).tolist() == list(golden.values())
    digits = Fingerprint().apply(np.array([-5, 12345678]))
    assert digits.tolist() == Fingerprint().apply(np.array(["-5", "12345678"])).tolist()
    assert Fingerprint().accepts("uint64")
    assert not Fingerprint().accepts("float32")


@pytest.mark.parametrize("transform", [Hash(7), Vocabulary([1, 2]), Bucketize([1.5]), Clip(0, 1)])
def test_apply_leaves_its_input_alone(transform: Hash) -> None:
    values = np.array([1, 2, 3])
    values.flags.writeable = False
    transform.apply(values)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Hash(0), "buckets is 0"),
        (lambda: Hash(True), "buckets is True"),
        (lambda: Vocabulary([]), "at least one"),
        (lambda: Vocabulary("abc"), "type str"),
        (lambda: Vocabulary([1, "a"]), "all integers or all strings"),
        (lambda: Vocabulary([1, 2, 1]), "id 1 appears more than once"),
        (lambda: Bucketize([]), "at least one"),
        (lambda: Bucketize([2, 1]), "strictly ascending"),
        (lambda: Bucketize([1, math.nan]), "finite numbers"),
        (lambda: Clip(2, 1), "low <= high"),
        (lambda: Clip(0, math.inf), "finite"),
        (lambda: Normalize(0, 0), "std is 0"),
        (lambda: Normalize("a", 1), "mean is 'a'"),
    ],
)
def test_refuses_parameters_that_make_no_sense(make, message) -> None:
    with pytest.raises(InvalidInput, match=message):
        make()


@pytest.mark.parametrize("values", [np.array(["a", "\ud83d"], object), np.array(["a", "\ud83d"])])
@pytest.mark.parametrize("transform", [Hash(7), Fingerprint()])
def test_half_a_character_is_refused(transform: Hash | Fingerprint, values: np.ndarray) -> None:
    with pytest.raises(InvalidInput, match=r"values\[1\]: .*half a character"):
        transform.apply(values)
