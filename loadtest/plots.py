"""The plots of reports, as PNG files. matplotlib is imported when the first one is drawn: it takes half a second."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ringpull.inference.errors import InvalidInput

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ringpull.loadtest.find_max import Trial
    from ringpull.loadtest.report import Moment

SIZE_INCHES: Final = (8.0, 4.5)
DOTS_PER_INCH: Final = 110


def plot_latency(path: Path, percents: Sequence[float], curve_ms: Sequence[float]) -> Path:
    """Draw latency over percentile; the axis stretches the tail, nine by nine."""
    figure, axes = _axes("percent of requests answered within", "ms")
    highest = max(percent for percent in percents if percent < 100)
    places = [_nines(min(percent, highest + (100 - highest) / 2)) for percent in percents]
    axes.plot(places, curve_ms)
    ticks = [0, 50, 90, 99, 99.9]
    axes.set_xticks([_nines(tick) for tick in ticks], [f"{tick:g}" for tick in ticks])
    _stretch(axes)
    return _save(figure, path)


def plot_timeline(path: Path, timeline: Sequence[Moment]) -> Path:
    """Draw requests and failures per second, and users where there are any, over time."""
    figure, axes = _axes("s", "requests/s")
    elapsed = [moment.elapsed_s for moment in timeline]
    axes.plot(elapsed, [moment.requests for moment in timeline], label="requests")
    axes.plot(elapsed, [moment.failures for moment in timeline], label="failures", color="tab:red")
    axes.set_ylim(bottom=0)
    axes.legend(loc="lower left")
    if any(moment.users is not None for moment in timeline):
        users = axes.twinx()
        users.step(elapsed, [moment.users or 0 for moment in timeline], where="post", color="tab:gray", linestyle="--")
        users.set_ylabel("users")
        users.set_ylim(bottom=0)
    return _save(figure, path)


def plot_stages(path: Path, stages_us: Mapping[str, Mapping[str, float]]) -> Path:
    """Draw median and 99th percentile of each stage, the first of a request's way at the top."""
    figure, axes = _axes("us", "")
    names = list(stages_us)[::-1]
    places = range(len(names))
    axes.barh([place + 0.2 for place in places], [stages_us[name]["p50"] for name in names], height=0.4, label="p50")
    axes.barh([place - 0.2 for place in places], [stages_us[name]["p99"] for name in names], height=0.4, label="p99")
    axes.set_yticks(places, names)
    axes.legend()
    return _save(figure, path)


def plot_rates(path: Path, trials: Sequence[Trial], *, bound_ms: float, found: float) -> Path:
    """Draw p50 and p99 of every trial over its rate, the bound and the highest rate that keeps it."""
    figure, axes = _axes("requests/s", "ms")
    rates = [trial.rate for trial in trials]
    axes.plot(rates, [trial.p50_ms for trial in trials], "o", label="p50", color="tab:blue", alpha=0.6)
    axes.plot(rates, [trial.p99_ms for trial in trials], "o", label="p99", color="tab:orange", alpha=0.6)
    axes.axhline(bound_ms, color="tab:red", linestyle="--", label=f"p99 bound, {bound_ms:g} ms")
    axes.axvline(found, color="tab:green", linestyle="--", label=f"found: {found:,.0f} requests/s")
    _stretch(axes)
    axes.legend()
    return _save(figure, path)


def _stretch(axes: Axes) -> None:
    """Make the y axis logarithmic, with numbers that people read: 10, 20, 50, 100."""
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:g}")


def _nines(percent: float) -> float:
    """The place of a percentile on the axis: 0, 1, 2, 3 for 0, 90, 99, 99.9."""
    return -math.log10(1 - percent / 100)


def _axes(x: str, y: str) -> tuple[Figure, Axes]:
    try:
        from matplotlib.figure import Figure as NewFigure
    except ModuleNotFoundError as exc:
        raise InvalidInput("plots need matplotlib: pip install 'ringpull[loadtest]'") from exc
    # A figure of its own, not pyplot's: no display, no global state, nothing to close.
    figure = NewFigure(figsize=SIZE_INCHES, dpi=DOTS_PER_INCH, layout="constrained")
    axes: Any = figure.subplots()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(visible=True, alpha=0.3)
    return figure, axes


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path)
    return path
