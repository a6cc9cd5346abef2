"""Open-loop runs as reports: one run at one rate, or the search for the highest rate that keeps a bound."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Final

from ringpull.inference.client.client import Client
from ringpull.inference.client.credentials import Credentials
from ringpull.loadtest.find_max import Found, Trial, find_max
from ringpull.loadtest.messages import Messages
from ringpull.loadtest.open_loop import OpenLoopPlan, OpenLoopRun, run_open_loop
from ringpull.loadtest.plots import plot_rates
from ringpull.loadtest.report import ServerCounts, Summary, summarize

WARM_UP_S: Final = 2.0
TRIAL_DEADLINE: Final = 20.0
"""Deadline of a request in a search, as a multiple of the bound: a rate far too high should fail soon."""
MIN_DEADLINE_S: Final = 1.0
MIN_REQUESTS: Final = 10
"""Requests of a trial at least: no lower rate is tried. A p99 of so few is their maximum."""

PLOT_FILE: Final = "rates.png"
TRIALS_FILE: Final = "trials.json"


def measure_rate(
    client: Client, messages: Messages, plan: OpenLoopPlan, *, settings: Mapping[str, Any]
) -> tuple[OpenLoopRun, Summary]:
    """Run once; return the run and its summary.

    Args:
        settings: What the summary says was asked for.
    """
    before = ServerCounts.ask(client, messages.model)
    run = run_open_loop(client.target, messages.payloads, plan, client.credentials)
    summary = summarize(
        run.latencies,
        before=before,
        after=ServerCounts.ask(client, messages.model),
        started_s=run.started_s,
        tool="open loop",
        target=client.target,
        model=messages.model,
        seconds=round(run.seconds, 3),
        settings=settings,
        timeline=run.timeline,
        warnings=run.warnings,
    )
    return run, summary


def search_rate(
    target: str,
    messages: Messages,
    plan: OpenLoopPlan,
    *,
    p99_ms: float,
    on_trial: Callable[[Trial], None],
    credentials: Credentials | None = None,
) -> Found:
    """Search for the highest rate with a p99 of at most `p99_ms`, after a short run that is not counted.

    Args:
        plan: Plan of every trial, but for rate, seed and deadline; its rate is where the search begins.
        on_trial: Called after each.
        credentials: Credentials for TLS, and a token; None: those of the environment.
    """
    plan = replace(plan, timeout_s=max(MIN_DEADLINE_S, TRIAL_DEADLINE * p99_ms / 1000))
    seeds = count(plan.seed)
    measured = partial(run_open_loop, target, messages.payloads, credentials=credentials)

    def measure(rate: float) -> Trial:
        # Other arrivals each time: one unlucky burst must not fail its rate for ever.
        trial = trial_of(measured(replace(plan, rate=rate, seed=next(seeds))))
        on_trial(trial)
        return trial

    measured(replace(plan, seconds=min(WARM_UP_S, plan.seconds)))
    lowest = MIN_REQUESTS / plan.seconds
    return find_max(measure, bound_ms=p99_ms, start=max(plan.rate, lowest), lowest=lowest)


def trial_of(run: OpenLoopRun) -> Trial:
    """Return what a search needs of a run."""
    latencies = run.latencies
    return Trial(
        rate=run.plan.rate,
        p50_ms=latencies.percentile_ms(50),
        p99_ms=latencies.percentile_ms(99) if latencies.requests else math.inf,
        failed_share=latencies.failures / latencies.requests if latencies.requests else 0.0,
        generator_bound=bool(run.warnings),
    )


def write_search(folder: Path, found: Found) -> Path:
    """Draw rate against p50 and p99, and write the trials beside it; return the plot."""
    folder.mkdir(parents=True, exist_ok=True)
    trials = [asdict(trial) for trial in found.trials]
    (folder / TRIALS_FILE).write_text(json.dumps(trials, indent=1), encoding="utf-8")
    return plot_rates(folder / PLOT_FILE, found.trials, bound_ms=found.bound_ms, found=found.rate)
