"""What a shard takes in of pulls, over all its connections: as much as it can answer in time, and hold.

A pull that would wait for others beyond its own time is refused at once, and so is one for which there is no room: as
Unavailable, so that its router asks another owner while there is time. A shard that has nothing to do refuses nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Final

from ringpull.ps.errors import Unavailable
from ringpull.ps.service_rate import ServiceRate, Work
from ringpull.ps.settings import Group, Option, at_least, check_bounds

PULL_COST_BYTES: Final = 8192
"""What a pull costs besides its arrays, in bytes of them: some 60 us of frames and threads, as for 1,000 keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IntakeLimits:
    """What one shard holds at most."""

    max_connections: Annotated[
        int, at_least(1), Option("Connections of one shard.", Group.LIMITS, name="max-shard-connections")
    ] = 1024
    """Open at a time; one more is told so, and ended."""
    max_in_flight_bytes: Annotated[
        int,
        at_least(1),
        Option("Bytes of the pulls that one shard has in flight.", Group.LIMITS, name="max-pull-bytes"),
    ] = 256 << 20
    """Arrays of the pulls that wait or run; a larger pull is taken alone."""

    def __post_init__(self) -> None:
        check_bounds(self)


class Intake:
    """Lets pulls in, or refuses them. Owned by the server's event loop."""

    def __init__(self, limits: IntakeLimits, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin idle.

        Args:
            clock: Seconds; deadlines are on this clock.
        """
        self.limits = limits
        self._clock = clock
        self._rate = ServiceRate(clock)
        self._bytes = 0

    def begin(self, size: int, deadline_s: float) -> Work:
        """Let in a pull with arrays of `size` bytes; what is returned is to be given to `end`.

        Raises:
            Unavailable: It would wait beyond its deadline, or there is no room for it.
        """
        if not self._rate.idle:
            left_s, wait_s = deadline_s - self._clock(), self._rate.wait_s()
            if 0.0 < left_s < wait_s:  # what is late already is told so, by a thread
                raise Unavailable(
                    f"this shard is overloaded: a pull waits {wait_s * 1e3:.1f} ms for others, and this one has"
                    f" {left_s * 1e3:.1f} ms left"
                )
            if self._bytes + size > self.limits.max_in_flight_bytes:
                raise Unavailable(
                    f"this shard is overloaded: pulls of {self._bytes} bytes are in flight, and this one has {size};"
                    f" max_in_flight_bytes is {self.limits.max_in_flight_bytes}"
                )
        self._bytes += size
        return self._rate.begin(size + PULL_COST_BYTES)

    def end(self, work: Work, size: int, *, served: bool) -> None:
        """Note that a pull was answered, with rows or, not `served`, with an error."""
        self._bytes -= size
        self._rate.end(work, served=served)
