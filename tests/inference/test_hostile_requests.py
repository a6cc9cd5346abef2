"""Predict requests of any bytes at all: an answer or a named refusal, and no memory for what a length only claims."""

from __future__ import annotations

import tracemalloc
from contextlib import suppress

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringpull.inference.client.stubs import PREDICT
from ringpull.inference.head.frontends.grpc.decoding import decode_request
from ringpull.inference.head.frontends.grpc.methods import parse
from ringpull.inference.head.request.received import Limits
from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.inference.wire.codec import as_call, encode_request
from ringpull.ps.errors import RingpullError
from tests.inference.served import ROWS, still_serves
from tests.inference.small_model import SCHEMA, columns_of
from tests.mangling import mangled

LIMITS = Limits(max_candidates=50, max_values_per_row=20)

COLUMNS = columns_of(ROWS)
PACKED = encode_request(
    as_call(
        "ranker",
        {name: column for name, column in COLUMNS.items() if name != "user"},
        {"user": [7]},
        request_id="seven",
    )
)
TYPED = pb.PredictRequest(
    model="ranker",
    features={
        "item": pb.Column(int64s=pb.Int64List(values=[1, 2, 3])),
        "genres": pb.Column(int64s=pb.Int64List(values=[1, 2, 3]), offsets=[0, 2, 2, 3], weights=[1.0, 2.0, 0.5]),
        "city": pb.Column(strings=pb.StringList(values=["a", "b", "é"])),
    },
    context={"user": pb.Column(raw=pb.RawBuffer(dtype=pb.INT64, data=np.int64(7).tobytes()))},
    outputs=["score"],
)
BODIES = st.sampled_from([PACKED.SerializeToString(), TYPED.SerializeToString()])


def take_in(body: bytes) -> None:
    """Do with a request all that is done before shards are asked."""
    columns = decode_request(parse(pb.PredictRequest, body), LIMITS).columns
    both = columns.joined([columns, columns])
    SCHEMA.prepare_requests(*both.columns(), both.row_counts)


@pytest.mark.medium
@settings(max_examples=300)
@given(BODIES.flatmap(mangled) | st.binary(max_size=300))
def test_any_bytes_are_a_request_or_refused(body: bytes) -> None:
    with suppress(RingpullError):
        take_in(body)


@pytest.mark.parametrize("count", [-1, 2**31 - 1, 2**40, 2**62])
@pytest.mark.parametrize("place", range(6))
def test_a_length_that_lies_takes_no_memory(count: int, place: int) -> None:
    message = pb.PredictRequest()
    message.CopyFrom(PACKED)
    sizes = np.frombuffer(message.packed.sizes, np.int64).copy()
    sizes[place] = count
    message.packed.sizes = sizes.tobytes()
    body = message.SerializeToString()
    tracemalloc.start()
    with pytest.raises(RingpullError):
        take_in(body)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1 << 20


@pytest.mark.net
async def test_a_stream_of_hostile_requests_harms_no_other(client, served) -> None:
    rng = np.random.default_rng(0)
    whole = PACKED.SerializeToString()
    async with grpc.aio.insecure_channel(client.target) as channel:
        predict = channel.unary_unary(PREDICT.path)
        for _ in range(200):
            body = bytearray(whole)
            for at in rng.integers(0, len(body), rng.integers(1, 4)).tolist():
                body[at] = int(rng.integers(0, 256))
            with suppress(grpc.aio.AioRpcError):
                await predict(bytes(body[: rng.integers(1, len(body) + 1)]))
    await still_serves(client)


def test_the_requests_that_are_mangled_are_right_ones() -> None:
    take_in(PACKED.SerializeToString())
    assert decode_request(TYPED, LIMITS).columns.rows == 3
