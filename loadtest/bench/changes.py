"""Changes under load, as `make rebalance-check` makes them: what the p99 is while shards, copies and versions change.

Every prediction is checked there; one that failed or was wrong ends the bench, whose figure would then say nothing.
"""

from __future__ import annotations

from typing import Any, Final

from rich.console import Console

from ringpull.loadtest.bench.harness import Report
from ringpull.loadtest.chaos import rebalance_check

KEYS: Final = ("p99_during_vs_before", "p99_during_ms", "p99_before_ms", "moved_vs_least")


def main() -> None:
    report = Report("Shards, copies and versions change under load; every prediction is checked")
    tell(report, rebalance_check.run(Console(stderr=True)))
    report.finish()


def tell(report: Report, line: dict[str, Any]) -> None:
    """Report the last line of `make rebalance-check`.

    Raises:
        RuntimeError: A request failed, or its scores were wrong.
    """
    if line["failed"] or line["wrong"]:
        raise RuntimeError(f"{line['failed']} of {line['predicts']:,} requests failed, {line['wrong']} were wrong")
    report.row(
        f"p99 while something changes, ms; {line['predicts']:,} requests",
        f"{line['p99_during_ms']:.1f}",
        f"calm before each change {line['p99_before_ms']:.1f}",
        line["p99_during_vs_before"],
        key=KEYS[0],
    )
    for key in KEYS[1:]:
        report.key(key, line[key])


if __name__ == "__main__":
    main()
