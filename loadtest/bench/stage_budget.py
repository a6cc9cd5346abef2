"""The budget of a request: where its microseconds go, stage by stage, from gRPC's bytes in to gRPC's bytes out.

Decode, features, batch wait, look-up, dense and the total are the server's own timings, medians of requests that came
one at a time, and again under full load. What the look-up is made of is measured on the same requests: this process
does the router's and a shard's work on the served version's own files, one call at a time; the wire is what is left of
the look-up. Encode and gRPC are what is left of the rest.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import uvloop

from ringpull.inference.head.frontends.grpc.decoding import decode_request
from ringpull.inference.head.pipeline import Pipeline
from ringpull.inference.head.request.preparation import Preparation
from ringpull.inference.head.request.received import Limits
from ringpull.inference.model.version import LoadedVersion
from ringpull.inference.prediction import Prediction
from ringpull.inference.proto import ringpull_pb2
from ringpull.inference.wire.codec import encode_response
from ringpull.loadtest.bench.bare_shards import EPOCH
from ringpull.loadtest.bench.dlrm_requests import BAG, CANDIDATES, Request, make_requests, payload_of
from ringpull.loadtest.bench.harness import QUICK, Report
from ringpull.loadtest.bench.load import check_answered
from ringpull.loadtest.bench.routing import merge, placement, route
from ringpull.loadtest.deployment import deployed
from ringpull.loadtest.dlrm import DENSE, MODEL, dlrm_folder
from ringpull.loadtest.generator import Load, Outcome, PayloadSender, connected
from ringpull.ps.placement import ServedRanges
from ringpull.ps.pull_messages import PullReply
from ringpull.ps.ring import Ring
from ringpull.ps.shard import Shard
from ringpull.router.lookup import Lookup, LookupResult
from ringpull.router.partition import Part

ROWS = 10_000 if QUICK else 50_000
SHARDS = 2
IN_FLIGHT = 8
CALLS = 100 if QUICK else 600
WARM_UP_CALLS = 20
Result = TypeVar("Result")

SERVER_STAGES = ("decode_us", "features_us", "queue_us", "lookup_us", "dense_us")


def main() -> None:
    requests = make_requests(32, ROWS)
    folder = dlrm_folder(ROWS)
    with deployed(folder, SHARDS, "--local-reads", "off") as ours:  # the way of a key that another machine has
        alone = uvloop.run(served_budget(ours.target, requests, 1))
        loaded = uvloop.run(served_budget(ours.target, requests, IN_FLIGHT))
    parts = InProcess(folder / "1", SHARDS).budget(requests)
    alone_us, loaded_us = stages(alone, parts), stages(loaded, {})

    report = Report(
        f"Budget of a request of 1 user + {CANDIDATES} candidates, us: alone, and with {IN_FLIGHT} in flight"
    )
    total_us = alone_us["client sees"]
    for name, us in alone_us.items():
        under_load = f"with {IN_FLIGHT} in flight {loaded_us[name]:,.0f}" if name in loaded_us else ""
        report.row(name, f"{us:,.0f}", under_load, us / total_us)
    for key, budget in (("budget_us", alone_us), ("budget_us_loaded", loaded_us)):
        report.key(key, {name.removeprefix("- "): round(us, 1) for name, us in budget.items()})
    report.finish()


@dataclass(frozen=True, slots=True)
class Served:
    """Medians of what a client saw and the server said."""

    round_trip_us: float
    timings: Mapping[str, float]


def stages(served: Served, parts: Mapping[str, float]) -> dict[str, float]:
    """Return the stages in the order of a request, in microseconds.

    Args:
        served: What was measured over gRPC.
        parts: Route, pool, merge, encode as measured in process; empty: the look-up stays in one piece.
    """
    timings = served.timings
    budget = {
        "decode": timings["decode_us"],
        "features": timings["features_us"],
        "batch wait": timings["queue_us"],
        "look-up": timings["lookup_us"],
    }
    if parts:
        lookup = ("route", "look-up + pool", "merge")
        budget["- route"] = parts["route"]
        budget["- wire"] = max(0.0, timings["lookup_us"] - sum(parts[name] for name in lookup))
        budget["- look-up + pool"] = parts["look-up + pool"]
        budget["- merge"] = parts["merge"]
    budget["dense"] = timings["dense_us"]
    between = timings["total_us"] - sum(timings[name] for name in SERVER_STAGES)
    budget["between stages"] = max(0.0, between)
    encode = parts.get("encode", 0.0)
    if parts:
        budget["encode"] = encode
    budget["gRPC and client"] = max(0.0, served.round_trip_us - timings["total_us"] - encode)
    budget["client sees"] = served.round_trip_us
    return budget


async def served_budget(target: str, requests: Sequence[Request], in_flight: int) -> Served:
    """Return the medians over `CALLS` requests, `in_flight` at a time."""
    payloads = [payload_of(request, with_timings=True) for request in requests]
    outcomes: list[Outcome] = []
    async with connected(target) as channels:
        load = Load(PayloadSender(channels, payloads), outcomes.append)
        await load.closed_loop(range(WARM_UP_CALLS), 1)
        await load.closed_loop(range(CALLS), in_flight)
    check_answered(target, Counter(each.status for each in outcomes))
    del outcomes[:WARM_UP_CALLS]
    replies = [ringpull_pb2.PredictResponse.FromString(each.answer).timings for each in outcomes]
    names = [*SERVER_STAGES, "total_us"]
    medians = {name: statistics.median(getattr(timings, name) for timings in replies) for name in names}
    return Served(statistics.median(each.took_s for each in outcomes) * 1e6, medians)


class InProcess:
    """The work of router and shards on a version's own files, in this process, one call at a time."""

    def __init__(self, version_dir: Path, shards: int) -> None:
        self._loaded = LoadedVersion.load(version_dir, device="cpu")
        manifest = self._loaded.manifest
        self._name = manifest.model, manifest.version
        self._dims = {entry.spec.name: entry.spec.dim for entry in manifest.tables}
        ring = Ring.even(range(shards))
        self._placement = placement(shards)
        self._shards = [Shard(shard) for shard in range(shards)]
        folders = {name: manifest.table_folder(version_dir, name) for name in self._dims}
        for shard in self._shards:
            shard.open(*self._name, folders)
            shard.assign(EPOCH, [ServedRanges(ring, {})], [self._name])

    def budget(self, requests: Sequence[Request]) -> dict[str, float]:
        """Return microseconds of route, look-up + pool of the slowest shard (they work side by side), merge, encode."""
        took: dict[str, list[float]] = {"route": [], "look-up + pool": [], "merge": [], "encode": []}
        for request in [*requests[:2], *requests]:
            lookups = self.lookups(request)
            batch, parts = _timed(took["route"], partial(route, self._name[0], lookups, self._placement))
            of_shards: list[float] = []
            replies = [_timed(of_shards, partial(self._pull, part)) for part in parts]
            took["look-up + pool"].append(max(of_shards))
            dims = np.array([self._dims[table] for table in batch.tables], np.int64)
            _timed(took["merge"], partial(merge, batch, dims, list(zip(parts, replies, strict=True))))
            _timed(took["encode"], partial(_encode, request))
        # the first two fault pages in
        return {name: statistics.median(values[2:]) * 1e6 for name, values in took.items()}

    def lookups(self, request: Request) -> list[Lookup]:
        """Return what the head asks of the router for a request alone in its batch."""
        recorder = _Recorder(self._dims)
        pipeline = Pipeline(self._loaded.manifest, self._loaded.schema, self._loaded.program, recorder)
        limits = Limits(CANDIDATES, max(BAG, DENSE))
        call = decode_request(ringpull_pb2.PredictRequest.FromString(payload_of(request)), limits)
        batch = Preparation(self._loaded.manifest, self._loaded.schema).prepare([call.columns]).work
        asyncio.run(pipeline.pull(batch, deadline_s=float("inf")))
        return recorder.lookups

    def _pull(self, part: Part) -> PullReply:
        assert part.shard is not None
        return self._shards[part.shard].pull(part.request(*self._name, EPOCH))


class _Recorder:
    """A router that notes what it is asked and answers zeros."""

    def __init__(self, dims: Mapping[str, int]) -> None:
        self._dims = dims
        self.lookups: list[Lookup] = []

    async def pull(
        self, model: str, version: int, lookups: Sequence[Lookup], *, deadline_s: float
    ) -> list[LookupResult]:
        self.lookups = list(lookups)
        return [
            LookupResult(np.zeros((each.outputs, self._dims[each.table]), np.float32), missing=0) for each in lookups
        ]


def _encode(request: Request) -> bytes:
    scores = np.zeros((request.rows, 1), np.float32)
    return encode_response(Prediction({"score": scores}, 1, model=MODEL)).SerializeToString()


def _timed(took: list[float], run: Callable[[], Result]) -> Result:
    begin = time.perf_counter()
    result = run()
    took.append(time.perf_counter() - begin)
    return result


if __name__ == "__main__":
    main()
