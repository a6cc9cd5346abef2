"""A served import against the runtime that its model came from: requests a second in turns, and the largest difference.

The runtime is in process, in one thread, as the head's dense program is, and is given the columns as they are: no wire,
no client, no other process. So a ratio below 1 is what serving costs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.client.client import Client
from ringpull.inference.wire.codec import as_call, encode_request
from ringpull.loadtest.bench.harness import QUICK, Report, interleave, rate
from ringpull.loadtest.bench.load import Run, Server
from ringpull.loadtest.deployment import deployed

CANDIDATES: Final = 128
REQUESTS: Final = 32
IN_FLIGHT: Final = 8
SECONDS: Final = 2.0 if QUICK else 3.0
ROUNDS: Final = 2 if QUICK else 5
TURNS: Final = 200 if QUICK else 1000

Columns = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class OwnRuntime:
    """The runtime that a model came from."""

    name: str
    scores: Callable[[Columns], NDArray[Any]]
    """Scores of a request's columns."""
    rate: Callable[[], float] | None = None
    """Requests a second of these, in one turn of the bench; None: as many as `scores` is called."""


def serve_beside(
    report: Report,
    key: str,
    folder: Path,
    output: str,
    requests: Sequence[Columns],
    runtime: OwnRuntime,
    *,
    shards: int,
) -> None:
    """Serve a model's folder, and add how fast and how equal it is to a report.

    Args:
        key: Beginning of the report's keys.
        output: Output that is compared.
        requests: Columns of each request; all come again and again.
    """
    model = folder.name
    payloads = [encode_request(as_call(model, each, {})).SerializeToString() for each in requests]
    last: list[Run] = []
    with deployed(folder, shards) as deployment:
        server = Server(deployment.target, processes=deployment.running())

        def served() -> float:
            last.append(server.closed_loop(payloads, in_flight=IN_FLIGHT, seconds=SECONDS))
            return last[-1].calls_per_s

        with Client(deployment.target, timeout_s=60) as client:
            scores = [client.predict(model, each).outputs[output] for each in requests]
        apart = max(
            float(np.abs(found - np.asarray(runtime.scores(each)).reshape(found.shape)).max())
            for found, each in zip(scores, requests, strict=True)
        )
        alone = runtime.rate or rate(lambda turn: runtime.scores(requests[turn % len(requests)]), TURNS, 1)
        samples = interleave({"ours": served, runtime.name: alone}, rounds=ROUNDS)
    report.compare("requests/s", samples, ("ours", runtime.name), key=f"{key}_vs_inprocess")
    report.row("p99, ms", f"{last[-1].percentile_ms(99):.1f}")
    report.row("largest difference", f"{apart:.1e}", "of scores from 0 to 1")
    report.key(f"{key}_requests_per_s", samples.median("ours"))
    report.key(f"{key}_largest_difference", apart)
