"""Requests as the head takes them: what was packed comes back, joined or alone, and bytes that lie are refused."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ringpull.inference.head.request.received as received_module
from ringpull.inference.head.frontends.grpc.decoding import all_typed, decode_request, read_packed
from ringpull.inference.head.request.inference_request import InferenceRequest
from ringpull.inference.head.request.kept_layouts import KeptLayouts
from ringpull.inference.head.request.received import Layout, Limits, ReceivedColumns
from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.inference.schema.columns import Column, Ragged
from ringpull.inference.schema.features import Prepared
from ringpull.inference.schema.kinds import Cross, Dense, IdSequence, Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.inference.schema.transforms import Bucketize, Hash, Log, Vocabulary
from ringpull.inference.wire import messages
from ringpull.inference.wire.codec import as_call, encode_request
from ringpull.inference.wire.column_codec import encode_column
from ringpull.inference.wire.packing import pack
from ringpull.ps.errors import InvalidInput, LimitExceeded, RingpullError
from tests.inference.single_columns import request_of

LIMITS = Limits(max_candidates=50, max_values_per_row=20)


def packed(features: Mapping[str, Column], context: Mapping[str, Column] | None = None) -> pb.PackedColumns:
    columns = pack(
        {name: encode_column(name, column) for name, column in features.items()},
        {name: encode_column(name, column) for name, column in (context or {}).items()},
    )
    return messages.packed_message(columns)


def received(features: Mapping[str, Column], context: Mapping[str, Column] | None = None) -> ReceivedColumns:
    return read_packed(packed(features, context), LIMITS)


def decoded(message: pb.PredictRequest) -> InferenceRequest:
    return decode_request(pb.PredictRequest.FromString(message.SerializeToString()), LIMITS)


def weights_of(column: Ragged) -> Column:
    return np.empty(0, np.float32) if column.weights is None else column.weights


def assert_same(actual: Column, expected: Column) -> None:
    assert isinstance(actual, Ragged) == isinstance(expected, Ragged)
    if isinstance(actual, Ragged) and isinstance(expected, Ragged):
        np.testing.assert_array_equal(actual.offsets, expected.offsets)
        # Columns that come one by one cannot tell no weights from those of no values.
        np.testing.assert_array_equal(weights_of(actual), weights_of(expected))
        actual, expected = actual.values, expected.values
    assert isinstance(actual, np.ndarray)
    assert isinstance(expected, np.ndarray)
    assert actual.dtype == expected.dtype
    np.testing.assert_array_equal(actual, expected)


# -- columns of a schema with everything -------------------------------------------------------------------------------

SCHEMA = Schema(
    [
        Sparse("user", missing=5),
        Sparse("big", dtype="uint64", missing=1),
        Sparse("zip", dtype="string", transforms=[Hash(50)], missing="?"),
        Sparse("band", dtype="float32", transforms=[Bucketize([0.0, 1.0])], missing=0.5),
        Sparse("item", transforms=[Vocabulary([1, 2, 3])]),
        Sparse("genres", dtype="string", many=True, missing=()),
        Sparse("tags", many=True, weighted=True, missing=7, max_length=2),
        IdSequence("recent", length=3, missing=4),
        Dense("price", transforms=[Log()], missing=0.25),
        Dense("vector", width=2, missing=1.0),
        Cross("user_x_item", of=("user", "item"), buckets=100),
        Cross("zip_x_user", of=("zip", "user"), buckets=100),
    ]
)
_ids = st.integers(-3, 3)
_texts = st.sampled_from(["", "a", "bc", "größe", "雪"])
_numbers = st.sampled_from([0.0, -1.5, 2.0, float("nan")])
CELLS = {
    "user": (_ids, np.int64),
    "big": (st.integers(0, 2**64 - 1), np.uint64),
    "zip": (_texts, object),
    "band": (_numbers, np.float32),
    "item": (_ids, np.int64),
    "genres": (st.lists(_texts, max_size=3), object),
    "tags": (st.lists(_ids, max_size=4), np.int64),
    "recent": (st.lists(_ids, max_size=5), np.int64),
    "price": (_numbers, np.float32),
    "vector": (st.lists(_numbers, min_size=2, max_size=2), np.float32),
}
ARRAYS = {"user", "big", "zip", "band", "item", "price", "vector"}


@st.composite
def columns_of(draw: st.DrawFn, names: frozenset[str], rows: int) -> dict[str, Column]:
    columns: dict[str, Column] = {}
    for name in draw(st.permutations(sorted(names))):
        cells, dtype = CELLS[name]
        values = draw(st.lists(cells, min_size=rows, max_size=rows))
        if name in ARRAYS:
            columns[name] = np.array(values, dtype)
            continue
        flat = Ragged.from_lists(values, dtype)
        weights = np.arange(len(flat.values), dtype=np.float32) if name == "tags" else None
        columns[name] = Ragged(flat.values, flat.offsets, weights)
    return columns


@st.composite
def requests_of_one_layout(draw: st.DrawFn) -> list[tuple[dict[str, Column], dict[str, Column]]]:
    sent = draw(st.sets(st.sampled_from(sorted(CELLS))).map(lambda names: frozenset(names | {"item"})))
    context = draw(st.sets(st.sampled_from(sorted(sent)))) - {draw(st.sampled_from(sorted(sent)))}
    return [
        (draw(columns_of(sent - context, rows)), draw(columns_of(frozenset(context), 1)))
        for rows in draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    ]


def same_rows(joined: Prepared, alone: list[Prepared]) -> None:
    """Rows prepared together are those prepared alone, end to end."""
    assert joined.rows == sum(part.rows for part in alone)
    for name, ready in joined.features.items():
        parts = [part.features[name] for part in alone]
        for field in ("ids", "dense", "weights"):
            if getattr(ready, field) is not None:
                np.testing.assert_array_equal(
                    getattr(ready, field), np.concatenate([getattr(part, field) for part in parts])
                )
        if ready.offsets is not None:
            lengths = [np.diff(part.offsets) for part in parts if part.offsets is not None]
            np.testing.assert_array_equal(np.diff(ready.offsets), np.concatenate(lengths))
            assert ready.offsets[0] == 0


@pytest.mark.medium
@settings(max_examples=150, deadline=None)
@given(requests_of_one_layout())
def test_requests_prepared_together_equal_each_alone(requests) -> None:
    rows = [len(next(iter(features.values()))) for features, _ in requests]
    joined = ReceivedColumns.joined([received(*request) for request in requests])
    assert joined.row_counts == tuple(rows)
    alone = [SCHEMA.prepare_requests(*request, [count]) for request, count in zip(requests, rows, strict=True)]
    together = SCHEMA.prepare_requests(*joined.columns(), joined.row_counts)
    same_rows(together.candidates, [each.candidates for each in alone])
    same_rows(together.context, [each.context for each in alone])
    assert together.filled() == [each.filled()[0] for each in alone]
    assert [set(each.filled()[0]) for each in alone] == [
        {*each.context.filled, *each.candidates.filled} for each in alone
    ]


@pytest.mark.medium
@settings(max_examples=80, deadline=None)
@given(requests_of_one_layout())
def test_columns_come_back_packed_or_one_by_one(requests) -> None:
    features, context = requests[0]
    call = as_call("m", features, context)
    for message in (encode_request(call), request_of(call)):
        own_features, own_context = decoded(message).columns.columns()
        assert (own_features.keys(), own_context.keys()) == (features.keys(), context.keys())
        for name, column in {**own_features, **own_context}.items():
            assert_same(column, {**features, **context}[name])


def test_requests_of_equal_columns_share_a_layout_whatever_their_order() -> None:
    one = received({"a": np.array([1]), "b": np.array([2.0])})
    assert one.layout is received({"b": np.array([3.0, 1.0]), "a": np.array([1, 2])}).layout
    assert one.layout is not received({"b": np.array([3]), "a": np.array([1])}).layout


def test_columns_of_arrays_are_those_of_the_message() -> None:
    features, context = {"a": np.array([1, 2]), "b": Ragged([0.5], [0, 0, 1])}, {"c": np.array(["x"])}
    own, sent = ReceivedColumns.of_columns(features, context, LIMITS), received(features, context)
    assert own.layout is sent.layout
    assert own.row_counts == sent.row_counts
    for name in ("words", "sizes", "places"):
        np.testing.assert_array_equal(getattr(own, name), getattr(sent, name))
    with pytest.raises(LimitExceeded, match="has 3 columns"):
        ReceivedColumns.of_columns(features, context, replace(LIMITS, max_columns=2))


@pytest.mark.parametrize("rows", [1, 50])
def test_a_large_request_is_measured_as_a_small_one(monkeypatch, rows) -> None:
    features = {"a": Ragged(np.arange(3 * rows), 3 * np.arange(rows + 1)), "b": np.arange(rows, dtype=np.float32)}
    small = received(features)
    monkeypatch.setattr(received_module, "AT_ONCE_BYTES", -1)
    large = received(features)
    assert large.row_counts == small.row_counts == (rows,)
    np.testing.assert_array_equal(large.places, small.places)


def test_one_request_is_not_copied() -> None:
    request = received({"a": np.arange(3)})
    assert ReceivedColumns.joined([request]) is request
    features, _ = request.columns()
    assert not features["a"].flags.owndata


# -- the message -------------------------------------------------------------------------------------------------------


def test_golden_bytes() -> None:
    """The bytes of the public contract."""
    message = packed(
        {"genres": Ragged(np.array(["ab", "ö"], object), [0, 1, 2], [0.5, 1]), "price": np.array([[1.0], [2.0]])},
        {"user": np.array([-2])},
    )
    layout = pb.PackedLayout.FromString(message.layout)
    assert list(layout.columns) == [
        pb.PackedColumn(name="genres", dtype=pb.STRING, ragged=True, weighted=True),
        pb.PackedColumn(name="price", dtype=pb.FLOAT32, width=1),
        pb.PackedColumn(name="user", dtype=pb.INT64, context=True),
    ]
    assert message.sizes == b"".join(n.to_bytes(8, "little") for n in (2, 2, 2, 2, 1, 1))
    assert message.data == b"".join(
        [
            bytes([2, 0, 0, 0, 2, 0, 0, 0]),
            b"ab\xc3\xb6" + bytes(4),
            *(n.to_bytes(8, "little") for n in (0, 1, 2)),
            bytes.fromhex("0000003f 0000803f"),
            bytes.fromhex("0000803f 00000040"),
            bytes.fromhex("feffffffffffffff"),
        ]
    )


def test_a_call_comes_back() -> None:
    call = as_call(
        "ranker", {"item": [1, 2]}, {"user": 7}, version=3, outputs=["score"], with_timings=True, request_id="r1"
    )
    back = decoded(encode_request(call))
    assert (back.model, back.version, back.outputs) == ("ranker", 3, ("score",))
    assert (back.with_timings, back.request_id) == (True, "r1")
    assert (back.columns.rows, back.columns.row_counts) == (2, (2,))


def test_the_live_version_is_0() -> None:
    assert decoded(encode_request(as_call("m", {"a": [1]}))).version == 0


def test_a_request_with_any_raw_column_gets_raw_tensors() -> None:
    typed = pb.Column(int64s={"values": [1]})
    plain = request_of(as_call("m", {"a": [1]})).features["a"]
    assert all_typed(pb.PredictRequest(model="m", features={"a": typed}))
    assert not all_typed(pb.PredictRequest(model="m", features={"a": plain}))
    assert not all_typed(pb.PredictRequest(model="m", features={"a": typed}, context={"b": plain}))
    assert not all_typed(encode_request(as_call("m", {"a": [1]})))


def test_what_no_message_may_say() -> None:
    both = encode_request(as_call("m", {"a": [1]}))
    both.features["b"].int64s.values.append(1)
    for message, reason in (
        (pb.PredictRequest(model="m", version=-1), "version is -1"),
        (pb.PredictRequest(model="m", features={"a": pb.Column()}), "feature a: has no values"),
        (pb.PredictRequest(model="m"), "there are no candidate columns"),
        (both, "packed: the request has columns in features or context too"),
    ):
        with pytest.raises(InvalidInput, match=reason):
            decoded(message)


# -- what is refused ---------------------------------------------------------------------------------------------------

THREE = np.arange(3)


@pytest.mark.parametrize(
    ("features", "context", "error", "message"),
    [
        ({"a": np.empty(0, np.int64)}, {}, InvalidInput, "there are no rows"),
        (
            {"a": THREE, "b": np.arange(4)},
            {},
            InvalidInput,
            "feature b: has 4 rows; the others, or the request, have 3",
        ),
        ({"a": THREE}, {"b": THREE}, InvalidInput, "feature b: has 3 rows; a context feature has one"),
        ({}, {"b": THREE[:1]}, InvalidInput, "there are no candidate columns"),
        ({"a": np.arange(51)}, {}, LimitExceeded, "has 51 rows; max_candidates is 50"),
        ({"a": np.zeros((2, 21))}, {}, LimitExceeded, "feature a: a row has 21 values; max_values_per_row is 20"),
        ({"a": Ragged([0] * 30, [0, 1, 30])}, {}, LimitExceeded, "feature a: a row has 29 values"),
        ({"a": THREE}, {"b": Ragged(["x"] * 21, [0, 21])}, LimitExceeded, "feature b: a row has 21 values"),
    ],
)
def test_rows_and_limits(features, context, error, message) -> None:
    call = as_call("m", features, context)
    for request in (encode_request(call), request_of(call)):
        with pytest.raises(error, match=message):
            decoded(request)


def test_columns_are_counted_before_they_are_read() -> None:
    call = as_call("m", {"a": THREE, "b": THREE}, {"c": [1]})
    for request in (encode_request(call), request_of(call)):
        decode_request(request, replace(LIMITS, max_columns=3))
        with pytest.raises(LimitExceeded, match="the request has 3 columns; max_columns is 2"):
            decode_request(request, replace(LIMITS, max_columns=2))


def test_long_names_of_strangers_are_not_kept() -> None:
    before = messages._known_layout.cache_info().currsize, received_module._known_layout.cache_info().currsize
    columns, _ = decoded(request_of(as_call("m", {"x" * 100_000: THREE}))).columns.columns()
    assert [len(name) for name in columns] == [100_000]
    after = messages._known_layout.cache_info().currsize, received_module._known_layout.cache_info().currsize
    assert after == before


def test_layouts_are_kept_by_their_bytes_the_least_used_forgotten_first() -> None:
    read: list[bytes] = []

    def layout(serialized: bytes, max_columns: int) -> Layout:
        read.append(serialized)
        return Layout.of(((serialized.decode(), 1, False, False, False, 0),))

    kept = KeptLayouts(layout, kept_bytes=10, longest=6)
    first = kept.of(b"aaaa", 1)
    assert kept.of(b"bbbb", 1).names == ("bbbb",)
    assert kept.of(b"aaaa", 1) is first
    kept.of(b"cccc", 1)  # 12 bytes: the least used is forgotten
    assert kept.of(b"aaaa", 1) is first
    for _ in range(2):
        kept.of(b"bbbb", 1)
        kept.of(b"too long", 1)
    assert read == [b"aaaa", b"bbbb", b"cccc", b"bbbb", b"too long", b"too long"]
    with pytest.raises(LimitExceeded, match="the request has 1 columns; max_columns is 0"):
        kept.of(b"bbbb", 0)


def test_strings_over_a_limit_are_not_decoded() -> None:
    not_text = pb.RawBuffer(dtype=pb.STRING, data=b"\xff" * 30, lengths=bytes([1, 0, 0, 0]) * 30)
    message = pb.PredictRequest(features={"a": pb.Column(raw=not_text, raw_offsets=np.array([0, 30]).tobytes())})
    with pytest.raises(LimitExceeded, match="feature a: a row has 30 values"):
        decoded(message)


def test_a_string_cut_over_two_requests_is_no_string() -> None:
    """Each half is no UTF-8; end to end they would be."""
    halves = []
    for half in (b"\xc3", b"\xb6"):
        raw = pb.RawBuffer(dtype=pb.STRING, data=half, lengths=bytes([1, 0, 0, 0]))
        halves.append(decoded(pb.PredictRequest(features={"a": pb.Column(raw=raw)})).columns)
    with pytest.raises(InvalidInput, match="feature a: row 0: a string is not UTF-8"):
        ReceivedColumns.joined(halves).columns()


def lay(*sizes: int, words: list[int], **column: object) -> pb.PackedColumns:
    layout = pb.PackedLayout(columns=[pb.PackedColumn(**{"name": "a", "dtype": pb.INT64, **column})])
    return pb.PackedColumns(
        layout=layout.SerializeToString(),
        sizes=np.array(sizes, np.int64).tobytes(),
        data=np.array(words, np.uint64).tobytes(),
    )


HUGE = 2**63 - 1


@pytest.mark.parametrize("at_once_bytes", [received_module.AT_ONCE_BYTES, -1], ids=["small", "as a large one"])
@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (lay(1, 1, words=[]), "1 rows and 1 values are more than the data holds"),
        (lay(-1, 0, words=[]), "more than the data holds"),
        (lay(1, -1, words=[7]), "more than the data holds"),
        (lay(HUGE, HUGE, words=[7]), "more than the data holds"),
        (lay(HUGE, 1, words=[7]), "1 values are not 9223372036854775807 rows of 1"),
        (lay(1, 2, words=[7, 7]), "2 values are not 1 rows of 1"),
        (lay(1, 3, words=[1, 2, 3], width=2), "3 values are not 1 rows of 2"),
        (lay(1, 1, words=[7], width=2**32 - 1), "1 values are not 1 rows of 4294967295"),
        (lay(1, 1, words=[7, 7]), "take less than its 16 bytes"),
        (lay(1, 1, words=[7], ragged=True), "more than the data holds"),
        (lay(HUGE, 1, words=[7, 0, 1], ragged=True), "more than the data holds"),
        (lay(2**62, 1, words=[7, 0, 1], ragged=True), "more than the data holds"),
        (lay(1, 1, words=[7, 0, 2], ragged=True), "offsets must start at 0.* 1; they start at 0 and end at 2"),
        (lay(1, 1, words=[7, 1, 1], ragged=True), "offsets must start at 0.* they start at 1 and end at 1"),
        (lay(2, 2, words=[7, 7, 0, 2**64 - 1, 2], ragged=True), "offsets must start at 0, never decrease"),
        (lay(3, 2, words=[7, 7, 0, 2**63 - 1, 2**64 - 2, 2], ragged=True), "offsets must start at 0, never decrease"),
        (lay(1, 1, words=[7, 0, 1], ragged=True, weighted=True), "more than the data holds"),
        (lay(1, 1, words=[7], weighted=True), "weights without offsets"),
        (lay(1, 1, words=[7], ragged=True, width=1), "both offsets and a width"),
        (lay(1, 1, words=[7], dtype=0), "dtype is 0; it must be INT64"),
        (lay(1, 1, words=[7], dtype=9), "dtype is 9; it must be INT64"),
        (lay(1, 1, words=[2**32 - 1], dtype=pb.STRING), "more than the data holds"),
        (lay(2, 2, words=[2**64 - 1, 0], dtype=pb.STRING), "more than the data holds"),
        (lay(1, words=[7]), "8 bytes of sizes for 1 columns"),
    ],
)
def test_sizes_that_lie_are_refused_by_name(monkeypatch, message, reason, at_once_bytes) -> None:
    monkeypatch.setattr(received_module, "AT_ONCE_BYTES", at_once_bytes)
    with pytest.raises(InvalidInput, match=f"feature a: .*{reason}|packed: .*{reason}"):
        read_packed(message, LIMITS)


def test_a_column_sent_twice_is_refused() -> None:
    column = pb.PackedColumn(name="a", dtype=pb.INT64)
    layout = pb.PackedLayout(columns=[column, column]).SerializeToString()
    with pytest.raises(InvalidInput, match="feature a: is twice among the columns"):
        read_packed(pb.PackedColumns(layout=layout, sizes=bytes(32)), LIMITS)


def test_a_layout_too_large_to_be_kept_is_read() -> None:
    features = {f"{place:05}" + "x" * 60: np.array([place]) for place in range(1_000)}
    assert len(packed(features).layout) > 1 << 16
    own_features, _ = received(features).columns()
    assert {name: column.tolist() for name, column in own_features.items()} == {
        name: column.tolist() for name, column in features.items()
    }


@pytest.mark.medium
@settings(max_examples=300, deadline=None)
@given(requests_of_one_layout(), st.data())
def test_no_bytes_do_more_than_be_refused(requests, data) -> None:
    message = packed(*requests[0])
    for field in data.draw(st.sets(st.sampled_from(["layout", "sizes", "data"]), min_size=1)):
        content = bytearray(getattr(message, field))
        for _ in range(data.draw(st.integers(1, 3))):
            if content and data.draw(st.booleans()):
                content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
            else:
                place = data.draw(st.integers(0, len(content)))
                content[place : place + data.draw(st.sampled_from([0, 1, 8]))] = data.draw(st.binary(max_size=16))
        setattr(message, field, bytes(content))
    with suppress(RingpullError):
        columns = read_packed(message, LIMITS)
        both = ReceivedColumns.joined([columns, columns])
        SCHEMA.prepare_requests(*both.columns(), both.row_counts)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60), st.binary(max_size=64), st.binary(max_size=200))
def test_any_bytes_are_columns_or_refused(layout, sizes, data) -> None:
    with suppress(RingpullError):
        read_packed(pb.PackedColumns(layout=layout, sizes=sizes, data=data), LIMITS).columns()
