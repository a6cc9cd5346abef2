"""What heads of one machine send each other comes as it went, and what lies is refused."""

from __future__ import annotations

import asyncio
import math
import os
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringpull.inference.head.batcher import StageTimes
from ringpull.inference.head.neighbours.frames import PRELUDE, FrameReader, write_frame
from ringpull.inference.head.neighbours.load_board import BUSY, LoadBoard
from ringpull.inference.head.neighbours.messages import answer_of, columns_of, packed_layout, parts_of, scores_of
from ringpull.inference.head.pipeline import Scores
from ringpull.inference.head.request.received import ReceivedColumns
from ringpull.inference.head.request.unknown import UnknownIds
from ringpull.inference.prediction import Filled
from ringpull.inference.schema.columns import Column
from ringpull.ps.errors import ProtocolError
from tests.inference.test_neighbours import LIMITS, columns_for
from tests.inference.test_received import assert_same, requests_of_one_layout


@settings(max_examples=60, deadline=None)
@given(requests_of_one_layout())
def test_columns_come_as_they_went(requests: list[tuple[dict[str, Column], dict[str, Column]]]) -> None:
    for features, context in requests:
        sent = ReceivedColumns.of_columns(features, context, LIMITS)
        payload = b"".join(map(bytes, parts_of(sent)))
        come = columns_of(packed_layout(sent.layout), payload, LIMITS)
        assert come.row_counts == sent.row_counts
        for expected, actual in zip(sent.columns(), come.columns(), strict=True):
            assert actual.keys() == expected.keys()
            for name, column in expected.items():
                assert_same(actual[name], column)


def test_columns_that_lie_are_refused() -> None:
    sent = columns_for((1, 2))
    layout, payload = packed_layout(sent.layout), b"".join(map(bytes, parts_of(sent)))
    with pytest.raises(ProtocolError, match="15 bytes for 1 columns"):
        columns_of(layout, payload[:15], LIMITS)
    with pytest.raises(Exception, match="more than the data holds"):
        columns_of(layout, payload[:-8], LIMITS)


_floats = st.floats(width=32, allow_nan=True)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=3), st.data())
def test_answers_come_as_they_went(shapes: list[tuple[int, int]], data: st.DataObject) -> None:
    outputs = {}
    for number, shape in enumerate(shapes):
        values = data.draw(st.lists(_floats, min_size=math.prod(shape), max_size=math.prod(shape)))
        outputs[f"out_{number}"] = np.array(values, np.float32).reshape(shape)
    unknown = tuple(
        UnknownIds(f"f{number}", 2, np.array(counts, np.int64), 5)
        for number, counts in enumerate(data.draw(st.lists(st.lists(st.integers(0, 9), max_size=4), max_size=2)))
    )
    scores = Scores(outputs, (Filled("f", "unavailable", 3),), unknown, ("cut history to 50",))
    times = StageTimes(0.5, 0.25, 0.125, 1.0, 17, first=False)
    header, parts = answer_of(scores, times)
    come, told = scores_of([7, *header], b"".join(map(bytes, parts)))
    assert told == times
    assert (come.filled, come.degraded) == (scores.filled, scores.degraded)
    for name, values in outputs.items():
        np.testing.assert_array_equal(come.outputs[name], values)
    assert [(each.feature, each.ids, each.rows, each.by_row.tolist()) for each in come.unknown] == [
        (each.feature, each.ids, each.rows, each.by_row.tolist()) for each in unknown
    ]


class _Written:
    """Transport that keeps what is written."""

    def __init__(self) -> None:
        self.data = b""

    def writelines(self, parts: list[bytes]) -> None:
        self.data += b"".join(map(bytes, parts))


@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_frames_are_read_however_they_come(step: int) -> None:
    written = _Written()
    sent = [([1, "a"], b"x" * 100), ([2], b""), ([3, [4, 5]], bytes(range(256)))]
    for header, payload in sent:
        write_frame(cast(asyncio.WriteTransport, written), header, [payload[:50], payload[50:]])
    reader = FrameReader()
    found = [
        frame
        for begin in range(0, len(written.data), step)
        for frame in reader.feed(written.data[begin : begin + step])
    ]
    assert found == sent


@pytest.mark.parametrize(
    "data", [PRELUDE.pack(1 << 30, 0), PRELUDE.pack(1, 0) + b"\xc1", PRELUDE.pack(1, 0) + b"\x01"], ids=str
)
def test_what_is_no_frame_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        FrameReader().feed(data)


def test_a_board_is_seen_by_whoever_has_mapped_it() -> None:
    own = LoadBoard.make()
    seen = LoadBoard.of(*own.place)
    own.load = 3
    assert seen.load == 3
    own.load = BUSY
    assert seen.load == BUSY
    with pytest.raises(TypeError):
        seen.load = 1  # it is another head's
    place = own.place
    for each in (own, seen):
        each.close()
        each.close()
        assert repr(each) == "<LoadBoard closed>"
    with pytest.raises(FileNotFoundError):
        LoadBoard.of(*place)


def test_what_is_no_board_is_an_error_of_the_system(tmp_path: Path) -> None:
    with open(tmp_path / "empty", "xb") as empty, pytest.raises(OSError, match="has no board"):
        LoadBoard.of(os.getpid(), empty.fileno())
