"""Calls that are being received: opened by their callers, their messages not here yet.

Such a call costs a place and no work, so it must not count as work for long, nor hold a place for ever. It is *fresh*
at first: messages usually follow at once, and admission counts on it. A message that is not here after several times
what messages take of late is *overdue*. An overdue call

- is work to nobody any more until its message comes (`aside` is called);
- ends when the time limit has passed;
- makes room when there are too many calls: the oldest one of the sender, a connection, that has most of them. So one
  connection takes no place that another needs, and behind a proxy, where all clients are one connection, those whose
  messages come are hardly ever the oldest.

A sender with many overdue calls is not counted on with new ones either.

Half a message lies within gRPC, which tells nobody how much of it has come. So while calls are overdue, the memory of
the process is watched: once it has grown by `max_bytes`, the overdue calls of the sender that has most end.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from ringpull.ps.errors import DeadlineExceeded, LimitExceeded
from ringpull.ps.memory import resident_bytes

T = TypeVar("T")

USUAL_FACTOR: Final = 4.0
"""Times that messages take of late after which one is overdue."""
MIN_OVERDUE_S: Final = 0.03
MAX_OVERDUE_S: Final = 0.3
"""Bounds of that: whoever sends slowly on purpose must not make it long, nor a quiet hour short."""
WEIGHT: Final = 0.05
"""Weight of the newest message in the moving average of how long they take; none counts for more than twice that."""
DISTRUSTED: Final = 8
"""Overdue calls of one sender from which on its new calls are overdue from the start."""

LOOK_S: Final = 0.1
"""Interval of looking at the memory."""

TIMEOUT: Final = "timeout"
FULL: Final = "full"
MEMORY: Final = "memory"
REASONS: Final = (TIMEOUT, FULL, MEMORY)
"""Why calls ended before their message was here: the time limit, no room for so many, or for so much of them."""


class Incoming:
    """One call that is being received."""

    __slots__ = ("aside", "began_s", "limit", "overdue", "pushed_out", "sender", "until_s")

    def __init__(self, sender: str, began_s: float, limit: asyncio.Timeout, aside: Callable[[], None] | None) -> None:
        """Hold what `Receiving` notes of the call; the attributes are its own."""
        self.sender = sender
        self.began_s = began_s
        self.limit = limit
        self.aside = aside
        self.until_s = math.inf
        """Time at which `limit` ends it."""
        self.overdue = False
        self.pushed_out = ""
        """Reason for which it ends before its time, to make room; empty: it does not."""


class Receiving:
    """The calls that are being received. Owned by the event loop."""

    def __init__(
        self,
        *,
        timeout_s: float,
        max_calls: int,
        max_bytes: int = 256 << 20,
        memory: Callable[[], int] = resident_bytes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with none.

        Args:
            timeout_s: The longest that a message may take.
            max_calls: Calls that may be received at a time.
            max_bytes: Bytes by which the memory of the process may grow while calls are overdue.
            memory: Function that returns that memory.
            clock: Seconds, never going back.
        """
        self._max_bytes = max_bytes
        self._memory = memory
        self._before_bytes = 0
        """Memory when the first of the calls that are overdue became so."""
        self._timeout_s = timeout_s
        self._max_calls = max_calls
        self._clock = clock
        self._fresh: OrderedDict[Incoming, None] = OrderedDict()
        """Calls whose message may come any moment, in order of arrival."""
        self._overdue: dict[str, OrderedDict[Incoming, None]] = {}
        """The other calls by sender, in order of arrival."""
        self._overdue_count = 0
        self._usual_s = 0.0
        """Moving average of the time that messages take."""
        self._timer: asyncio.TimerHandle | None = None
        """Timer of the next look; None: there is no call."""
        self.ended: Final[Counter[str]] = Counter(dict.fromkeys(REASONS, 0))
        """Calls that ended before their message was here, by reason."""

    def __repr__(self) -> str:
        return f"<Receiving {len(self)} calls, {self._overdue_count} of them overdue; ended: {dict(self.ended)}>"

    def __len__(self) -> int:
        return len(self._fresh) + self._overdue_count

    @property
    def overdue(self) -> int:
        """Calls whose message should have been here."""
        return self._overdue_count

    @property
    def overdue_s(self) -> float:
        """Time after which a message is overdue."""
        return min(max(USUAL_FACTOR * self._usual_s, MIN_OVERDUE_S), MAX_OVERDUE_S)

    async def receive(
        self,
        message: Awaitable[T],
        sender: str,
        *,
        deadline_s: float | None = None,
        aside: Callable[[], None] | None = None,
    ) -> T:
        """Await the message of a call, which may never come.

        Args:
            sender: Connection that it comes over; all of them may be one.
            deadline_s: Deadline of the call, on the monotonic clock; None: it has none.
            aside: Called once when the message is overdue, perhaps at once.

        Raises:
            DeadlineExceeded: The deadline of the call, or the time limit, passed first.
            LimitExceeded: There is no room for so many calls without their messages. `retry_after_s` is set.
        """
        now = time.monotonic()
        until_s = now + self._timeout_s if deadline_s is None else min(deadline_s, now + self._timeout_s)
        incoming: Incoming | None = None
        arrived = False
        try:
            async with asyncio.timeout(until_s - now) as limit:
                incoming = self.enter(sender, limit, aside)
                incoming.until_s = until_s
                received = await message
                arrived = True
                return received
        except TimeoutError:
            assert incoming is not None
            raise self._error(incoming, deadline_s) from None
        finally:
            if incoming is None:
                _never_awaited(message)
            else:
                self.leave(incoming, arrived=arrived)

    def enter(self, sender: str, limit: asyncio.Timeout, aside: Callable[[], None] | None = None) -> Incoming:
        """Take a call in, to `leave` once; `limit` is what ends it.

        Raises:
            LimitExceeded: There are too many, and none of them is overdue.
        """
        now = self._clock()
        self.look()
        if len(self) >= self._max_calls and not self._make_room():
            self.ended[FULL] += 1
            raise self._refusal(
                f"{len(self)} calls are being received, and no more may be (max_receiving_requests)", self.overdue_s
            )
        incoming = Incoming(sender, now, limit, aside)
        theirs = self._overdue.get(sender)
        if theirs is not None and len(theirs) >= DISTRUSTED:
            self._is_overdue(incoming)
        else:
            self._fresh[incoming] = None
            self._look_later()
        return incoming

    def leave(self, incoming: Incoming, *, arrived: bool) -> None:
        """Note that the message of a call is here, or that the call ended without it."""
        if not incoming.overdue:
            self._fresh.pop(incoming, None)
        elif not incoming.pushed_out:
            self._forget(incoming)
        if arrived:
            took_s = self._clock() - incoming.began_s
            usual_s = max(self._usual_s, MIN_OVERDUE_S / USUAL_FACTOR)
            self._usual_s += WEIGHT * (min(took_s, 2 * usual_s) - self._usual_s)

    def look(self) -> None:
        """Find calls that are overdue by now."""
        since_s = self._clock() - self.overdue_s
        while self._fresh:
            incoming = next(iter(self._fresh))
            if incoming.began_s > since_s:
                break
            del self._fresh[incoming]
            self._is_overdue(incoming)

    def look_at_memory(self) -> None:
        """End calls if what has come of messages takes too much."""
        if self._overdue and self._memory() - self._before_bytes > self._max_bytes:
            for incoming in list(self._most()):
                self._push_out(incoming, MEMORY)

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- inside --------------------------------------------------------------------------------------------------------

    def _is_overdue(self, incoming: Incoming) -> None:
        incoming.overdue = True
        theirs = self._overdue.setdefault(incoming.sender, OrderedDict())
        theirs[incoming] = None
        if not self._overdue_count:
            self._before_bytes = self._memory()
        self._overdue_count += 1
        if incoming.aside is not None:
            incoming.aside()

    def _make_room(self) -> bool:
        """End one overdue call; return whether there was one. Its place is free at once, though it leaves later."""
        if not self._overdue:
            return False
        self._push_out(next(iter(self._most())), FULL)
        return True

    def _most(self) -> OrderedDict[Incoming, None]:
        """Return the overdue calls of the sender that has most of them."""
        return max(self._overdue.values(), key=lambda calls: len(calls))

    def _push_out(self, incoming: Incoming, reason: str) -> None:
        incoming.pushed_out = reason
        self.ended[reason] += 1
        self._forget(incoming)
        if not incoming.limit.expired():
            incoming.limit.reschedule(-1.0)

    def _forget(self, incoming: Incoming) -> None:
        theirs = self._overdue[incoming.sender]
        del theirs[incoming]
        self._overdue_count -= 1
        if not theirs:
            del self._overdue[incoming.sender]

    def _look_later(self) -> None:
        if self._timer is None:
            after_s = self.overdue_s if self._fresh else LOOK_S
            self._timer = asyncio.get_running_loop().call_later(after_s, self._look_again)

    def _look_again(self) -> None:
        self._timer = None
        self.look()
        self.look_at_memory()
        if self._fresh or self._overdue:
            self._look_later()

    def _error(self, incoming: Incoming, deadline_s: float | None) -> Exception:
        if incoming.pushed_out == MEMORY:
            return self._refusal(
                f"what has come of messages that are not whole takes more than {self._max_bytes} bytes"
                " (max_in_flight_bytes)",
                self.overdue_s,
            )
        if incoming.pushed_out:
            return self._refusal(
                f"{self._max_calls} calls were being received (max_receiving_requests), this one for longest",
                self.overdue_s,
            )
        if deadline_s is not None and deadline_s <= incoming.until_s:
            return DeadlineExceeded("the deadline passed before the request had been received")
        self.ended[TIMEOUT] += 1
        return DeadlineExceeded(
            f"the request's message was not here within {self._timeout_s:g} s (receive_timeout_s): it was never sent,"
            " or not to its end"
        )

    @staticmethod
    def _refusal(why: str, retry_after_s: float) -> LimitExceeded:
        return LimitExceeded(
            f"not received: {why}; ask again in {round(retry_after_s * 1e3)} ms", retry_after_s=retry_after_s
        )


def _never_awaited(message: Awaitable[object]) -> None:
    """Close a coroutine that nobody will await, so that Python does not warn of it."""
    if asyncio.iscoroutine(message):
        message.close()
