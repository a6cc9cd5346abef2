"""Calls that are begun in time or not at all: whoever has given up waiting must not see them carried out later.

A call may lie in a queue while its process is stopped, busy or restarted. Clocks of two machines cannot be compared; so
the caller first asks for the time of the process that it will call, which also tells which life of the process that is,
and sends it along. The process compares it with its own clock before it begins.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from ringpull.ps.errors import Unavailable


def seconds_since_boot() -> float:
    """Return the seconds since any origin, those included in which the machine was suspended, where that is known."""
    return time.clock_gettime(_CLOCK)


_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


@dataclass(frozen=True, slots=True)
class Ticket:
    """A moment in the life of a process."""

    life: str
    at_s: float


@dataclass(frozen=True, slots=True)
class Clock:
    """Clock of this process, which gives tickets and knows them again."""

    clock: Callable[[], float] = seconds_since_boot
    life: str = field(default_factory=lambda: secrets.token_hex(8))

    def ticket(self) -> Ticket:
        """Return a ticket of now."""
        return Ticket(self.life, self.clock())

    def left_s(self, ticket: Ticket, within_s: float) -> float:
        """Return what is left of a call's time.

        Args:
            ticket: The moment from which its time counts.
            within_s: Its time.

        Raises:
            Unavailable: Nothing is left, or another life of this process gave the ticket.
        """
        if ticket.life != self.life:
            raise Unavailable("the process was restarted meanwhile; nothing was begun")
        left_s = ticket.at_s + within_s - self.clock()
        if left_s <= 0:
            raise Unavailable(f"the request came {-left_s:.1f} s too late; nothing was begun")
        return left_s
