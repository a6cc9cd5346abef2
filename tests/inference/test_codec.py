"""Predict calls and predictions as messages."""

from __future__ import annotations

import numpy as np
import pytest

from ringpull.inference.prediction import Filled, Prediction, Timings
from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.inference.wire.codec import PredictCall, as_call, decode_response, encode_response
from ringpull.ps.errors import InvalidInput


def test_rows_are_those_of_the_first_feature() -> None:
    assert PredictCall(model="m", features={"a": np.zeros((3, 2))}).rows == 3
    assert PredictCall(model="m", features={}, context={"a": np.zeros(1)}).rows == 0


@pytest.mark.parametrize("typed", [True, False])
def test_a_prediction_comes_back(typed) -> None:
    prediction = Prediction(
        outputs={"score": np.array([0.5, 0.25], np.float32), "vector": np.ones((2, 3), np.float32)},
        version=4,
        filled=(
            Filled("a", "absent", 2),
            Filled("b", "missing", 1),
            Filled("c", "unavailable", 9),
            Filled("d", "degraded", 3),
            Filled("e", "beyond", 4),
        ),
        timings=Timings(decode_us=1, features_us=2, queue_us=3, lookup_us=4, dense_us=5, total_us=15, batch_rows=2),
        model="ranker",
        request_id="r1",
        degraded=("cut history to 50", "scored the first 64 candidates"),
    )
    message = pb.PredictResponse.FromString(encode_response(prediction, typed=typed).SerializeToString())
    assert bool(message.outputs["score"].floats) is typed
    back = decode_response(message)
    assert {name: values.tolist() for name, values in back.outputs.items()} == {
        "score": [0.5, 0.25],
        "vector": [[1, 1, 1], [1, 1, 1]],
    }
    assert (back.version, back.filled, back.timings) == (4, prediction.filled, prediction.timings)
    assert (back.model, back.request_id, back.degraded) == ("ranker", "r1", prediction.degraded)


def test_timings_are_absent_unless_asked_for() -> None:
    assert decode_response(encode_response(Prediction(outputs={}, version=1))).timings is None


def test_a_reason_of_a_newer_server_is_still_reported() -> None:
    message = pb.PredictResponse(filled=[pb.Filled(feature="a", reason=77, values=1)])
    assert decode_response(message).filled == (Filled("a", "missing", 1),)


def test_what_no_call_may_say() -> None:
    for version in (0, -1, 2**63, "1", True, 1.0):
        with pytest.raises(InvalidInput, match="version is "):
            as_call("m", {"a": [1]}, version=version)
    with pytest.raises(InvalidInput, match="outputs is the string 'score'"):
        as_call("m", {"a": [1]}, outputs="score")
