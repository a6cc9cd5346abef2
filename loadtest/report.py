"""The report of a run: `report.md` with percentiles and plots, and `summary.json` with the same numbers for programs.

A `Summary` holds everything that is written; both load tools make one. Times are milliseconds, stages microseconds.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from ringpull.inference.client.client import Client
from ringpull.inference.errors import RingpullError
from ringpull.loadtest.latencies import PERCENTILES, STAGES, Latencies, curve, milliseconds
from ringpull.loadtest.plots import plot_latency, plot_stages, plot_timeline

logger = logging.getLogger(__name__)

REPORT_FILE: Final = "report.md"
SUMMARY_FILE: Final = "summary.json"

NINES: Final = (
    *range(0, 90, 5),
    *(90 + step / 2 for step in range(18)),
    *(99 + step / 20 for step in range(18)),
    *(99.9 + step / 200 for step in range(20)),
    100,
)
"""Percentiles at which the latency curve is drawn: closer together towards the tail."""


@dataclass(frozen=True, slots=True)
class Moment:
    """The traffic of one second."""

    elapsed_s: float
    requests: int
    failures: int
    users: int | None = None
    """Largest number of users at any time of it; None: an open loop has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A finished run."""

    tool: str
    """Name of the tool: locust, or open loop."""
    target: str
    model: str
    started: str
    """Time of the start, ISO 8601, UTC."""
    seconds: float
    """Time from the first request to the last answer."""
    requests: int
    failures: int
    server_requests: int | None
    """Requests that the server counted meanwhile, from whomever; None when it could not be asked."""
    unknown_share: float | None
    """Share of the ids looked up meanwhile that no table had, by the server's count."""
    percentiles_ms: Mapping[str, float]
    stages_us: Mapping[str, Mapping[str, float]]
    """Figures by stage: p50, p99, mean."""
    errors: Mapping[str, int]
    settings: Mapping[str, Any]
    """Options of the run: shape, users, rate, the workload's."""
    timeline: Sequence[Moment] = ()
    warnings: Sequence[str] = ()
    curve_ms: Sequence[float] = field(default=())
    """Latencies at the percentiles of `NINES`."""

    @property
    def rps(self) -> float:
        return self.requests / self.seconds if self.seconds else 0.0

    @property
    def line(self) -> dict[str, Any]:
        """The figures of one line."""
        return {
            "requests": self.requests,
            "failures": self.failures,
            "rps": round(self.rps, 1),
            "p50_ms": self.percentiles_ms["50"],
            "p99_ms": self.percentiles_ms["99"],
        }


@dataclass(frozen=True, slots=True)
class ServerCounts:
    """The server's own counters at one moment, to hold a tool's count against."""

    requests: int
    keys: int
    missing: int

    @classmethod
    def ask(cls, client: Client, model: str) -> ServerCounts | None:
        """Return the counters now, keys and missing ones of the model's tables; None when the server does not tell."""
        try:
            status = client.status()
        except RingpullError as exc:
            logger.warning("the server's own counts are left out: %s", exc)
            return None
        tables = [table for table in status.tables if table.model == model]
        return cls(status.requests, sum(table.keys for table in tables), sum(table.missing for table in tables))


def summarize(
    latencies: Latencies,
    *,
    before: ServerCounts | None,
    after: ServerCounts | None,
    started_s: float,
    **fields: Any,
) -> Summary:
    """Return the summary of a run.

    Args:
        started_s: Unix time.
        fields: The other fields of `Summary`.
    """
    asked = after.keys - before.keys if before and after else 0
    return Summary(
        started=datetime.fromtimestamp(started_s, UTC).isoformat(timespec="seconds"),
        requests=latencies.requests,
        failures=latencies.failures,
        server_requests=after.requests - before.requests if before and after else None,
        unknown_share=round((after.missing - before.missing) / asked, 6) if before and after and asked else None,
        percentiles_ms={f"{percent:g}": round(latencies.percentile_ms(percent), 3) for percent in PERCENTILES},
        stages_us={
            name: {
                "p50": milliseconds(histogram, 50) * 1000,
                "p99": milliseconds(histogram, 99) * 1000,
                "mean": round(histogram.get_mean_value(), 1),
            }
            for name in STAGES
            if (histogram := latencies.stages[name]).get_total_count()
        },
        errors=dict(latencies.errors),
        curve_ms=curve(latencies.latency, NINES),
        **fields,
    )


def write_report(folder: Path, summary: Summary) -> Path:
    """Write `report.md`, its plots and `summary.json` into a folder, made if it is not there; return the report."""
    folder.mkdir(parents=True, exist_ok=True)
    plots = []
    if summary.requests:
        plots.append(plot_latency(folder / "latency.png", NINES, summary.curve_ms))
    if len(summary.timeline) > 1:
        plots.append(plot_timeline(folder / "timeline.png", summary.timeline))
    if summary.stages_us:
        plots.append(plot_stages(folder / "stages.png", summary.stages_us))
    (folder / SUMMARY_FILE).write_text(json.dumps({**asdict(summary), **summary.line}, indent=1), encoding="utf-8")
    report = folder / REPORT_FILE
    report.write_text(_markdown(summary, plots), encoding="utf-8")
    return report


def _markdown(summary: Summary, plots: Sequence[Path]) -> str:
    counted = "not asked" if summary.server_requests is None else f"{summary.server_requests:,}"
    unknown = "not counted" if summary.unknown_share is None else f"{summary.unknown_share:.2%}"
    lines = [
        f"# {summary.model}: {summary.requests:,} requests, {summary.rps:,.1f} a second",
        "",
        f"{summary.tool} against {summary.target}, {summary.started}, {summary.seconds:.1f} s.",
        "",
        *(f"**Warning:** {warning}\n" for warning in summary.warnings),
        "| what | figure |",
        "|---|---|",
        f"| requests | {summary.requests:,} |",
        f"| failures | {summary.failures:,} |",
        f"| requests by the server's count | {counted} |",
        f"| ids that no table had | {unknown} |",
        f"| requests/s | {summary.rps:,.1f} |",
        "",
        "## Latency",
        "",
        "| percent | ms |",
        "|---|---|",
        *(f"| {percent} | {value:,.3f} |" for percent, value in summary.percentiles_ms.items()),
        "",
    ]
    if summary.stages_us:
        lines += [
            "## Stages, by the server's timings",
            "",
            "| stage | p50, us | p99, us | mean, us |",
            "|---|---|---|---|",
            *(
                f"| {name} | {stage['p50']:,.0f} | {stage['p99']:,.0f} | {stage['mean']:,.0f} |"
                for name, stage in summary.stages_us.items()
            ),
            "",
        ]
    if summary.errors:
        lines += ["## Failures", "", "| how many | why |", "|---|---|"]
        lines += [f"| {count:,} | {_cell(why)} |" for why, count in summary.errors.items()]
        lines.append("")
    lines += [f"![{plot.stem}]({plot.name})\n" for plot in plots]
    lines += ["## Settings", "", "| setting | value |", "|---|---|"]
    lines += [f"| {name} | {_cell(str(value))} |" for name, value in summary.settings.items()]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
