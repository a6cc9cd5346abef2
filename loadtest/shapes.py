"""Traffic shapes: how many users there are at a moment of a run. Pure functions of time.

| shape | users |
|---|---|
| `steady` | the peak, all the time |
| `step` | up in equal steps, the last of them the peak |
| `spike` | the base, then the peak for the middle fifth, then the base |
| `diurnal` | one day in the time of the run: from the base at night along a cosine to the peak at noon, and back |

Every shape ends with its run: a locust shape that never ends is a run that never exits, `--run-time` or not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, get_args

from ringpull.inference.errors import InvalidInput

ShapeName = Literal["steady", "step", "spike", "diurnal"]

SHAPES: Final[tuple[ShapeName, ...]] = get_args(ShapeName)
SPIKE: Final = (0.4, 0.6)
"""Shares of the run at which a spike begins and ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A shape with its measures."""

    name: ShapeName
    peak: int
    """Largest number of users, reached at some time."""
    seconds: float
    base: float = 0.2
    """Users at the quiet times of a spike or a day, as a share of the peak; at least one user."""
    steps: int = 5

    def __post_init__(self) -> None:
        if self.name not in SHAPES:
            raise InvalidInput(f"--shape {self.name}: must be one of {', '.join(SHAPES)}")
        if self.peak < 1 or self.steps < 1 or self.seconds <= 0 or not 0 <= self.base <= 1:
            raise InvalidInput(
                f"shape {self.name}: users ({self.peak}) and steps ({self.steps}) must be 1 or more, seconds"
                f" ({self.seconds}) above 0, the base ({self.base}) from 0 to 1"
            )

    def users_at(self, elapsed_s: float) -> int | None:
        """Return the users at a time since the start; None when the run is over."""
        if elapsed_s >= self.seconds:
            return None
        done = max(elapsed_s, 0.0) / self.seconds
        match self.name:
            case "steady":
                share = 1.0
            case "step":
                share = (math.floor(done * self.steps) + 1) / self.steps
            case "spike":
                share = 1.0 if SPIKE[0] <= done < SPIKE[1] else self.base
            case "diurnal":
                share = self.base + (1 - self.base) * (1 - math.cos(2 * math.pi * done)) / 2
        return max(1, round(self.peak * share))
