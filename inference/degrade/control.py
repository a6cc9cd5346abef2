"""Level of degradation of a version: it follows a head's pressure, with hysteresis. Pure: it is told the time.

Pressure is 0 when a head is idle and 1 when a request just gets done in its time (`Admission.pressure`); it is smoothed
first, so that one batch is no overload.

Invariants:
- The level changes by one step at a time, and stays within 0 and the number of steps.
- It rises only after the smoothed pressure was over `high` for `up_s`, and falls only after it was under `low` for
  `down_s`, counted anew from every change. Between `low` and `high` it stays.
- More pressure at the same moments never means a lower level.

Taking steps makes pressure fall, which is no reason to give them back at once: `low` lies far below `high`, and
`down_s` is long. So a load that full quality cannot bear costs one try in `down_s`, not a level that flickers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

from ringpull.ps.errors import InvalidInput

MAX_PRESSURE: Final = 2.0
"""Upper bound on the pressure that counts, so that smoothing forgets any overload within a few `smoothing_s`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """Bounds of the pressure, and times, by which a head takes degrade steps and gives them back."""

    high: float = 0.5
    low: float = 0.2
    up_s: float = 0.25
    down_s: float = 3.0
    smoothing_s: float = 0.25
    """Time constant of the smoothing; 0: none."""

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high:
            raise InvalidInput(f"degrade_low is {self.low}, degrade_high {self.high}; they must be 0 < low < high")
        if not self.high < MAX_PRESSURE:
            raise InvalidInput(
                f"degrade_high is {self.high}; it must be under {MAX_PRESSURE}: no pressure counts as more"
            )
        for name in ("up_s", "down_s", "smoothing_s"):
            if not getattr(self, name) >= 0:
                raise InvalidInput(f"degrade_{name} is {getattr(self, name)}; it must be 0 or more seconds")


_Zone = Literal["low", "between", "high"]


class LevelControl:
    """The level, moved by what is observed."""

    def __init__(self, steps: int, thresholds: Thresholds | None = None) -> None:
        """Begin at level 0 and no pressure; the level is never over `steps`."""
        self._steps = steps
        self._thresholds = thresholds or Thresholds()
        self._observed_s: float | None = None
        self._zone: _Zone = "low"
        self._since_s = 0.0
        self.level = 0
        self.pressure = 0.0
        """Smoothed pressure."""

    def __repr__(self) -> str:
        return f"<LevelControl {self.level} of {self._steps}, pressure {self.pressure:.2f}>"

    def observe(self, pressure: float, now_s: float) -> int:
        """Take note of the pressure at a time, not before those observed so far; return the level from now on."""
        kept = 1.0
        if self._observed_s is None:
            self._since_s = now_s
        else:
            passed_s = max(0.0, now_s - self._observed_s)
            smoothing_s = self._thresholds.smoothing_s
            kept = math.exp(-passed_s / smoothing_s) if smoothing_s else 0.0
        self._observed_s = now_s
        # Not max and min alone: they let NaN pass, which would stay for ever.
        bounded = min(pressure, MAX_PRESSURE) if pressure > 0 else 0.0
        self.pressure = kept * self.pressure + (1 - kept) * bounded
        self._move(now_s)
        return self.level

    def _move(self, now_s: float) -> None:
        limits = self._thresholds
        zone: _Zone = "high" if self.pressure > limits.high else "low" if self.pressure < limits.low else "between"
        if zone != self._zone:
            self._zone, self._since_s = zone, now_s
        lasted_s = now_s - self._since_s
        if zone == "high" and self.level < self._steps and lasted_s >= limits.up_s:
            self.level, self._since_s = self.level + 1, now_s
        elif zone == "low" and self.level > 0 and lasted_s >= limits.down_s:
            self.level, self._since_s = self.level - 1, now_s
