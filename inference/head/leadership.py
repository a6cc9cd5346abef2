"""Whether somebody leads, as a head sees it: by when it last heard the coordinator.

Predictions go on without a coordinator, so a head that hears of none says so and serves: in its status, in the body of
`/healthz`, and in its metrics. What it hears are heartbeats that renew its lease. A map is no sign of a leader: any
thread of the coordinator's process hands that out, also while the one that leads stands still.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SILENT_S: Final = 3.0
"""Silence after which nobody leads: that of six heartbeats, so that operators hear of it within five seconds."""

CONSEQUENCE: Final = "predictions go on, but what dies does not come back and nothing can be changed meanwhile"


@dataclass(frozen=True, slots=True)
class LeaderView:
    """The coordinator as a head hears it."""

    term: int
    """Term of the coordinator whose map the head goes by; 0 before there is one."""
    heard_s: float
    """Seconds since it was heard; of one that never was, since the head started."""
    ever_heard: bool = True
    """Whether it was heard at all."""

    @property
    def leads(self) -> bool:
        """Whether somebody leads."""
        return self.ever_heard and self.heard_s <= SILENT_S

    @property
    def warning(self) -> str:
        """What an operator should know; empty while somebody leads."""
        if self.leads:
            return ""
        heard = f"was heard {self.heard_s:.0f} s ago" if self.ever_heard else "was not heard yet"
        return f"nobody leads: the coordinator {heard}; {CONSEQUENCE}"
