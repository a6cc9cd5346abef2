"""Key expressions as they are kept and served: nothing that a file may hold is taken unless it can be computed."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringpull.inference.head.request.lookups import FeatureLookup
from ringpull.inference.model.manifest import LookupSpec
from ringpull.inference.schema.features import PreparedFeature
from ringpull.inference.schema.fields import Fields
from ringpull.inference.schema.key_expressions import MAX_STEPS, NUMBER_TYPES, OPERATORS, KeyExpression
from ringpull.inference.schema.kinds import Computed, IdSequence, Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.ps.errors import CorruptData, InvalidInput
from ringpull.ps.spec import Pooling, TableSpec
from tests.inference.small_model import make_manifest

REMAINDER = [["id", 0], ["constant", "int64", 10], ["remainder", 0, 1]]
TEN = KeyExpression.from_plain(REMAINDER)


def test_an_expression_reads_as_it_was_written() -> None:
    assert TEN.to_plain() == REMAINDER
    assert str(TEN) == "(x % 10)"
    assert TEN.evaluate(np.array([0, 9, 10, -1, 2**63 - 1])).tolist() == [0, 9, 0, 9, 7]


@pytest.mark.parametrize(
    ("plain", "match"),
    [
        ([], "list of 1 to"),
        ({"id": 0}, "list of 1 to"),
        ([["id", 0]] * (MAX_STEPS + 1), "list of 1 to"),
        ([["id", 1]], "features 0, 1"),
        ([["constant", "int64", 3]], "features 0, 1"),
        ([["id", 0], ["cast", "float32", 0]], "end in an int64"),
        ([["id", 0], ["add", 0, 1]], "step 1: 1 is no number of a step, from 0 to 0"),
        ([["id", -1]], "no number of a feature"),
        ([["id", True]], "no number of a feature"),
        ([["id", 0], ["pow", 0, 0]], "step 1: 'pow' is no operator"),
        ([["id", 0], ["add", 0]], "add does not take int64"),
        ([["id", 0], ["cast", "int16", 0]], "'int16' is no type"),
        ([["id", 0], ["cast", ["int32"], 0]], "is no type"),
        ([["id", 0], ["constant", "int64", 2**63]], "9223372036854775808 is no int64"),
        ([["id", 0], ["constant", "int64", 1.5]], "1.5 is no int64"),
        ([["id", 0], ["constant", "float32", float("inf")]], "inf is no float32"),
        ([["id", 0], ["constant", "float64", float("nan")]], "nan is no float64"),
        ([["id", 0], ["constant", "bool", 1]], "1 is no bool"),
        ([["id", 0], ["divide", 0, 0]], "divide does not take int64, int64"),
        ([["id", 0], ["where", 0, 0, 0]], "where does not take int64"),
        ([["id", 0], ["constant", "int32", 1], ["add", 0, 1]], "add does not take int64, int32"),
        ([["id", 0], "add"], "begins with an operator"),
        ([["id", 0], []], "begins with an operator"),
    ],
)
def test_what_is_no_expression(plain: Any, match: str) -> None:
    with pytest.raises(InvalidInput, match=match):
        KeyExpression.from_plain(plain)


VALUES = st.one_of(
    st.sampled_from([*OPERATORS, "id", "constant", "cast", *NUMBER_TYPES]),
    st.integers(-3, 6),
    st.integers(),
    st.floats(),
    st.booleans(),
    st.none(),
    st.lists(st.integers(), max_size=2),
)


@settings(max_examples=400, deadline=None)
@given(steps=st.lists(st.lists(VALUES, max_size=4), max_size=6), ids=st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_any_steps_are_refused_or_computed(steps: list[Any], ids: list[int]) -> None:
    for plain in (steps, [["id", 0], *steps], [["id", 0], *steps, ["cast", "int64", len(steps)]]):
        try:
            key = KeyExpression.from_plain(plain)
        except InvalidInput:
            continue
        values = np.array(ids, np.int64)
        rows = key.evaluate(*[values] * len(key.features))
        assert (rows.dtype, rows.shape) == (np.int64, values.shape)


def test_shared_parts_are_steps_that_are_taken_twice() -> None:
    """An expression of 2^60 leaves is 60 steps, and costs as many."""
    key = KeyExpression.ids()
    for _ in range(60):
        key = KeyExpression.of("xor", KeyExpression.of("mul", key, key), key)
    assert len(key.steps) == 121
    assert key.row_of(0) == 0
    assert len(str(key)) < 1000
    for _ in range(MAX_STEPS - len(key.steps)):
        key = KeyExpression.of("mul", key, key)
    with pytest.raises(InvalidInput, match="it may have 512"):
        KeyExpression.of("mul", key, key)


def test_only_what_later_steps_take_is_kept_in_memory() -> None:
    key = KeyExpression.ids()
    for number in range(100):
        key = KeyExpression.of("xor", key, KeyExpression.constant(number + 7))
        key = KeyExpression.of("mul", key, key)
    ids = np.arange(100_000)
    tracemalloc.start()
    key.evaluate(ids)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5 * ids.nbytes


# -- look-ups ----------------------------------------------------------------------------------------------------------

TABLE = TableSpec(name="t", dim=2)


def lookup(feature: Any, prepared: PreparedFeature, **spec: Any) -> Any:
    return FeatureLookup(LookupSpec(table="t", feature="x", **spec), feature, TABLE).lookup(prepared)


def test_ids_are_dropped_by_the_row_that_they_become() -> None:
    bag = PreparedFeature(2, np.array([3, 13, 4, -7, 5]), np.array([0, 3, 5]))
    found = lookup(Sparse("x", many=True), bag, pooling=Pooling.MEAN, padding_id=3, key=TEN)
    assert found.keys.tolist() == [4, 5]
    assert found.offsets.tolist() == [0, 1, 2]


@pytest.mark.parametrize(("padding", "keys", "offsets"), [(2, [1, 3], [0, 1, 2]), (1, [2, 2, 3, 2, 2], [0, 2, 5])])
def test_the_padding_of_a_sequence_is_in_its_bags_unless_its_row_is_dropped(
    padding: int, keys: list[int], offsets: list[int]
) -> None:
    sequence = IdSequence("x", length=3, pad=12)
    rows = PreparedFeature(2, np.array([11, 13]), np.array([0, 1, 2]))
    found = lookup(sequence, rows, pooling=Pooling.SUM, padding_id=padding, key=TEN)
    assert found.keys.tolist() == keys
    assert found.offsets.tolist() == offsets


def test_a_build_that_knows_no_expressions_refuses_the_version_by_the_field(tmp_path: Path) -> None:
    plain, keyed = (LookupSpec(table="t", feature="x", pooling=Pooling.NONE, key=key) for key in (None, TEN))
    written = [_written(each, tmp_path) for each in (plain, keyed)]
    old = ("table", "feature", "pooling", "add", "padding_id", "fill", "weighted")
    Fields.of(tmp_path, "lookups[0]", written[0], old)
    with pytest.raises(CorruptData, match=r"lookups\[0\] has an unknown field 'key'"):
        Fields.of(tmp_path, "lookups[0]", written[1], old)


def _written(spec: LookupSpec, folder: Path) -> dict[str, Any]:
    make_manifest(lookups=(spec,)).save(folder)
    entry: dict[str, Any] = json.loads((folder / "manifest.json").read_text())["manifest"]["lookups"][0]
    return entry


# -- features of several -----------------------------------------------------------------------------------------------

PAIR = KeyExpression.from_plain([["id", 0], ["constant", "int64", 10], ["mul", 0, 1], ["id", 1], ["add", 2, 3]])


@pytest.mark.parametrize("context", [(), ("a",), ("b",), ("a", "b")])
def test_a_computed_feature_is_made_of_ids_wherever_they_are_sent(context: tuple[str, ...]) -> None:
    schema = Schema([Computed("pair", ("a", "b"), PAIR), Sparse("a"), Sparse("b")])
    assert Schema.from_json(schema.to_json()) == schema
    columns = {"a": np.array([1, 2, 3]), "b": np.array([4, 5, 6])}
    once = {name: columns.pop(name)[[0, 2]] for name in context}
    prepared = schema.prepare_requests(columns, once, [1, 2])
    a, b = ([1, 2, 3], [4, 5, 6])
    if len(context) == 2:
        assert prepared.context.features["pair"].ids.tolist() == [14, 36]
        return
    a, b = ([1, 3, 3] if "a" in context else a), ([4, 6, 6] if "b" in context else b)
    assert prepared.candidates.features["pair"].ids.tolist() == [10 * x + y for x, y in zip(a, b, strict=True)]


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Computed("p", ("a",), TEN), "two or more"),
        (lambda: Computed("p", ("a", "b"), TEN), "expression of the ids of 2 features"),
        (lambda: Computed("p", ("a", "b"), [["id", 0]]), "expression of the ids of 2"),  # type: ignore[arg-type]
        (lambda: Schema([Sparse("a"), Computed("p", ("a", "c"), PAIR)]), "feature p: crosses 'c'"),
        (lambda: Schema.from_json('{"format": 1, "features": [{"kind": "computed", "name": "p", "of": ["a", "b"],'
                                  ' "key": [["id", 5]]}]}'), "feature p: key: must take the ids of features 0, 1"),
    ],
)  # fmt: skip
def test_computed_features_that_are_none(make: Any, match: str) -> None:
    with pytest.raises(InvalidInput, match=match):
        make()
