"""Small requests: what a head answers when a request carries almost nothing, beside a server that does nothing.

The same 26 features, one candidate, 64 requests in flight on one connection, the load generator on the same cores. The
floor is a bare grpc.aio server that answers as many bytes, by itself, to messages of the same size.
"""

from __future__ import annotations

from collections.abc import Callable

from ringpull.loadtest.bench.asked_rates import PATIENT
from ringpull.loadtest.bench.dlrm_requests import payloads_of
from ringpull.loadtest.bench.e2e_contenders import echo_of
from ringpull.loadtest.bench.harness import QUICK, Report, interleave
from ringpull.loadtest.bench.load import Run, Server, one_reply
from ringpull.loadtest.deployment import deployed
from ringpull.loadtest.dlrm import dlrm_folder

ROWS = 10_000 if QUICK else 50_000
SHARDS = 2
IN_FLIGHT = 64
SECONDS = 2.0 if QUICK else 3.0
ROUNDS = 2 if QUICK else 5


def main() -> None:
    payloads = payloads_of(64, ROWS, candidates=1)
    last: dict[str, Run] = {}

    def rate(name: str, asked: Server) -> Callable[[], float]:
        def measure() -> float:
            last[name] = asked.closed_loop(payloads, in_flight=IN_FLIGHT, seconds=SECONDS)
            return last[name].calls_per_s

        return measure

    with deployed(dlrm_folder(ROWS), SHARDS, *PATIENT) as deployment:
        ours = Server(deployment.target)
        reply = one_reply(ours, payloads[0])
        with echo_of(reply) as echo:
            samples = interleave({"ours": rate("ours", ours), "echo": rate("echo", echo)}, rounds=ROUNDS)
    sizes = f"{len(payloads[0]):,} bytes there, {len(reply):,} back"
    report = Report(f"Small requests: 1 candidate, {IN_FLIGHT} in flight, {sizes}, requests/s")
    report.compare("requests/s", samples, ("ours", "echo"), key="small_vs_echo")
    report.row("p99, ms", f"{last['ours'].percentile_ms(99):.1f}", f"echo {last['echo'].percentile_ms(99):.1f}")
    report.key("small_requests_per_s", samples.median("ours"))
    report.finish()


if __name__ == "__main__":
    main()
