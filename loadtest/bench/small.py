"""Small requests: what a head answers when a request carries almost nothing, beside a server that does nothing.

The same 26 features, one candidate, 64 requests in flight on one channel, the load generator on the same cores. The
floor is a bare grpc.aio server that answers as many bytes, by itself, to messages of the same size.
"""

from __future__ import annotations

from collections.abc import Callable

import grpc

from ringpull.loadtest.bench import dlrm, load
from ringpull.loadtest.bench.deployment import PREDICT_METHOD, deployed
from ringpull.loadtest.bench.harness import QUICK, Report, interleave
from ringpull.loadtest.bench.model_folder import dlrm_folder
from ringpull.loadtest.bench.process import server
from ringpull.loadtest.bench.rivals import METHOD

ROWS = 10_000 if QUICK else 50_000
SHARDS = 2
IN_FLIGHT = 64
SECONDS = 2.0 if QUICK else 5.0
ROUNDS = 2 if QUICK else 5
REACH = "0.4"


def main() -> None:
    payloads = [dlrm.payload_of(request) for request in dlrm.make_requests(64, ROWS, candidates=1)]
    with deployed(dlrm_folder(ROWS), SHARDS) as ours:
        with grpc.insecure_channel(ours.target) as channel:
            reply_bytes = len(channel.unary_unary(PREDICT_METHOD)(payloads[0]))
        with server("ringpull.loadtest.bench.rivals.echo", "--reply-bytes", str(reply_bytes)) as (port, _):
            sizes = f"{len(payloads[0]):,} bytes there, {reply_bytes:,} back"
            report = Report(f"Small requests: 1 candidate, {IN_FLIGHT} in flight, {sizes}, requests/s")
            p99_ms: dict[str, list[float]] = {"ours": [], "echo": []}

            def rate(name: str, target: str, method: str) -> Callable[[], float]:
                def measure() -> float:
                    outcome = load.closed_loop(target, method, payloads, in_flight=IN_FLIGHT, seconds=SECONDS)
                    p99_ms[name].append(outcome.p99_ms)
                    return outcome.calls_per_s

                return measure

            contenders = {
                "ours": rate("ours", ours.target, PREDICT_METHOD),
                "echo": rate("echo", f"127.0.0.1:{port}", METHOD),
            }
            samples = interleave(contenders, rounds=ROUNDS)
    ratio = samples.ratio("ours", "echo")
    report.row("requests/s", f"{samples.median('ours'):,.0f}", f"echo {samples.median('echo'):,.0f}", ratio, REACH)
    report.row("p99, ms", f"{p99_ms['ours'][-1]:.1f}", f"echo {p99_ms['echo'][-1]:.1f}")
    report.key("small_requests_per_s", samples.median("ours"))
    report.key("small_vs_echo", ratio)
    report.finish()


if __name__ == "__main__":
    main()
