"""Contenders of the end-to-end benches: a DLRM served by ringpull, and by what people serve it with today.

All have the same weights and get the same requests, each in its own protocol.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Literal

import numpy as np
import psutil
import torch
from google.protobuf.wrappers_pb2 import BytesValue
from numpy.typing import NDArray

from ringpull.inference.head.frontends.oip.messages import ModelInferResponse
from ringpull.inference.proto import ringpull_pb2
from ringpull.inference.wire.codec import decode_response
from ringpull.loadtest.bench.asked_rates import PATIENT
from ringpull.loadtest.bench.baselines import METHOD
from ringpull.loadtest.bench.dlrm_requests import CANDIDATES, Request, payload_of, score_request
from ringpull.loadtest.bench.doors import OIP_METHOD, oip_payload
from ringpull.loadtest.bench.harness import QUICK
from ringpull.loadtest.bench.load import Run, Server, one_reply
from ringpull.loadtest.deployment import deployed
from ringpull.loadtest.dlrm import dlrm_folder, make_model
from ringpull.loadtest.process import server

ROWS = 10_000 if QUICK else 50_000
SHARDS = 2
IN_FLIGHT = 8
SECONDS = 3.0
"""Length of a closed loop: of eleven contenders that take six turns each, a second more is a minute."""
OPEN_SECONDS = 3.0
"""Length of an open loop, whose percentiles need requests: at a quarter of the top rate some 70 come in a second."""

IN_PROCESS: Final = {"1 thread": 1, "2 threads": 2}
"""Settings of the model in process: threads of torch."""
GRPC_TORCH: Final = {
    "1 thread": (),
    "2 threads": ("--threads", "2"),
    "2 threads of torch": ("--torch-threads", "2"),
}
"""Settings of the plain grpc.aio server: options of its program."""

NO_BF16: Final = "no instructions for bfloat16 here"
BF16_WITHIN: Final = 0.05
"""The most that a score may differ when the dense program is in bfloat16: 0.023 was seen, of scores spread by 0.3."""

Scores = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Contender:
    """One server under load, and what it is asked."""

    server: Server
    payloads: Sequence[bytes]
    scores: Callable[[bytes], Scores]
    """Reads a reply."""

    def first_reply(self) -> bytes:
        """Return the reply to the first request."""
        return one_reply(self.server, self.payloads[0])

    def run(self) -> Run:
        return self.server.closed_loop(self.payloads, in_flight=IN_FLIGHT, seconds=SECONDS)

    @property
    def heads(self) -> int:
        """Number of heads, of one that is ours."""
        return len(self.server.processes) - SHARDS

    def by_connections(self, count: int) -> Contender:
        """Return it asked over several connections in turns, which spread over the heads of a port."""
        return replace(self, server=replace(self.server, connections=count))


@contextmanager
def echo_of(reply: bytes) -> Iterator[Server]:
    """Serve a bare grpc.aio echo that answers with as many bytes: the floor under every server."""
    with server("ringpull.loadtest.bench.echo", "--reply-bytes", str(len(reply))) as (port, _):
        yield Server(f"127.0.0.1:{port}")


def in_process(requests: Sequence[Request]) -> dict[str, Callable[[], float]]:
    """Return contenders without any server, by setting: samples per second of the bare model, which they share."""
    model = make_model(ROWS)

    def measure(threads: int) -> float:
        torch.set_num_threads(threads)
        done, begin = 0, time.perf_counter()
        with torch.inference_mode():
            while (took := time.perf_counter() - begin) < SECONDS:
                score_request(model, requests[done % len(requests)])
                done += 1
        return done * CANDIDATES / took

    return {setting: partial(measure, threads) for setting, threads in IN_PROCESS.items()}


@contextmanager
def ringpull(
    requests: Sequence[Request], *options: str, precision: Literal["float32", "bfloat16"] = "float32"
) -> Iterator[Contender]:
    """Serve the exported model with the real command, its dense program in a precision; it refuses nobody."""
    with deployed(dlrm_folder(ROWS, precision), SHARDS, *PATIENT, *options) as ours:
        asked = Server(ours.target, processes=ours.running())
        yield Contender(asked, [payload_of(request) for request in requests], _ours)


def _ours(reply: bytes) -> Scores:
    outputs = decode_response(ringpull_pb2.PredictResponse.FromString(reply)).outputs
    return next(iter(outputs.values())).reshape(-1)


@contextmanager
def baseline(name: str, requests: Sequence[Request], *arguments: str) -> Iterator[Contender]:
    """Serve the same model by one of `ringpull.loadtest.bench.baselines`."""
    method, payload, scores = PROTOCOLS.get(name, (METHOD, Request.to_bytes, _floats))
    with server(f"ringpull.loadtest.bench.baselines.{name}", "--rows", str(ROWS), *arguments) as (port, process):
        asked = Server(f"127.0.0.1:{port}", method, family(process))
        yield Contender(asked, [payload(request) for request in requests], scores)


def family(process: psutil.Process) -> list[psutil.Process]:
    """Return a server's process and all below it."""
    return [process, *process.children(recursive=True)]


def _floats(reply: bytes) -> Scores:
    return np.frombuffer(reply, np.float32)


def _wrapped(request: Request) -> bytes:
    payload: bytes = BytesValue(value=request.to_bytes()).SerializeToString()
    return payload


def _unwrapped(reply: bytes) -> Scores:
    return _floats(BytesValue.FromString(reply).value)


def _tensors(request: Request) -> bytes:
    return oip_payload({"dense": request.dense, "context": request.context, "candidates": request.candidates})


def _first_tensor(reply: bytes) -> Scores:
    return _floats(ModelInferResponse.FromString(reply).raw_output_contents[0])


PROTOCOLS = {"ray_serve": (METHOD, _wrapped, _unwrapped), "triton": (OIP_METHOD, _tensors, _first_tensor)}
"""Baseline -> its method, how it is asked and how its reply is read, where these are not the bare bytes."""


def check_scores(contenders: Iterable[Contender], request: Request, *, within: float = 1e-5) -> None:
    """Check that all score the first request as the model in process does.

    Args:
        within: The most by which a score may differ, besides the rounding of float32.

    Raises:
        AssertionError: One does not.
    """
    with torch.inference_mode():
        expected = score_request(make_model(ROWS), request).numpy().reshape(-1)
    for contender in contenders:
        np.testing.assert_allclose(contender.scores(contender.first_reply()), expected, rtol=1e-4, atol=within)
