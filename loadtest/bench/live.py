"""Live data: pushes and delta versions, all of it in one run.

    python -m ringpull.loadtest.bench.live [PART ...]               pushes, predictions, deltas, replay, lookups
    python -m ringpull.loadtest.bench.live --soak [--log-limit BYTES] [--rows-per-s R]

Each part is a module of its own and runs by itself, too: `live_pushes`, `live_delta`, `live_replay`, `live_lookup`,
`live_soak`. Everything is on loopback, and ends with the bench.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Final

from ringpull.loadtest.bench import live_delta, live_lookup, live_pushes, live_replay, live_soak
from ringpull.loadtest.bench.harness import QUICK, Report

PARTS: Final[Mapping[str, Callable[[Report], None]]] = {
    "pushes": live_pushes.measure,
    "deltas": live_delta.measure,
    "replay": live_replay.measure,
    "lookups": live_lookup.measure,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m ringpull.loadtest.bench.live", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; none: all of them")
    parser.add_argument("--soak", action="store_true", help="push until ten times the log's limit is written, instead")
    limit = live_soak.QUICK_LIMIT if QUICK else live_soak.LIMIT
    parser.add_argument("--log-limit", type=int, default=limit, metavar="BYTES", help=f"of a soak; default {limit}")
    rate = live_soak.ROWS_PER_S
    parser.add_argument("--rows-per-s", type=float, default=rate, metavar="R", help="of a soak; 0: as fast as it goes")
    given = parser.parse_args()
    if unknown := set(given.parts) - PARTS.keys():
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if given.soak:
        report = Report(f"A soak of pushes, until {live_soak.TIMES_LIMIT} times the log's limit is written")
        live_soak.measure(report, given.log_limit, given.rows_per_s)
    else:
        report = Report("Live data: pushes, delta versions, restarts, look-ups")
        for part in given.parts or PARTS:
            PARTS[part](report)
    report.finish()


if __name__ == "__main__":
    main()
