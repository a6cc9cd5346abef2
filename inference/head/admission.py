"""Admission: whether a request can be answered in its time, decided before its bytes are received.

What is in flight, over the rate at which it is being answered, is how long a new request waits
(`ringpull.ps.service_rate`). A request is refused

- when the queue is longer than any request shall wait: `max_queue_s` for a burst, `standing_queue_s` once there has
  been a queue all the while for longer than a burst takes. A queue that stands makes every answer late and none more.
  But `STANDING_FEW` requests may always stand, up to `max_queue_s`: so few may be callers who wait for each answer,
  and on a machine that is slow for a while cutting their queue would end no overload, only fail their calls;
- when its own deadline comes before its turn, by as much as such predictions usually err;
- when the bytes in flight would be more than `max_in_flight_bytes`.

Until its length is known, a request counts as much as requests of late: those that are being received are work, too,
and enough of them are an overload of their own. With its length it is judged again. One whose message is overdue, or
whose sender is not counted on, is set aside (`ringpull.inference.head.receiving`): until it comes it is no work, and
only its bytes count. A call that ends without having brought a request is taken back as if it had never been: it was no
work that anybody waited for, and proves no rate.

Top-k wait for each other and for no prediction, and no prediction for them (`Admission.scans`): shards look at rows for
as long as a table is large, and a head waits meanwhile. They have a rate of their own, and the bytes in common.

An idle head refuses nothing: who asks alone is tried. A refusal says when to ask again: when what is here now will
have been answered.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import Final

from ringpull.ps.errors import LimitExceeded
from ringpull.ps.service_rate import ServiceRate, Work

REQUEST_COST_BYTES: Final = 4096
"""Cost of a request besides its own bytes: gRPC and head take some 0.3 ms for any, as long as for so many bytes."""
MARGIN: Final = 2.0
"""Mean deviations that a prediction is taken to be short by."""
WEIGHT: Final = 0.05
"""Weight of the newest sample in the moving averages of deviations, lengths and times that requests may wait."""
ASIDE_SHARE: Final = 0.5
"""Part of `max_in_flight_bytes` that requests which are set aside take at most: who sends nothing fills no head."""
STANDING_LONE: Final = 8.0
"""Lone requests' worth of queue that may stand, if that is more: slow models have large batches."""
STANDING_FEW: Final = 16
"""Number of requests that may stand, if they take longer than that."""
MIN_HINT_S: Final = 0.001
"""Shortest hint: one of no time at all would have the whole crowd back at once."""


class Ticket:
    """A request that was let in; a context manager that notes when it leaves, and how."""

    __slots__ = ("_admission", "deadline_s", "is_here", "nbytes", "predicted_s", "work")

    def __init__(self, admission: Admission, work: Work, nbytes: int, predicted_s: float, deadline_s: float) -> None:
        """Hold what `Admission` notes of the request; the attributes are its own."""
        self._admission = admission
        self.work: Work | None = work
        """Its work; None: it is set aside."""
        self.nbytes = nbytes
        self.predicted_s = predicted_s
        self.deadline_s = deadline_s
        self.is_here = False
        """Whether its message is."""

    def received(self, nbytes: int) -> None:
        """Note how long the request is.

        Raises:
            LimitExceeded: It cannot be answered in time, or there is no room for it, now that this is known.
        """
        self._admission._weigh(self, nbytes)

    def take_room(self, nbytes: int) -> None:
        """Take room for so many bytes more, of its reply; to be called after `received`.

        Raises:
            LimitExceeded: There is no room for them now.
        """
        self._admission._take_room(self, nbytes)

    def take_work(self, cost: float) -> None:
        """Note that the request is more work than its bytes say; to be called after `received`.

        Args:
            cost: Cost besides, in bytes of requests that take as long.

        Raises:
            LimitExceeded: It cannot be answered in time, now that this is known.
        """
        self._admission._take_work(self, cost)

    def set_aside(self) -> None:
        """Note that its message is overdue; to be called before `received`, if at all."""
        self._admission._set_aside(self)

    def done(self, *, served: bool = True, missed: bool = False, brought: bool = True) -> None:
        """Note that the request was answered, or, not `served`, that it ended otherwise. To be called once.

        Args:
            missed: It ended as its deadline was missed, though perhaps a moment before that by this clock.
            brought: Whether its message, if that has come, was a request.
        """
        self._admission._leave(self, served, missed, brought=served or (brought and self.is_here))

    def __enter__(self) -> Ticket:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.done(served=kind is None)


@dataclass(slots=True)
class _Shared:
    """Account of what all requests of a head have in common, whatever they wait for."""

    nbytes: int = 0
    """Bytes of requests in flight, but those that are set aside."""
    aside: int = 0
    """Bytes of those."""
    refused: int = 0


class Admission:
    """Lets requests in, or refuses them. Owned by the event loop."""

    def __init__(
        self,
        *,
        max_queue_s: float,
        standing_queue_s: float,
        max_in_flight_bytes: int,
        clock: Callable[[], float] = time.monotonic,
        shared: _Shared | None = None,
    ) -> None:
        """Begin idle, and knowing nothing: until a rate is learnt, only bytes are limited.

        Args:
            max_queue_s: The longest queue of a burst, and how long a queue may be there before it is one that stands.
            standing_queue_s: The longest queue that stands.
            max_in_flight_bytes: Bytes of all requests in flight; a larger one is taken alone.
            clock: Seconds; deadlines are on this clock.
            shared: Account that it shares with another one; None: its own.
        """
        self._max_queue_s = max_queue_s
        self._standing_queue_s = standing_queue_s
        self._max_in_flight_bytes = max_in_flight_bytes
        self._clock = clock
        self._rate = ServiceRate(clock)
        self._shared = _Shared() if shared is None else shared
        self._mean_bytes = 0.0
        """Moving average of the lengths of requests."""
        self._unqueued_s = -math.inf
        """Time at which there was no queue the last time."""
        self._deviation_s = 0.0
        self._allowed_s = max_queue_s
        """Moving average of the time that requests could wait for others, by their deadlines."""

    def __repr__(self) -> str:
        state = f"pressure {self.pressure():.2f}, {self.in_flight_bytes} bytes in flight, {self.refused} refused"
        return f"<Admission {state}>"

    @cached_property
    def scans(self) -> Admission:
        """Admission of requests whose rows shards look at, within the same bytes."""
        return Admission(
            max_queue_s=self._max_queue_s,
            standing_queue_s=self._standing_queue_s,
            max_in_flight_bytes=self._max_in_flight_bytes,
            clock=self._clock,
            shared=self._shared,
        )

    @property
    def refused(self) -> int:
        """Requests refused since start, scans among them."""
        return self._shared.refused

    @property
    def in_flight(self) -> int:
        """Requests that were let in and have not left, but those that are set aside."""
        return self._rate.count

    @property
    def in_flight_bytes(self) -> int:
        """Bytes of the requests that were let in and have not left."""
        return self._shared.nbytes + self._shared.aside

    def queue_s(self) -> float:
        """Return how long a request that comes now is predicted to wait for others."""
        return self._rate.queue_s()

    def pressure(self) -> float:
        """Return the predicted time in the queue over the time a request may take there; from 1.0 on some are refused.

        Of bytes in flight likewise: the larger of the two.
        """
        allowed_s = min(self._longest_s(self._clock()), self._allowed_s)
        return max(self.queue_s() / allowed_s, self._shared.nbytes / self._max_in_flight_bytes)

    def expect(self, deadline_s: float) -> Ticket:
        """Let a request in whose length is not known yet; `Ticket.received` is to be told it.

        Args:
            deadline_s: Absolute, on the clock.

        Raises:
            LimitExceeded: It cannot be answered in time, or there is no room for it. `retry_after_s` is set.
        """
        wait_s = self.queue_s()
        longest_s = self._longest_s(self._clock(), wait_s)
        if wait_s > longest_s:
            raise self._refusal(f"requests wait {_ms(wait_s)} ms here; the most is {_ms(longest_s)} ms")
        nbytes = round(self._mean_bytes)
        cost = nbytes + REQUEST_COST_BYTES
        predicted_s = max(self._rate.lone_s, self._rate.wait_s(cost))
        if not self._rate.idle:
            self._refuse_hopeless(predicted_s, deadline_s)
            self._refuse_large(nbytes, self._held_bytes())
        self._shared.nbytes += nbytes
        return Ticket(self, self._rate.begin(cost), nbytes, predicted_s, deadline_s)

    def _weigh(self, ticket: Ticket, nbytes: int) -> None:
        ticket.is_here = True
        self._mean_bytes += WEIGHT * (nbytes - self._mean_bytes)
        cost = nbytes + REQUEST_COST_BYTES
        if ticket.work is None:
            work = self._take_back(ticket, cost)
        else:
            ticket.predicted_s += (nbytes - ticket.nbytes) / self._rate.rate
            work = self._rate.reweigh(ticket.work, cost)
        self._shared.nbytes += nbytes - ticket.nbytes
        ticket.work, ticket.nbytes = work, nbytes
        if not work.lone:
            self._refuse_late(ticket, work)
            self._refuse_large(nbytes, self._held_bytes() - nbytes)

    def _take_work(self, ticket: Ticket, cost: float) -> None:
        assert ticket.work is not None
        ticket.predicted_s += cost / self._rate.rate
        ticket.work = self._rate.reweigh(ticket.work, ticket.work.cost + cost)
        if not ticket.work.lone:
            self._refuse_late(ticket, ticket.work)

    def _take_room(self, ticket: Ticket, nbytes: int) -> None:
        if ticket.work is None or not ticket.work.lone:
            self._refuse_large(ticket.nbytes + nbytes, self._held_bytes() - ticket.nbytes)
        ticket.nbytes += nbytes
        self._shared.nbytes += nbytes

    def _set_aside(self, ticket: Ticket) -> None:
        if ticket.work is not None:
            self._rate.withdraw(ticket.work)
            ticket.work = None
            self._shared.nbytes -= ticket.nbytes
            self._shared.aside += ticket.nbytes
            self._longest_s(self._clock())

    def _take_back(self, ticket: Ticket, cost: float) -> Work:
        """Return the work of a request that was set aside, and has come."""
        self._shared.aside -= ticket.nbytes
        self._shared.nbytes += ticket.nbytes
        ticket.predicted_s = max(self._rate.lone_s, self._rate.wait_s(cost))
        return self._rate.begin(cost)

    def _held_bytes(self) -> int:
        """Return the bytes for which there is no room any more."""
        return self._shared.nbytes + min(self._shared.aside, int(ASIDE_SHARE * self._max_in_flight_bytes))

    def _refuse_late(self, ticket: Ticket, work: Work) -> None:
        """Refuse a request that is here, and would be answered after its deadline."""
        min_s = max(self._rate.lone_s, work.cost / self._rate.rate)
        here_s = self._clock() - work.began_s
        self._refuse_hopeless(max(min_s, ticket.predicted_s - here_s), ticket.deadline_s)

    def _refuse_hopeless(self, predicted_s: float, deadline_s: float) -> None:
        """Refuse what would be answered after its deadline."""
        left_s = deadline_s - self._clock()
        # However wrong predictions were of late, twice the time is enough: after a fault they are all wrong.
        late_s = min(MARGIN * self._deviation_s, predicted_s)
        self._allow(left_s - late_s - self._rate.lone_s)
        if predicted_s + late_s > left_s:
            raise self._refusal(
                f"the answer would take {_ms(predicted_s + late_s)} ms; the request has {_ms(left_s)} ms left"
            )

    def _refuse_large(self, nbytes: int, in_flight: int) -> None:
        """Refuse what there is no room for beside the bytes in flight."""
        if in_flight + nbytes > self._max_in_flight_bytes:
            raise self._refusal(
                f"{in_flight} bytes are in flight, and the request has {nbytes};"
                f" max_in_flight_bytes is {self._max_in_flight_bytes}"
            )

    def _leave(self, ticket: Ticket, served: bool, missed: bool, *, brought: bool) -> None:
        if ticket.work is None:
            self._shared.aside -= ticket.nbytes
            return
        self._shared.nbytes -= ticket.nbytes
        if not brought:
            self._rate.withdraw(ticket.work)
            self._longest_s(self._clock())
            return
        took_s = self._rate.end(ticket.work, served=served)
        ended_s = ticket.work.began_s + took_s
        # What was given up early says nothing of how long it would have taken.
        if served or missed or ended_s >= ticket.deadline_s:
            self._deviation_s += WEIGHT * (abs(took_s - ticket.predicted_s) - self._deviation_s)
        self._longest_s(ended_s)

    def _longest_s(self, now: float, queue_s: float | None = None) -> float:
        """Return the longest queue there may be now; to be asked whenever work comes or goes.

        Args:
            queue_s: The queue that there is; None: it is asked for.
        """
        if (self.queue_s() if queue_s is None else queue_s) == 0.0:
            self._unqueued_s = now
        if now - self._unqueued_s <= self._max_queue_s:
            return self._max_queue_s
        few_s = STANDING_FEW * self._rate.wait_s() / max(self._rate.count, 1)
        return min(max(self._standing_queue_s, STANDING_LONE * self._rate.lone_s, few_s), self._max_queue_s)

    def _allow(self, spare_s: float) -> None:
        """Take note of how long a request may wait, for `pressure`."""
        self._allowed_s += WEIGHT * (min(max(spare_s, MIN_HINT_S), self._max_queue_s) - self._allowed_s)

    def _refusal(self, why: str) -> LimitExceeded:
        self._shared.refused += 1
        retry_after_s = max(self._rate.wait_s(), MIN_HINT_S)
        return LimitExceeded(
            f"overloaded: {why}; ask again in {math.ceil(retry_after_s * 1e3)} ms", retry_after_s=retry_after_s
        )


def _ms(seconds: float) -> int:
    return round(seconds * 1e3)
