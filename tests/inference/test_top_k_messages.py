"""Messages of a top-k: their bytes, and answers that come back as they were."""

from __future__ import annotations

import numpy as np
import pytest

from ringpull.inference.head.config import HeadConfig
from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.inference.top_k_answer import TopK
from ringpull.inference.wire.top_k_codec import decode_answer, encode_answer, encode_top_k
from ringpull.ps.errors import (
    ProtocolError,
)

# -- messages ----------------------------------------------------------------------------------------------------------


def test_golden_bytes() -> None:
    asked = encode_top_k("m", "t", [[1, 0.5]], 3, metric="cosine", exclude=[[1, -1]], among=["a"], version=7)
    assert asked.SerializeToString(deterministic=True).hex() == GOLDEN_REQUEST
    answer = TopK(
        model="m",
        version=7,
        table="t",
        keys=np.array([[5, 0]]),
        scores=np.array([[0.5, -np.inf]], np.float32),
        counts=np.array([1]),
        found=np.array([True]),
        lost=2,
        request_id="r",
    )
    assert encode_answer(answer).SerializeToString(deterministic=True).hex() == GOLDEN_ANSWER


GOLDEN_REQUEST = (
    "0a016d1201741807280330013a0e0a02010212080000803f0000003f6a282a14080112100100000000000000ffffffffffffffff3a1000"
    "000000000000000200000000000000720d2a0b08041201611a0401000000"
)
GOLDEN_ANSWER = (
    "0a016d10071a017422202a0c0801120805000000000000003a10000000000000000001000000000000002a040000003f3a01014802720172"
)


def test_answers_come_back_as_they_were() -> None:
    counts = np.array([2, 0, 1])
    scores = np.array([[2, 1], [-np.inf, -np.inf], [3, -np.inf]], np.float32)
    for keys in (
        np.array([[5, -6], [0, 0], [7, 0]]),
        np.array([[5, 2**64 - 1], [0, 0], [7, 0]], np.uint64),
        np.array([["ü", ""], [None, None], ["b", None]], object),
    ):
        answer = TopK(model="m", version=2, table="t", keys=keys, scores=scores, counts=counts, lost=1, missing=1)
        for typed in (False, True):
            back = decode_answer(pb.TopKResponse.FromString(encode_answer(answer, typed=typed).SerializeToString()), 2)
            assert back.keys.dtype == keys.dtype
            np.testing.assert_array_equal(back.keys, keys)
            np.testing.assert_array_equal(back.scores, scores)
            np.testing.assert_array_equal(back.counts, counts)
            assert (back.model, back.version, back.table, back.lost, back.missing) == ("m", 2, "t", 1, 1)


OFFSETS = np.array([0, 1]).tobytes()


@pytest.mark.parametrize(
    "message",
    [
        pb.TopKResponse(),
        pb.TopKResponse(keys=pb.Column(int64s=pb.Int64List(values=[1])), scores=[1]),
        pb.TopKResponse(keys=pb.Column(int64s=pb.Int64List(values=[1]), raw_offsets=OFFSETS)),
        pb.TopKResponse(keys=pb.Column(int64s=pb.Int64List(values=[1]), raw_offsets=OFFSETS), raw_scores=b"123"),
        pb.TopKResponse(keys=pb.Column(int64s=pb.Int64List(values=[1, 2, 3]), offsets=[0, 3]), scores=[1, 2, 3]),
        pb.TopKResponse(keys=pb.Column(int64s=pb.Int64List(values=[1]), offsets=[0, 2, 1]), scores=[1]),
        pb.TopKResponse(
            keys=pb.Column(int64s=pb.Int64List(values=[1]), raw_offsets=OFFSETS), scores=[1], found=b"\1\1"
        ),
    ],
    ids=range(7),
)
def test_answers_that_do_not_fit_are_errors(message: pb.TopKResponse) -> None:
    with pytest.raises(ProtocolError):
        decode_answer(message, 2)


def test_the_most_that_may_be_asked_fits_a_message_by_default() -> None:
    assert HeadConfig().max_message_bytes > 64 * 10_000 * 12
