"""Admission of pulls to a shard, over all its connections: as many as it can answer in time, and hold.

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
from ringpull.ps.wire.ledger import Ledger

PULL_COST_BYTES: Final = 8192
"""Cost of a pull besides its arrays, in bytes of arrays: some 60 us of frames and threads, as for 1,000 keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionLimits:
    """Upper bounds on what one shard holds."""

    max_connections: Annotated[
        int, at_least(1), Option("Connections of one shard.", Group.LIMITS, name="max-shard-connections")
    ] = 1024
    """Connections open at a time; one more gets `LimitExceeded`, and is ended."""
    max_in_flight_bytes: Annotated[
        int,
        at_least(1),
        Option(
            "Bytes that one shard holds for its peers: of pulls that arrive or are in flight, and of replies that"
            " were not read.",
            Group.LIMITS,
            name="max-pull-bytes",
        ),
    ] = 256 << 20
    """Bytes of the pulls that arrive, wait or run, and of replies that were not read; a larger pull is admitted alone.
    See `ringpull.ps.wire.ledger`."""

    def __post_init__(self) -> None:
        check_bounds(self)


class Admission:
    """Admits pulls, or refuses them. Owned by the server's event loop."""

    def __init__(
        self,
        limits: AdmissionLimits,
        clock: Callable[[], float] = time.monotonic,
        *,
        ledger: Ledger | None = None,
        what: str = "pull",
    ) -> None:
        """Begin idle.

        Args:
            clock: Seconds; deadlines are on this clock.
            ledger: Ledger that it shares with another one; None: its own.
            what: What is admitted, as errors call it.
        """
        self.limits = limits
        self._clock = clock
        self._what = what
        self.ledger: Final = Ledger(limits.max_in_flight_bytes) if ledger is None else ledger
        self._rate = ServiceRate(clock)

    @property
    def idle(self) -> bool:
        """Whether no pull is in flight."""
        return self._rate.idle

    def scans(self) -> Admission:
        """Return the admission of scans, which wait for each other and not for pulls, within the same memory."""
        return Admission(self.limits, self._clock, ledger=self.ledger, what="scan")

    def begin(self, size: int, deadline_s: float, *, overhead: int = 0, cost: float | None = None) -> Work:
        """Admit a pull with arrays of `size` bytes; give what is returned to `end`.

        Args:
            overhead: Memory that it takes besides.
            cost: Its cost, if that is another one than its size says. Then it is refused also where it would itself
                take beyond its deadline.

        Raises:
            Unavailable: It would wait beyond its deadline, or there is no room for it.
        """
        if not self._rate.idle:
            left_s, wait_s = deadline_s - self._clock(), self._rate.wait_s(cost or 0.0)
            if 0.0 < left_s < wait_s:  # one past its deadline is answered so, by a thread
                raise Unavailable(
                    f"this shard is overloaded: a {self._what} waits {wait_s * 1e3:.1f} ms for others, and this one has"
                    f" {left_s * 1e3:.1f} ms left"
                )
        if not self.ledger.fits(size + overhead):
            raise self.no_room(size)
        self.ledger.requests += size + overhead
        return self._rate.begin(size + PULL_COST_BYTES + (cost or 0.0))

    def end(self, work: Work, size: int, *, served: bool, overhead: int = 0) -> None:
        """Note that a pull was answered, with rows or, not `served`, with an error."""
        self.ledger.requests -= size + overhead
        self._rate.end(work, served=served)

    def park(self, work: Work) -> Work:
        """Note that a pull waits for its own caller, and holds up no other; return the work to go on with."""
        return self._rate.reweigh(work, 0.0)

    def unpark(self, work: Work, size: int, *, cost: float = 0.0) -> Work:
        """Note that a parked pull waits for its turn again; return the work to go on with."""
        return self._rate.reweigh(work, size + PULL_COST_BYTES + cost)

    def no_room(self, size: int) -> Unavailable:
        """Return the error for a pull of this size for which there is no room."""
        held = self.ledger
        others = ""
        if held.receiving or held.replies:
            others = f" besides {held.receiving} bytes that arrive and {held.replies} of replies that were not read"
        return Unavailable(
            f"this shard is overloaded: pulls of {held.requests} bytes are in flight{others}, and this one has {size};"
            f" max_in_flight_bytes is {held.limit}"
        )
