"""The harness of every bench: contenders interleaved in one run, medians and ratios, one last line of JSON.

These machines are shared and drift: two numbers are only compared when they were taken in turns, A B A B, and the
ratio is taken pair by pair before its median. Absolute figures carry the machine, the date and the commit that they
were taken on.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ringpull.loadtest.bench.targets import reach_of

QUICK = os.environ.get("QUICK") == "1"
"""Fewer rows, fewer rounds: a smoke test of the bench, not a measurement to quote."""


def machine() -> dict[str, Any]:
    """Return what a reader needs to place a figure: processor, cores, command, date, commit."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "command": " ".join(["python -m", _module_name(), *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": _commit(),
        "quick": QUICK,
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def _module_name() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if spec is not None else Path(sys.argv[0]).name


def _commit() -> str:
    here = Path(__file__).parent
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, encoding="utf-8", check=False
    )
    return found.stdout.strip() or "unknown"


@dataclass(frozen=True, slots=True)
class Samples:
    """One figure per contender and round, taken in turns."""

    values: Mapping[str, list[float]]

    def median(self, name: str) -> float:
        return statistics.median(self.values[name])

    def ratio(self, name: str, base: str) -> float:
        """Return the median over rounds of name / base, pair by pair."""
        return statistics.median(a / b for a, b in zip(self.values[name], self.values[base], strict=True))


def interleave(contenders: Mapping[str, Callable[[], float]], *, rounds: int) -> Samples:
    """Run each contender once unmeasured, then all of them in turns, `rounds` times; a contender returns its figure."""
    for run in contenders.values():
        run()
    values: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            values[name].append(run())
    return Samples(values)


def rate(run: Callable[[int], object], turns: int, count: float) -> Callable[[], float]:
    """Return a contender that gives things per second: `turns` turns of `count` things each."""

    def measure() -> float:
        begin = time.perf_counter()
        for turn in range(turns):
            run(turn)
        return turns * count / (time.perf_counter() - begin)

    return measure


class Report:
    """Rows for people while it runs, and the keys for scripts on the last line."""

    def __init__(self, title: str) -> None:
        self._console = Console(width=140)
        self._title = title
        self._table = Table()
        for column in ("what", "figure", "against", "ratio", "reach"):
            self._table.add_column(column, justify="left" if column in ("what", "against") else "right")
        self._keys: dict[str, Any] = {}

    def row(
        self, what: str, figure: str, against: str = "", ratio: float | None = None, reach: str = "", *, key: str = ""
    ) -> None:
        """Add a row.

        Args:
            key: Key of the last line that the ratio is; its bound, where it has one, is the reach.
        """
        if key:
            self.key(key, ratio)
        shown = "" if ratio is None else f"{ratio:.2f}"
        self._table.add_row(*map(escape, (what, figure, against, shown, reach or reach_of(key))))

    def compare(
        self, what: str, samples: Samples, names: tuple[str, str], *, key: str, show: str = ",.0f", unit: float = 1.0
    ) -> None:
        """Add a row of two contenders' medians and the ratio of the first to the second.

        Args:
            show: Format of a figure.
            unit: What a figure is divided by.
        """
        name, base = names
        figure, other = (format(samples.median(each) / unit, show) for each in names)
        self.row(what, figure, f"{base} {other}", samples.ratio(name, base), key=key)

    def key(self, name: str, value: Any) -> None:
        if isinstance(value, float):
            value = round(value, 4) if abs(value) >= 0.01 else float(f"{value:.2g}")  # a difference may be 1e-7
        self._keys[name] = value

    def absent(self, what: str, why: str, *keys: str) -> None:
        """Say that something was not measured, and why; its keys are null."""
        self.row(what, "-", why)
        for name in keys:
            self.key(name, None)

    @contextmanager
    def part(self, what: str, *keys: str) -> Iterator[None]:
        """Part of a bench whose failure costs the other parts nothing: it is said, and its keys are null."""
        try:
            yield
        except RuntimeError as exc:
            self.absent(what, f"failed: {exc}", *keys)

    def finish(self) -> dict[str, Any]:
        """Print the table, then one line of JSON: the keys and the machine. Returns the keys."""
        self._console.print(self._title, style="bold", highlight=False)
        self._console.print(self._table)
        print(json.dumps({**self._keys, "machine": machine()}), flush=True)
        return self._keys
