"""Plans give the columns that the long way gives, or leave a request to it."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ringpull.inference.head.frontends.oip.infer_calls import InferCall, InferHead, TensorHead
from ringpull.inference.head.frontends.plans import MANY_ROWS, Plans, kind_of, plan_of
from ringpull.inference.head.frontends.tensors import columns_of
from ringpull.inference.head.request.received import Limits, ReceivedColumns
from ringpull.inference.schema.columns import Column, Ragged
from ringpull.inference.schema.schema import Schema
from ringpull.ps.errors import RingpullError
from tests.inference.oip.oip_served import OipServed
from tests.inference.oip.requests import TENSORS, datatype_of
from tests.inference.small_model import SCHEMA

LIMITS = Limits(max_candidates=50, max_values_per_row=20)

Tensors = Mapping[str, NDArray[Any]]


def planned(tensors: Tensors, schema: Schema = SCHEMA) -> ReceivedColumns | None:
    kinds = [kind_of(name, datatype_of(values), values.shape) for name, values in tensors.items()]
    plan = plan_of(kinds, schema.features)
    if plan is None:
        return None
    return plan.columns(
        [each.shape for each in tensors.values()], [each.tobytes() for each in tensors.values()], LIMITS
    )


def rows_of(column: Column) -> list[Any]:
    """The bags of a column, with their weights."""
    if not isinstance(column, Ragged):
        return [row if isinstance(row, list) else [row] for row in column.tolist()]
    bounds = zip(column.offsets[:-1], column.offsets[1:], strict=True)
    weights = column.weights
    return [
        [*column.values[begin:end].tolist(), *([] if weights is None else weights[begin:end].tolist())]
        for begin, end in bounds
    ]


def plain(columns: ReceivedColumns) -> tuple[Any, ...]:
    return tuple({name: rows_of(column) for name, column in part.items()} for part in columns.columns())


@st.composite
def requests(draw: st.DrawFn) -> Tensors:
    """Tensors for the small model: every form in which a feature can come, and some in which it cannot."""
    rows = draw(st.sampled_from([1, 2, 3, 50]))
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    tensors: dict[str, NDArray[Any]] = {}

    def numbers(*shape: int, kind: str = "i8") -> NDArray[Any]:
        return rng.integers(0, 9, shape).astype(kind)

    for name in ("user", "item", "genres", "tags", "history", "age", "price"):
        own = draw(st.sampled_from([rows, rows, rows, 1]))
        kind = draw(st.sampled_from(["i8", "i8", "i8", "u8", "f4", "i4"])) if name not in ("age", "price") else "f4"
        form = draw(st.sampled_from(["one", "column", "wide", "ragged", "absent"]))
        width = 2 if name == "age" else draw(st.integers(0, 3))
        if form == "one":
            tensors[name] = numbers(own, kind=kind)
        elif form == "column":
            tensors[name] = numbers(own, 1, kind=kind)
        elif form == "wide":
            tensors[name] = numbers(own, width, kind=kind)
        elif form == "ragged":
            offsets = np.r_[0, np.sort(rng.integers(0, 6, own))]
            tensors[name] = numbers(offsets[-1], kind=kind)
            tensors[f"{name}_offsets"] = offsets.astype(draw(st.sampled_from(["i8", "i8", "i4"])))
            if draw(st.booleans()):
                tensors[f"{name}_weights"] = numbers(offsets[-1], kind="f4")
    if draw(st.integers(0, 9)) == 0:
        tensors["city"] = numbers(rows)
    return tensors


@pytest.mark.medium
@given(requests())
def test_a_plan_gives_what_the_long_way_gives(tensors: Tensors) -> None:
    try:
        expected: Any = plain(columns_of(tensors, SCHEMA.features, LIMITS))
    except RingpullError:
        expected = None
    try:
        got = planned(tensors)
    except RingpullError:
        assert expected is None
        return
    if got is not None:
        assert plain(got) == expected


@st.composite
def claims(draw: st.DrawFn) -> InferCall:
    """A few tensors, each of which would do, but that one says another shape than its bytes have, or has others."""
    rows = draw(st.sampled_from([1, 3]))
    forms = {
        "item": draw(st.sampled_from([(rows,), (rows, 1), (1, 1)])),
        "age": (draw(st.sampled_from([rows, 1])), 2),
        "history": draw(st.sampled_from([(rows,), (rows, 2), (1, 2)])),
        "genres": (5,),
    }
    names = draw(st.lists(st.sampled_from([*forms]), min_size=1, max_size=3, unique=True))
    tensors = {name: np.arange(np.prod(forms[name])).reshape(forms[name]) for name in names}
    if "age" in names:
        tensors["age"] = tensors["age"].astype(np.float32)
    if "genres" in names:
        tensors["genres_offsets"] = np.linspace(0, 5, rows + 1).astype(np.int64)
    liar = draw(st.sampled_from([*tensors]))
    heads, raws = [], []
    for name, values in tensors.items():
        shape, raw = values.shape, values.tobytes()
        if name == liar:
            shape = tuple(draw(st.lists(st.integers(-2, 4), min_size=1, max_size=2)))
            raw = draw(st.sampled_from([raw, raw[:8], raw[:-4], raw + bytes(8), b""]))
        heads.append(TensorHead.of(name, datatype_of(values), shape))
        raws.append(raw)
    return InferCall(InferHead(model="ranker", version=0, inputs=tuple(heads), outputs=()), raws, "")


@pytest.mark.medium
@settings(max_examples=500)
@given(claims())
def test_neither_way_believes_a_shape(call: InferCall) -> None:
    try:
        expected: Any = plain(columns_of(call.tensors(), SCHEMA.features, LIMITS))
    except RingpullError:
        expected = None
    plan = plan_of(call.head.kinds, SCHEMA.features)
    try:
        got = plan and plan.columns([each.shape for each in call.head.inputs], [*map(bytes, call.values)], LIMITS)
    except RingpullError:
        assert expected is None
        return
    if got is not None:
        assert plain(got) == expected


def test_most_requests_have_a_plan() -> None:
    assert planned(TENSORS) is not None
    assert planned({"user": np.arange(3), "item": np.arange(3)}) is not None
    assert planned({"user": np.arange(1), "item": np.arange(1)}) is not None


@pytest.mark.parametrize(
    "tensors",
    [
        {"user": np.arange(3, dtype=np.int32)},
        {"user": np.arange(3), "city": np.arange(3)},
        {"genres_offsets": np.arange(3)},
        {"user": np.ones((3, 2), np.int64)},
        {"user": np.ones((1, 2), np.int64), "item": np.arange(3)},
        {"age": np.ones((3, 3), np.float32)},
        {"age": np.ones((1, 3), np.float32)},
        {"tags": np.ones((3, 2), np.int64), "tags_weights": np.ones((3, 2), np.float32)},
        {"user": np.array(5)},
    ],
    ids=["type", "unknown", "part", "width", "wide context", "dense", "one dense", "weights", "scalar"],
)
def test_others_take_the_long_way(tensors: Tensors) -> None:
    assert planned(tensors) is None


def test_rows_and_bags_of_one_row_may_differ_in_length() -> None:
    def kinds(rows: int, bag: int) -> list[Any]:
        shapes = {"item": (rows,), "genres": (1, bag), "history": (rows, 4)}
        return [kind_of(name, "INT64", shape) for name, shape in shapes.items()]

    assert kinds(3, 2) == kinds(50, 7)
    assert kinds(1, 2) != kinds(2, 2)
    assert kind_of("genres_offsets", "INT64", (MANY_ROWS,)) != kind_of("genres_offsets", "INT64", (2,))


@pytest.mark.net
@pytest.mark.medium
async def test_plans_are_kept_within_bounds_and_go_with_their_version(oip: OipServed) -> None:
    plans = Plans()
    for width in range(600):
        plans.find(oip.version, (kind_of("history", "INT64", (3, width)),))
    (kept,) = plans._plans.values()
    assert 0 < len(kept) <= 256
    plans.find(oip.version, (kind_of("x" * (1 << 15), "INT64", (3,)),))
    assert max(len(kinds[0][0]) for kinds in kept) < 1 << 14
    same = (kind_of("item", "INT64", (3,)),)
    assert plans.find(oip.version, same) is plans.find(oip.version, same)
    plans.find(oip.cities, same)
    assert len(plans._plans) == 2
    oip.catalog.remove(oip.cities, "it goes")
    await oip.cities.close(timeout_s=60)
    oip.cities = oip.version
    gc.collect()
    assert len(plans._plans) == 1
