"""A DIN whose histories are averaged under a mask: bytes from the shards and latency, pooled by the pull and not.

One user with a history in each of four tables, up to 100 ids long, averaged over what is no padding; 20 recent items
that every candidate attends to; 128 candidates; 8 requests in flight. The two models have the same weights and give
the same scores. In the second each place of a history is also multiplied by a number of the request, 1, which no pull
can know: its histories are looked up unpooled, as all were before masked means were seen.
"""

from __future__ import annotations

import json
import re
import shutil
import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ringpull import Dense, IdSequence, Ragged, Schema, Sparse, export_model
from ringpull.inference.proto import ringpull_pb2
from ringpull.inference.wire.codec import as_call, decode_response, encode_request
from ringpull.loadtest.bench.dlrm_requests import CANDIDATES
from ringpull.loadtest.bench.harness import QUICK, Report, interleave
from ringpull.loadtest.bench.load import Run, Server, one_reply
from ringpull.loadtest.deployment import Deployment, deployed
from ringpull.loadtest.dlrm import cache_folder
from ringpull.loadtest.http_read import read

ROWS = 10_000 if QUICK else 100_000
DIM = 64
LENGTH = 100
RECENT = 20
HISTORIES = ("clicked", "bought", "shops", "categories")
SHARDS = 2
IN_FLIGHT = 8
SECONDS = 2.0
ROUNDS = 1 if QUICK else 4
BYTES = ("ringpull_pull_sent_bytes_total", "ringpull_pull_received_bytes_total")


class Din(nn.Module):
    """Attention over recent items, beside means of longer histories."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.items = nn.Embedding(ROWS, DIM, padding_idx=0)
        self.histories = nn.ModuleDict({name: nn.Embedding(ROWS, DIM, padding_idx=0) for name in HISTORIES})
        self.top = nn.Sequential(nn.Linear((2 + len(HISTORIES)) * DIM, 128), nn.ReLU(), nn.Linear(128, 1))

    def mean(self, name: str, ids: Tensor, one: Tensor) -> Tensor:
        """Return the mean (B, D) of a history's vectors, padding left out."""
        mask = (ids != 0).float()
        total = torch.bmm(mask.unsqueeze(1), self.histories[name](ids)).squeeze(1)
        return total / mask.sum(1, keepdim=True).clamp(min=1)

    def forward(
        self, item: Tensor, recent: Tensor, clicked: Tensor, bought: Tensor, shops: Tensor, categories: Tensor,
        one: Tensor,
    ) -> Tensor:  # fmt: skip
        candidate, seen = self.items(item), self.items(recent)
        scores = (seen * candidate.unsqueeze(1)).sum(-1).masked_fill(recent == 0, -1e9)
        interest = (seen * scores.softmax(1).unsqueeze(-1)).sum(1)
        given = zip(HISTORIES, (clicked, bought, shops, categories), strict=True)
        means = [self.mean(name, ids, one) for name, ids in given]
        clicks: Tensor = self.top(torch.cat([candidate, interest, *means], dim=1)) * one
        return clicks.squeeze(1)


class UnpooledDin(Din):
    """The same model and weights, with a factor for each place that only the request knows."""

    def mean(self, name: str, ids: Tensor, one: Tensor) -> Tensor:
        mask = (ids != 0).float()
        total = torch.bmm((mask * one).unsqueeze(1), self.histories[name](ids)).squeeze(1)
        return total / mask.sum(1, keepdim=True).clamp(min=1)


MODELS: Mapping[str, type[Din]] = {"pooled": Din, "unpooled": UnpooledDin}


def schema() -> Schema:
    """Return the features of both."""
    histories = [IdSequence(name, LENGTH) for name in HISTORIES]
    return Schema([Sparse("item"), IdSequence("recent", RECENT), *histories, Dense("one")])


def din_folder(name: str) -> Path:
    """Return the model's folder, exported anew, in the place of the last run's: the bench is of how it is exported."""
    folder = cache_folder() / f"din-rows-{ROWS}" / f"din_{name}"
    shutil.rmtree(folder, ignore_errors=True)
    export_model(MODELS[name]().eval(), schema(), folder, 1, quiet=True)
    return folder


def payloads(model: str, count: int = 32) -> list[bytes]:
    """Return requests of one user and 128 candidates, with histories of 50 to 100 ids."""
    random = np.random.default_rng(1)
    made = []
    for _ in range(count):
        context: dict[str, object] = {"one": np.ones((1, 1), np.float32)}
        for name, most in [("recent", RECENT), *((each, LENGTH) for each in HISTORIES)]:
            length = int(random.integers(most // 2, most + 1))
            context[name] = Ragged(random.integers(1, ROWS, length), np.array([0, length]))
        call = as_call(model, {"item": random.integers(1, ROWS, CANDIDATES)}, context)
        made.append(encode_request(call).SerializeToString())
    return made


@dataclass(slots=True)
class _Served:
    """One of the two models under load."""

    deployment: Deployment
    requests: Sequence[bytes]
    runs: list[Run] = field(default_factory=list)
    bytes_per_request: list[float] = field(default_factory=list)

    @property
    def server(self) -> Server:
        return Server(self.deployment.target, processes=self.deployment.running())

    def scores(self) -> NDArray[np.float32]:
        """Return the scores of the first request."""
        reply = ringpull_pb2.PredictResponse.FromString(one_reply(self.server, self.requests[0]))
        return next(iter(decode_response(reply).outputs.values()))

    def measure(self) -> float:
        """Load it for a while; return requests per second."""
        before = self._moved()
        run = self.server.closed_loop(self.requests, in_flight=IN_FLIGHT, seconds=SECONDS)
        self.runs.append(run)
        self.bytes_per_request.append((self._moved() - before) / run.calls)
        return run.calls_per_s

    def _moved(self) -> float:
        """Return the bytes that its heads have sent to shards and got from them so far."""
        targets = json.loads(read(self.deployment.http, "/metrics/targets"))
        texts = [read(each["targets"][0], "/metrics").decode() for each in targets]
        found = [re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE) for text in texts for name in BYTES]
        return sum(float(each) for values in found for each in values)


def measure(report: Report) -> None:
    """Add both models' bytes per request, rates and latencies to a report, taken in turns."""
    with ExitStack() as stack:
        served = {
            # What is measured is what moves between head and shards: none would, with the files here.
            name: _Served(
                stack.enter_context(deployed(din_folder(name), SHARDS, "--local-reads", "off")), payloads(f"din_{name}")
            )
            for name in MODELS
        }
        np.testing.assert_allclose(served["pooled"].scores(), served["unpooled"].scores(), rtol=1e-4, atol=1e-5)
        samples = interleave({name: each.measure for name, each in served.items()}, rounds=ROUNDS)
    pooled, unpooled = served["pooled"], served["unpooled"]
    moved, before = (statistics.median(each.bytes_per_request[1:]) for each in (pooled, unpooled))
    what = f"DIN, {len(HISTORIES)} masked means of up to {LENGTH} ids"
    report.row(
        f"{what}: bytes a request moves between head and shards",
        f"{moved:,.0f}",
        f"unpooled {before:,.0f}",
        moved / before,
        key="din_bytes_vs_unpooled",
    )
    report.compare("the same, requests/s", samples, ("pooled", "unpooled"), key="din_rate_vs_unpooled")
    for percent in (50, 99):
        now, then = (
            statistics.median(run.percentile_ms(percent) for run in each.runs[1:]) for each in (pooled, unpooled)
        )
        key = f"din_p{percent}_vs_unpooled"
        report.row(f"the same, p{percent} at full load, ms", f"{now:.1f}", f"unpooled {then:.1f}", now / then, key=key)
    report.key("din_bytes", moved)
    report.key("din_bytes_unpooled", before)


def main() -> None:
    report = Report(f"DIN end to end: {1 + len(HISTORIES)} tables x {ROWS:,} x {DIM}, 1 user + {CANDIDATES} candidates")
    measure(report)
    report.finish()


if __name__ == "__main__":
    main()
