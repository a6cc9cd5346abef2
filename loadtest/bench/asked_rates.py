"""Rates of deployments whose callers show something of themselves, against one whose callers show nothing.

They are loaded in turns, in an order that is drawn anew for every round: who comes first on a machine that warms up, or
after another's garbage, is nobody's merit.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from ringpull.inference.client.credentials import Credentials
from ringpull.loadtest.bench.dlrm_requests import CANDIDATES, payloads_of
from ringpull.loadtest.bench.harness import QUICK, Report, Samples
from ringpull.loadtest.bench.load import Server
from ringpull.loadtest.deployment import Deployment

ROWS: Final = 10_000 if QUICK else 50_000
SHARDS: Final = 2
SECONDS: Final = 1.0
ROUNDS: Final = 4
SEED: Final = 13
IN_FLIGHT: Final = {1: 64, CANDIDATES: 8}
"""Requests in flight by the candidates of a request."""
PATIENT: Final = (
    *("--max-queue", "60", "--standing-queue", "60", "--default-timeout", "60"),
    *("--max-pending", "10000"),
)
"""Options of `serve`: on a shared machine a loop may take any time, and no call is to be refused for that. An open loop
goes on while a head gets no processor: the calls that gRPC has no room for then it ends as CANCELLED."""

Contender = tuple[Deployment, Credentials]


def compare(report: Report, contenders: Mapping[str, Contender], names: Sequence[str], candidates: int) -> None:
    """Report requests/s and processor time a request of each name, against `none`."""
    payloads = payloads_of(64, ROWS, candidates=candidates)
    cpu_us: dict[str, list[float]] = {name: [] for name in contenders}

    def rate(name: str, ours: Deployment, credentials: Credentials) -> Callable[[], float]:
        def measure() -> float:
            asked = Server(ours.target, processes=ours.running(), credentials=credentials)
            run = asked.closed_loop(payloads, in_flight=IN_FLIGHT[candidates], seconds=SECONDS)
            cpu_us[name].append(run.server_cpu_per_call_s * 1e6)
            return run.calls_per_s

        return measure

    samples = in_drawn_order({name: rate(name, *each) for name, each in contenders.items()}, rounds=ROUNDS)
    cpu = Samples({name: values[1:] for name, values in cpu_us.items()})
    kind = "small" if candidates == 1 else "whole"
    for name in names:
        pair, of = (name, "none"), f"{candidates} candidates"
        report.compare(f"requests/s, {name}, {of}", samples, pair, key=f"{name}_rate_{kind}")
        report.compare(f"CPU us a request, {name}, {of}", cpu, pair, key=f"{name}_cpu_{kind}")


def in_drawn_order(contenders: Mapping[str, Callable[[], float]], *, rounds: int) -> Samples:
    """Run each contender once unmeasured, then all of them `rounds` times, each round in an order of its own."""
    for run in contenders.values():
        run()
    draw, values = random.Random(SEED), dict[str, list[float]]((name, []) for name in contenders)
    for _ in range(rounds):
        for name in draw.sample(list(contenders), len(contenders)):
            values[name].append(contenders[name]())
    return Samples(values)
