"""The timeline of slow requests: stages add up to what the client saw, and threads to what they did meanwhile."""

from __future__ import annotations

import asyncio

import grpc.aio
import numpy as np
import psutil
import pytest

from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.loadtest.bench.timeline import (
    STAGES,
    connections_of,
    dealt_out,
    latencies_of,
    stages_of,
)
from ringpull.loadtest.generator import Outcome


def test_stages_add_up_to_what_the_client_saw():
    timings = pb.Timings(decode_us=10, features_us=20, queue_us=30, lookup_us=400, dense_us=500, total_us=1_000)
    answer = pb.PredictResponse(timings=timings).SerializeToString()
    outcome = Outcome(0, due_s=1.0, sent_s=1.002, end_s=1.005, answer=answer, error=None)
    (stages,) = stages_of([outcome])
    assert stages.sum() == pytest.approx(outcome.took_s * 1e3)
    named = dict(zip(STAGES, np.round(stages, 6), strict=True))
    assert named == {
        "late": 2, "decode": 0.01, "queue": 0.03, "features": 0.02, "lookup": 0.4, "dense": 0.5, "between": 0.04,
        "grpc": 2,
    }  # fmt: skip


def test_each_connection_is_told_by_the_head_that_accepted_it():
    me = psutil.Process()
    other = me.parent()
    assert other is not None

    async def count() -> None:
        server = grpc.aio.server()
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with dealt_out(f"127.0.0.1:{port}", [other, me], 3) as (channels, dealt):
            assert dealt == [1, 1, 1]
            assert len(channels) == 3
            assert connections_of([other, me], port) == [0, 3]  # and not this client's ends of them
        with pytest.raises(RuntimeError, match="one connection more"):
            async with dealt_out(f"127.0.0.1:{port}", [other], 1):
                pass
        await server.stop(None)

    asyncio.run(count())


def test_requests_are_those_of_the_head_that_their_connection_reached():
    outcomes = [Outcome(number, 0.0, 0.0, number / 1e3, b"", None) for number in (3, 0, 1, 2, 5)]
    assert latencies_of(outcomes, [1, 0, 1], 3) == [[1.0], [3.0, 0.0, 2.0, 5.0], []]
