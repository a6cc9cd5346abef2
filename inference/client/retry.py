"""Retries: which failed calls go out again, when, and how often. The decisions of both clients, without I/O.

A call goes through `Attempts`: it says which channel to try next and how much time is left; after a failure it says how
long to pause, or that this is the end. Invariants:

- A retry takes another channel than the one that failed, where there is another.
- All attempts and pauses of a call fit in its one deadline; each attempt is given what is left.
- Retries stay below `BUDGET_RATIO` of the calls, beyond a small reserve: a cluster that fails everything is not also
  asked several times as much. (A bucket of tokens, as in gRFC A6; but it is filled by calls, not by successes, and
  holds enough for all that is in flight when one head of several dies.)
- A call that was turned away before anybody looked at it (gRPC's bare CANCELLED: too many waited there) costs neither
  budget nor one of the retries; it comes back until its time is up, at growing pauses.
- Pauses grow and are random, so that clients that failed together do not come back together. A server that says when
  to come back (`grpc-retry-pushback-ms`, gRFC A6) is obeyed.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from ringpull.inference.client.numbers import timeout, whole
from ringpull.inference.client.rotation import Rotation
from ringpull.ps.errors import DeadlineExceeded, LimitExceeded, RingpullError

DEFAULT_RETRIES: Final = 4

FIRST_PAUSE_S: Final = 0.02
"""Upper bound on the first pause, which is a random part of it; that of each further one is twice the last: 0.3 s in
all for four."""

LONGEST_PAUSE_S: Final = 1.0

MAX_DOUBLINGS: Final = 16
"""Doublings of the bound on a pause: far beyond the longest pause, and no number overflows."""

AVOID_S: Final = 1.0
"""Time that a channel which failed is left out while others are well."""

LATER_BY: Final = 0.1
"""Largest delay of a retry beyond what the server asked for, as a part of that: it told others the same."""

BUDGET_RATIO: Final = 0.2

BUDGET_RESERVE: Final = 100.0
"""Retries that a client may make before it has made calls."""

MAX_BUDGET: Final = 1000.0
"""Retries that can be saved up: calls in flight at a head that dies."""

TICK_S: Final = 0.01
"""Time before its deadline in which a call that the server cancels has missed it: clocks tick in milliseconds, and the
server's may be first."""

MAX_RETRIES: Final = 1_000_000

MAX_TURNED_AWAY: Final = 100
"""Times that a call comes back which is turned away unseen: of a server that ends all of them something else is wrong,
and who waits for its deadline should hear it then."""

BRIEF_CHARS: Final = 100


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed attempt, and whether another one may help."""

    kind: type[RingpullError]
    """Error that the call raises if it ends here."""
    text: str
    """Message of that error."""
    brief: str
    """Status and the beginning of what the server said, for the message of a later failure."""
    may_retry: bool
    retry_after_s: float | None = None
    """Pause that the server asked for; None: it asked for none."""
    cancelled: bool = False
    """Whether the server has cancelled it."""
    turned_away: bool = False
    """Whether it was cancelled unseen: nothing of it has been done."""


class RetryBudget:
    """Tokens: every call adds a part of one, every retry takes one. Thread-safe."""

    def __init__(self, ratio: float, reserve: float, most: float) -> None:
        self._ratio = ratio
        self._most = most
        self._tokens = reserve
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"RetryBudget({self._tokens:.1f} of {self._most:g})"

    def earn(self) -> None:
        """Count a call."""
        if self._tokens < self._most:  # a full one, which is the rule, costs no lock
            with self._lock:
                self._tokens = min(self._most, self._tokens + self._ratio)

    def spend(self) -> bool:
        """Take what one retry costs; False: there is not enough."""
        with self._lock:
            if self._tokens < 1.0:
                return False
            self._tokens -= 1.0
            return True


class Retrying:
    """State that all calls of one client share. Thread-safe.

    Args:
        rotation: Order in which its channels are taken.
        retries: Most retries of one call; 0: none.

    Raises:
        InvalidInput: `retries` is no number, or negative.
    """

    def __init__(
        self,
        rotation: Rotation,
        retries: int = DEFAULT_RETRIES,
        *,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.rotation = rotation
        self.retries = whole("retries", retries, 0, MAX_RETRIES)
        self.budget = RetryBudget(BUDGET_RATIO, BUDGET_RESERVE, MAX_BUDGET)
        self.clock = clock
        self.uniform = uniform

    def __repr__(self) -> str:
        return f"Retrying(retries={self.retries}, {self.budget}, {self.rotation})"

    def begin(self, timeout_s: float) -> Attempts:
        """Return the attempts of one call.

        Raises:
            DeadlineExceeded: `timeout_s` is not positive.
            InvalidInput: It is no number, or NaN.
        """
        return Attempts(self, timeout_s)


def retrying_pushes(rotation: Rotation, retries: int) -> Retrying:
    """Return the state of a client's pushes, which go out again until their time is up, unless no call ever does.

    A push that is given up leaves rows that may be there or not, and a trainer that waits costs no more than one that
    has to begin anew. There are a few out at a time, whatever fails.
    """
    made = Retrying(rotation, MAX_RETRIES if retries else 0)
    made.budget = RetryBudget(0.0, math.inf, math.inf)
    return made


class Attempts:
    """One call: the attempt to make now, and after `failed` and the pause it gave, after `resume`, the next one.

    Attributes:
        channel: Place of the channel to use.
        left_s: The timeout of this attempt.
    """

    __slots__ = ("_deadline_s", "_end", "_failures", "_late", "_shared", "_turned_away", "channel", "left_s")

    def __init__(self, shared: Retrying, timeout_s: float) -> None:
        timeout_s = timeout("timeout_s", timeout_s)
        if timeout_s <= 0:
            raise DeadlineExceeded(f"timeout_s is {timeout_s}: there is no time left for the call")
        now_s = shared.clock()
        shared.budget.earn()
        self._shared = shared
        self._deadline_s = now_s + timeout_s
        self._failures: tuple[tuple[int, Failure], ...] = ()
        self._end = ""
        self._late = False
        self._turned_away = 0
        self.left_s = timeout_s
        self.channel = shared.rotation.take(now_s)

    def failed(self, failure: Failure) -> float | None:
        """Return how long to pause before the next attempt, in seconds; None: there is none, see `error`."""
        shared = self._shared
        now_s = shared.clock()
        self._failures += ((self.channel, failure),)
        if not failure.may_retry:
            return None
        asked_s = failure.retry_after_s
        shared.rotation.avoid(self.channel, now_s + (AVOID_S if asked_s is None else asked_s))
        count, left_s = len(self._failures), self._deadline_s - now_s
        # A server that ends a call as late may be heard before gRPC's own clock strikes: it says CANCELLED then.
        self._late = left_s <= (TICK_S if failure.cancelled else 0)
        if failure.turned_away and shared.retries:
            self._turned_away += 1
            pause_s = self._pause_s(asked_s, self._turned_away, left_s)
            spent = self._turned_away > MAX_TURNED_AWAY
        else:
            count -= self._turned_away
            pause_s = self._pause_s(asked_s, count, left_s)
            spent = count > shared.retries
        if spent:
            self._end = f"{len(self._failures)} attempts failed" if shared.retries else ""
        elif self._late or pause_s >= left_s:
            self._end = "no time is left to try again"
        elif not failure.turned_away and not shared.budget.spend():
            self._end = "too many calls fail to try again"
        else:
            return pause_s
        return None

    def waited(self) -> None:
        """Take the time off that went by before the attempt could go out.

        Raises:
            DeadlineExceeded: All of it did.
        """
        self.left_s = self._deadline_s - self._shared.clock()
        if self.left_s <= 0:
            raise self.crowded()

    def elsewhere(self, able: Callable[[int], bool]) -> bool:
        """Move to another channel that is able to take the attempt; return whether there is one.

        Not to one that has failed this call, nor one that is left out.
        """
        failed = {channel for channel, _ in self._failures}
        found = self._shared.rotation.another(
            self.channel, self._shared.clock(), lambda channel: channel not in failed and able(channel)
        )
        if found is not None:
            self.channel = found
        return found is not None

    def crowded(self) -> DeadlineExceeded:
        """Return the error of a call whose time went by while others of its client were in flight."""
        target = self._shared.rotation.targets[self.channel]
        text = f"{target}: the deadline passed while other calls of this client were in flight (in_flight)"
        return DeadlineExceeded(text + _told(self._failures))

    def resume(self) -> None:
        """Choose the next attempt's channel and timeout, once its pause is over."""
        now_s = self._shared.clock()
        self.left_s = self._deadline_s - now_s
        self.channel = self._shared.rotation.take(now_s, [channel for channel, _ in self._failures])

    def error(self) -> RingpullError:
        """Return what the call raises: as its last attempt failed, with the cause of every earlier one."""
        *earlier, (_, last) = self._failures
        text = last.text
        if self._end:
            text += f" ({self._end})"
        text += _told(earlier)
        if last.kind is LimitExceeded:
            return LimitExceeded(text, retry_after_s=last.retry_after_s)
        return DeadlineExceeded(text) if self._late else last.kind(text)

    def _pause_s(self, asked_s: float | None, count: int, left_s: float) -> float:
        uniform = self._shared.uniform
        if asked_s is not None:
            return asked_s * uniform(1.0, 1.0 + LATER_BY)
        longest_s = min(FIRST_PAUSE_S * 2.0 ** min(count - 1, MAX_DOUBLINGS), LONGEST_PAUSE_S)
        # Never more than half of what is left: the attempt that follows needs time as well.
        return uniform(0.0, max(0.0, min(longest_s, left_s / 2)))


def _told(failures: Sequence[tuple[int, Failure]]) -> str:
    """Return the causes of earlier failures, as the end of a message."""
    if not failures:
        return ""
    causes = Counter(failure.brief for _, failure in failures)
    told = ", ".join(f"{count} x {brief}" if count > 1 else brief for brief, count in causes.items())
    return f"; before that: {told}"
