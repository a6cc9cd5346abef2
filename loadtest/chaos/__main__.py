"""`make chaos`: a deployment of its own under load from a client that knows every answer, while its processes are
killed, stopped, slowed and restarted, versions are published, and shards come and go.

    python -m ringpull.loadtest.chaos --seconds 60 --seed 7

The last line is JSON; the exit status is 0 when nothing was wrong and nothing failed that is promised not to.
"""

from __future__ import annotations

import argparse
import json
import sys

from rich.console import Console

from ringpull.inference.errors import RingpullError
from ringpull.loadtest.chaos.run import Options, run
from ringpull.loadtest.chaos.schedule import Kind


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m ringpull.loadtest.chaos", description=__doc__.split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="time of load, while events begin")
    parser.add_argument("--seed", type=int, default=7, help="seed of the schedule, the requests and their times")
    parser.add_argument("--rate", type=float, default=60.0, help="requests per second")
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--timeout", dest="timeout_s", type=float, default=10.0, help="deadline of a request, seconds")
    parser.add_argument("--overload-seconds", dest="overload_s", type=float, default=8.0, help="of overload; 0: none")
    parser.add_argument("--without", action="append", type=Kind, choices=list(Kind), default=[], help="repeatable")
    parser.add_argument("--only", action="append", type=Kind, choices=list(Kind), default=[], help="repeatable")
    parser.add_argument("--opened", action="store_true", help="shards open files in place: no --data-dir")
    parser.add_argument(
        "--pushes",
        choices=["auto", "on", "off"],
        default="auto",
        help="rows are pushed, and so not moved; auto: by seed",
    )
    console = Console(stderr=True)
    try:
        findings = run(Options(**vars(parser.parse_args())), console)
    except (RuntimeError, RingpullError) as exc:
        console.print(f"error: {exc}", style="red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(1)
    print(json.dumps(findings.last_line()), flush=True)
    sys.exit(0 if findings.good else 1)


if __name__ == "__main__":
    main()
