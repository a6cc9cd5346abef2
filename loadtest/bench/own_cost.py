"""The cost of a load tool itself: CPU time of its own process per request, against a head that does nothing.

    python -m ringpull.loadtest.bench.own_cost

The tools take turns, and a figure is the median of some rounds. The kernel's share of sending and receiving is in it;
what the echo spends, in its own process, is not. A request is as long as that of a model of 26 features with bags of 10
and 128 candidates, and `encode` is what the tools save by encoding requests beforehand.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import islice
from typing import Final

from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.inference.wire.codec import PredictCall, encode_request
from ringpull.loadtest.open_loop import OpenLoopPlan, run_open_loop
from ringpull.loadtest.options import WorkloadOptions
from ringpull.loadtest.process import server
from ringpull.loadtest.workload import Workload

ROUNDS: Final = 3
SECONDS: Final = 5.0
RATE: Final = 500.0
USERS: Final = 8
REQUESTS: Final = 64


def model() -> pb.Model:
    """Return the description of a DLRM of 13 user and 13 item features."""
    names = [f"{kind}_{number}" for kind in ("context", "candidate") for number in range(13)]
    return pb.Model(
        name="echo",
        features=[
            pb.FeatureInfo(name="dense", kind="dense", dtype=pb.FLOAT32, width=13),
            *(pb.FeatureInfo(name=name, kind="sparse", dtype=pb.INT64, many=True) for name in names),
        ],
        tables=[pb.TableInfo(name=name, rows=1_000_000, dim=64, features=[name]) for name in names],
    )


def calls() -> list[PredictCall]:
    return list(islice(Workload(model(), WorkloadOptions(requests=REQUESTS)).calls(), REQUESTS))


def encode_us(made: list[PredictCall]) -> float:
    """Return the microseconds of encoding one request."""
    begin = time.process_time()
    for call in made:
        encode_request(call).SerializeToString()
    return (time.process_time() - begin) / len(made) * 1e6


def open_loop_us(target: str, payloads: list[bytes]) -> float:
    """Return the CPU microseconds of one request sent by the open loop."""
    run = run_open_loop(target, payloads, OpenLoopPlan(rate=RATE, seconds=SECONDS))
    return run.health.cpu_s / run.sent * 1e6


def locust_us(target: str) -> float:
    """Return the CPU microseconds of one request sent by a locust user, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "ringpull.loadtest.bench.own_cost_locust", target, str(USERS), str(SECONDS)],
        check=True,
        capture_output=True,
        encoding="utf-8",
    )
    return float(done.stdout.split()[-1])


def main() -> None:
    made = calls()
    payloads = [encode_request(call).SerializeToString() for call in made]
    with server("ringpull.loadtest.bench.echo") as (port, _):
        target = f"127.0.0.1:{port}"
        contenders: dict[str, Callable[[], float]] = {
            "encode_us": lambda: encode_us(made),
            "open_loop_us": lambda: open_loop_us(target, payloads),
            "locust_us": lambda: locust_us(target),
        }
        taken: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(ROUNDS):
            for name, measure in contenders.items():
                taken[name].append(measure())
    figures = {name: round(statistics.median(values), 1) for name, values in taken.items()}
    figures["request_bytes"] = round(statistics.mean(map(len, payloads)))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
