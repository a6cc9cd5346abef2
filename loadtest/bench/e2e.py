"""End to end: a DLRM over gRPC, ours with remote tables against servers that hold every table themselves.

One user and 128 candidates per request, 8 requests in flight, the load generator on the same cores. All contenders
serve the same weights, take turns in an order that is drawn for each round, and their scores of one request are
compared before anything is measured. The model in process and plain grpc.aio are measured with one thread and with
two, and compared in the better setting (`ringpull.loadtest.bench.strongest`). Ours has one head in all of that. Then
the tail of it, in open loops; and as many heads as pay off beside Triton's instances, rates and tails
(`ringpull.loadtest.bench.e2e_tail`). Then a DIN with averaged histories, pooled by the pull and not
(`ringpull.loadtest.bench.e2e_din`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from statistics import median

from ringpull.inference.model.bfloat16 import instructions
from ringpull.loadtest.bench import e2e_din, e2e_tail, redis_server
from ringpull.loadtest.bench.asked_rates import in_drawn_order
from ringpull.loadtest.bench.baselines import triton
from ringpull.loadtest.bench.dlrm_requests import CANDIDATES, Request, make_requests
from ringpull.loadtest.bench.e2e_contenders import (
    BF16_WITHIN,
    GRPC_TORCH,
    IN_FLIGHT,
    NO_BF16,
    ROWS,
    Contender,
    baseline,
    check_scores,
    in_process,
    ringpull,
)
from ringpull.loadtest.bench.harness import QUICK, Report, Samples
from ringpull.loadtest.bench.load import Run
from ringpull.loadtest.bench.strongest import in_setting, in_strongest_setting

ROUNDS = 2 if QUICK else 4
BF16_KEYS = {"grpc_torch": "e2e_bf16_vs_grpc_torch", "triton": "e2e_one_head_bf16_vs_triton"}
"""Rival -> key of our one head in bfloat16 beside it."""
RIVALS = {
    "inprocess": "e2e_vs_inprocess",
    "grpc_torch": "e2e_vs_grpc_torch",
    "triton": "e2e_one_head_vs_triton",
    "redis_torch": "e2e_vs_redis_torch",
    "ray_serve": "e2e_vs_ray_serve",
}
"""Rival -> key of our one head beside it. As many heads as pay off are beside Triton's instances in `e2e_tail`."""


def main() -> None:
    requests = make_requests(32, ROWS)
    report = Report(
        f"DLRM end to end: 26 tables x {ROWS:,} x 64, 1 user + 128 candidates, {IN_FLIGHT} in flight, samples/s"
    )
    with ringpull(requests) as ours:
        _against_baselines(report, ours, requests)
        # Alone again: an idle Ray Serve wakes up often enough to be in the tail of others.
        e2e_tail.alone(report, ours, requests)
    e2e_tail.beside(report, requests)
    e2e_din.measure(report)
    report.finish()


def _against_baselines(report: Report, ours: Contender, requests: Sequence[Request]) -> None:
    with ExitStack() as stack:
        # As on machines of their own: every key is asked of the shards, though their files are here.
        remote = stack.enter_context(ringpull(requests, "--local-reads", "off"))
        contenders = {"ours": ours, "remote": remote}
        for setting, options in GRPC_TORCH.items():
            served = stack.enter_context(baseline("grpc_torch", requests, *options))
            contenders[in_setting("grpc_torch", setting)] = served
        if (why := triton.missing()) is None:
            contenders["triton"] = stack.enter_context(baseline("triton", requests))
        else:
            report.absent("triton", why, RIVALS["triton"], "cpu_vs_triton", BF16_KEYS["triton"])
        if instructions("cpu"):
            contenders["bf16"] = stack.enter_context(ringpull(requests, precision="bfloat16"))
        else:
            report.absent("ours in bfloat16", NO_BF16, *BF16_KEYS.values())
        if (why := redis_server.missing()) is None:
            port, _ = stack.enter_context(redis_server.private_redis())
            redis_torch = baseline("redis_torch", requests, "--redis-port", str(port))
            contenders["redis_torch"] = stack.enter_context(redis_torch)
        else:
            report.absent("redis_torch", why, "e2e_vs_redis_torch")
        if find_spec("fastapi") is not None:
            contenders["ray_serve"] = stack.enter_context(baseline("ray_serve", requests))
        else:
            report.absent("ray_serve", "Ray Serve is not installed: pip install 'ringpull[bench]'", "e2e_vs_ray_serve")
        check_scores([each for name, each in contenders.items() if name != "bf16"], requests[0])
        check_scores([each for name, each in contenders.items() if name == "bf16"], requests[0], within=BF16_WITHIN)
        runs: dict[str, list[Run]] = {name: [] for name in contenders}
        loops = {name: _loop(contender, runs[name]) for name, contender in contenders.items()}
        bare = {in_setting("inprocess", setting): run for setting, run in in_process(requests).items()}
        samples = in_drawn_order({**bare, **loops}, rounds=ROUNDS)
    _report(report, samples, {name: each[1:] for name, each in runs.items()})


def _loop(contender: Contender, runs: list[Run]) -> Callable[[], float]:
    def samples_per_s() -> float:
        runs.append(contender.run())
        return runs[-1].calls_per_s * CANDIDATES

    return samples_per_s


def _report(report: Report, samples: Samples, runs: Mapping[str, Sequence[Run]]) -> None:
    """Report rates, tails and processor time, by the runs of each contender that has a server.

    A rival with several settings is compared in that with the highest rate, or with the least processor time.
    """
    samples, fastest = in_strongest_setting(samples)
    cpu_us, cheapest = in_strongest_setting(
        Samples({name: [run.server_cpu_per_call_s / CANDIDATES * 1e6 for run in each] for name, each in runs.items()}),
        least=True,
    )
    for what, settings in (("fastest", fastest), ("cheapest", cheapest)):
        for name, setting in settings.items():
            report.row(f"{what} setting of {name}", setting)
            report.key(f"{name}_{what}", setting)
    for name, key in RIVALS.items():
        if name in samples.values:
            report.compare("samples/s, one head", samples, ("ours", name), key=key)
    report.compare("samples/s, local reads off", samples, ("remote", "grpc_torch"), key="e2e_remote_vs_grpc_torch")
    for name, key in BF16_KEYS.items():
        if name in cpu_us.values and "bf16" in runs:
            report.compare("samples/s, one head, in bfloat16", samples, ("bf16", name), key=key)
        if name in cpu_us.values:
            what = "CPU us per sample, all that answers"
            report.compare(what, cpu_us, ("ours", name), key=f"cpu_vs_{name}", show=".1f")
    report.row("the same, local reads off", f"{cpu_us.median('remote'):.1f}")
    for name, each in runs.items():
        p50_ms, p99_ms = (median(run.percentile_ms(percent) for run in each) for percent in (50, 99))
        report.row(f"p50 / p99 at full load, {name}, ms", f"{p50_ms:.1f} / {p99_ms:.1f}")
    report.key("samples_per_s", samples.median("ours"))
    report.key("cpu_us_per_sample", cpu_us.median("ours"))


if __name__ == "__main__":
    main()
