"""JSON in pieces: that of `json.dumps`, bounded, within the deadline, and without holding up other threads."""

from __future__ import annotations

import json
import threading
import time

import numpy as np
import pytest

from ringpull.inference.wire.json_writing import PIECE_VALUES, JsonWriter
from ringpull.ps.errors import DeadlineExceeded, LimitExceeded

SHAPES = [(0,), (3,), (PIECE_VALUES + 1,), (0, 4), (5, 0), (300, 7), (3, PIECE_VALUES + 9), (2, 3, 500), (7, 1, 400)]


@pytest.mark.parametrize("shape", SHAPES, ids=range(len(SHAPES)))
def test_arrays_are_as_json_writes_them(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    values[values > 2] = np.inf
    for array in (values, values > 0):
        out = JsonWriter(1 << 20)
        out.array(array)
        assert out.to_bytes() == json.dumps(array.tolist(), separators=(",", ":")).encode()


def test_the_limit_is_of_the_text() -> None:
    for more in (0, 1):
        out = JsonWriter(6)
        out.write(b"abc")
        if more:
            with pytest.raises(LimitExceeded, match="max_message_bytes, 6"):
                out.write(b"defg")
        else:
            out.write(b"def")
    with pytest.raises(LimitExceeded):
        JsonWriter(100_000).array(np.full(25_000, 0.1, np.float32))


def test_the_deadline_is_looked_at_on_the_way() -> None:
    with pytest.raises(DeadlineExceeded):
        JsonWriter(1 << 30, time.monotonic()).array(np.zeros((1_000, 1_000), np.float32))


@pytest.mark.medium
def test_other_threads_run_meanwhile() -> None:
    """A million numbers, which take `json` most of a second at once."""
    values, ran = np.random.default_rng(0).random(1_000_000, np.float32), []
    writing = threading.Thread(target=lambda: ran.append(len(JsonWriter(1 << 30).array(values) or b"")))
    writing.start()
    turns = 0
    while writing.is_alive():
        time.sleep(1e-4)
        turns += 1
    assert ran
    assert turns > 100
