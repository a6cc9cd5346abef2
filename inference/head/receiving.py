"""Calls that are being received: opened by their callers, their messages not here yet.

Such a call costs a place and no work, so it must not count as work for long, nor hold a place for ever. It is *fresh*
at first: messages usually follow at once, and admission counts on it, as far as its sender is to be trusted
(`ringpull.inference.head.senders`). A message that is not here after several times what messages take of late is
*overdue*, and that of a sender that is not counted on from the start. An overdue call

- is work to nobody any more until its message comes (`aside` is called), and has no place among the calls in flight
  (`ringpull.inference.head.calls_in_flight`): then it needs one again, or ends;
- ends when the time limit has passed;
- makes room when there are too many calls: the oldest one of the sender, a connection, that has most of them. So one
  connection takes no place that another needs, and behind a proxy, where all clients are one connection, those whose
  messages come are hardly ever the oldest.

A sender with many overdue calls is not counted on with new ones either.

Half a message lies within gRPC, which tells nobody how much of it has come. So while calls are overdue, or a stream
waits for its next message, the memory of the process is watched: once it has grown by `max_bytes`, those calls of the
sender that has most end. It may be something else that grew; so what it is then is what counts from there on.

A front-end that keeps half a message itself tells how much it is (`holds`): once all of these take more than
`max_bytes`, the call that holds most ends. So whoever sends little is let through, whoever else sends how much.
"""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from ringpull.inference.head.calls_in_flight import CallsInFlight
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.head.senders import Sender, Senders
from ringpull.ps.errors import DeadlineExceeded, LimitExceeded
from ringpull.ps.memory import resident_bytes

T = TypeVar("T")

OVERDUE_FACTOR: Final = 4.0
"""Times that messages take of late after which one is overdue."""
MIN_OVERDUE_S: Final = 0.03
MAX_OVERDUE_S: Final = 0.3
"""Bounds of that: whoever sends slowly on purpose must not make it long, nor a quiet hour short."""
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

    __slots__ = (
        "aside",
        "began_s",
        "idle",
        "known",
        "limit",
        "nbytes",
        "overdue",
        "placed",
        "pushed_out",
        "sender",
        "took_s",
        "until_s",
    )

    def __init__(
        self, sender: str, aside: Callable[[], None] | None = None, *, idle: bool = False, placed: bool = False
    ) -> None:
        """Describe a call; the other attributes are `Receiving`'s own.

        Args:
            sender: Connection that it comes over; all of them may be one.
            aside: Called once when the message is overdue, perhaps at once; None: it counts as work to nobody.
            idle: Whether it is a stream that may wait for its next message for as long as it likes.
            placed: Whether it has a place among the calls in flight. Streams have none: they are counted by themselves.
        """
        self.sender = sender
        self.aside = aside
        self.idle = idle
        self.placed = placed
        self.began_s = 0.0
        self.limit: asyncio.Timeout | None = None
        self.nbytes = 0
        """Bytes of its message that are held, as far as they were told."""
        self.known: Sender | None = None
        """Whom it is counted on; None: it is not."""
        self.took_s = math.inf
        """Time that its message took."""
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
        in_flight: CallsInFlight | None = None,
        memory: Callable[[], int] = resident_bytes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with none.

        Args:
            timeout_s: The longest that a message may take.
            max_calls: Calls that may be received at a time.
            max_bytes: Bytes by which the memory of the process may grow while calls are overdue.
            in_flight: Calls in flight that those with a place are among; None: of any number.
            memory: Function that returns that memory.
            clock: Seconds, never going back.
        """
        self._max_bytes = max_bytes
        self._memory = memory
        self._before_bytes = 0
        """Memory when the first of the calls that are overdue became so."""
        self._timeout_s = timeout_s
        self._max_calls = max_calls
        self.in_flight: Final = CallsInFlight(sys.maxsize) if in_flight is None else in_flight
        self._clock = clock
        self._fresh: OrderedDict[Incoming, None] = OrderedDict()
        """Calls whose message may come any moment, in order of arrival."""
        self._overdue: dict[str, OrderedDict[Incoming, None]] = {}
        """The other calls by sender, in order of arrival."""
        self._idle: dict[str, OrderedDict[Incoming, None]] = {}
        """Streams that wait, by sender; they are not among the calls."""
        self._overdue_count = 0
        self._holding: dict[Incoming, None] = {}
        """Calls that hold a part of their message, as far as they told."""
        self._held_bytes = 0
        self.senders: Final = Senders(MIN_OVERDUE_S / OVERDUE_FACTOR, clock)
        """What is known of who sends."""
        self._timer: asyncio.TimerHandle | None = None
        """Timer of the next look; None: there is no call."""
        self.ended: Final[Counter[str]] = Counter(dict.fromkeys(REASONS, 0))
        """Calls that ended before their message was here, by reason."""

    @classmethod
    def of(cls, config: HeadConfig) -> Receiving:
        """Return one with the limits of a head, and no calls."""
        return cls(
            timeout_s=config.receive_timeout_s,
            max_calls=config.max_receiving_requests,
            max_bytes=config.max_in_flight_bytes,
            in_flight=CallsInFlight(config.max_concurrent_requests),
        )

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
        return min(max(OVERDUE_FACTOR * self.senders.median_s, MIN_OVERDUE_S), MAX_OVERDUE_S)

    async def receive(
        self,
        message: Awaitable[T],
        incoming: Incoming,
        *,
        deadline_s: float | None = None,
    ) -> T:
        """Await the message of a call, which may never come.

        Args:
            incoming: The call, which is in nobody else's hands.
            deadline_s: Deadline of the call, on the monotonic clock; None: it has none.

        Raises:
            DeadlineExceeded: The deadline of the call, or the time limit, passed first.
            LimitExceeded: There is no room for so many calls without their messages; or its own was overdue, and so
                many others are in flight by now. `retry_after_s` is set.
        """
        now = time.monotonic()
        until_s = math.inf if incoming.idle else now + self._timeout_s
        if deadline_s is not None:
            until_s = min(deadline_s, until_s)
        entered = arrived = False
        try:
            async with asyncio.timeout(None if until_s == math.inf else until_s - now) as limit:
                incoming.until_s = until_s
                self.enter(incoming, limit)
                entered = True
                received = await message
                arrived = True
        except TimeoutError:
            raise self._error(incoming, deadline_s) from None
        finally:
            if entered:
                self.leave(incoming, arrived=arrived)
            else:
                _never_awaited(message)
        if incoming.overdue and incoming.placed:
            self.in_flight.check()
        return received

    def enter(self, incoming: Incoming, limit: asyncio.Timeout) -> None:
        """Take a call in, to `leave` once; `limit` is what ends it.

        Raises:
            LimitExceeded: There are too many, and none of them is overdue.
        """
        incoming.began_s = self._clock()
        incoming.limit = limit
        self.look()
        if incoming.idle:
            self._watch_memory()
            self._idle.setdefault(incoming.sender, OrderedDict())[incoming] = None
            self._look_later()
            return
        if len(self) >= self._max_calls and not self._make_room():
            self.ended[FULL] += 1
            raise self._refusal(
                f"{len(self)} calls are being received, and no more may be (max_receiving_requests)", self.overdue_s
            )
        known = self.senders.named(incoming.sender) if incoming.aside is not None else None
        late = len(self._overdue.get(incoming.sender, ()))
        if known is not None and (late >= DISTRUSTED or known.counted + 1 > known.trust):
            self._is_overdue(incoming)
        else:
            if known is not None:
                known.counted += 1
                incoming.known = known
            self._fresh[incoming] = None
        self._look_later()

    def holds(self, incoming: Incoming, nbytes: int) -> None:
        """Note that a call that has entered holds so many bytes more of its message; a lone one may hold any."""
        if incoming.pushed_out:
            return
        incoming.nbytes += nbytes
        self._held_bytes += nbytes
        self._holding[incoming] = None
        while self._held_bytes > self._max_bytes and len(self._holding) > 1:
            largest = max(self._holding, key=lambda each: each.nbytes)
            if largest in self._fresh:
                del self._fresh[largest]
                self._is_overdue(largest)
            self._push_out(largest, MEMORY)

    def leave(self, incoming: Incoming, *, arrived: bool) -> None:
        """Note that the message of a call is here, or that the call ended without it."""
        self._hold_no_more(incoming)
        if not incoming.overdue and not incoming.idle:
            self._fresh.pop(incoming, None)
            self._count_no_more(incoming)
        elif not incoming.pushed_out:
            self._forget(incoming)
        if arrived:
            incoming.took_s = self._clock() - incoming.began_s
        elif incoming.aside is not None:
            self.senders.failed(incoming.sender)

    def judge(self, incoming: Incoming, *, brought: bool) -> None:
        """Note whether what a call brought was a request. To be called once at most, after it left."""
        if incoming.took_s == math.inf:
            return  # It brought nothing, which is known.
        if brought:
            self.senders.brought(incoming.sender, incoming.took_s, in_time=incoming.took_s <= self.overdue_s)
        else:
            self.senders.failed(incoming.sender)

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
        if not (self._overdue or self._idle):
            return
        memory = self._memory()
        if memory - self._before_bytes > self._max_bytes:
            for incoming in list(self._most(self._overdue, self._idle)):
                self._push_out(incoming, MEMORY)
            self._before_bytes = memory
        self._before_bytes = min(self._before_bytes, memory)

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- inside --------------------------------------------------------------------------------------------------------

    def _is_overdue(self, incoming: Incoming) -> None:
        self._watch_memory()
        incoming.overdue = True
        self._count_no_more(incoming)
        theirs = self._overdue.setdefault(incoming.sender, OrderedDict())
        theirs[incoming] = None
        self._overdue_count += 1
        if incoming.placed:
            self.in_flight.set_aside()
        if incoming.aside is not None:
            incoming.aside()

    def _watch_memory(self) -> None:
        if not (self._overdue or self._idle):
            self._before_bytes = self._memory()

    def _make_room(self) -> bool:
        """End one overdue call; return whether there was one. Its place is free at once, though it leaves later."""
        if not self._overdue:
            return False
        self._push_out(next(iter(self._most(self._overdue))), FULL)
        return True

    @staticmethod
    def _most(*kinds: dict[str, OrderedDict[Incoming, None]]) -> list[Incoming]:
        """Return the calls of these kinds of the sender that has most of them."""
        of_sender = Counter[str]()
        for kind in kinds:
            of_sender.update({sender: len(calls) for sender, calls in kind.items()})
        sender = max(of_sender, key=lambda each: of_sender[each])
        return [call for kind in kinds for call in kind.get(sender, ())]

    def _push_out(self, incoming: Incoming, reason: str) -> None:
        incoming.pushed_out = reason
        self._hold_no_more(incoming)
        self.ended[reason] += 1
        self._forget(incoming)
        assert incoming.limit is not None
        if not incoming.limit.expired():
            incoming.limit.reschedule(-1.0)

    def _forget(self, incoming: Incoming) -> None:
        kind = self._idle if incoming.idle else self._overdue
        theirs = kind[incoming.sender]
        del theirs[incoming]
        if not theirs:
            del kind[incoming.sender]
        if not incoming.idle:
            self._overdue_count -= 1
            if incoming.placed:
                self.in_flight.take_back()

    def _hold_no_more(self, incoming: Incoming) -> None:
        if incoming in self._holding:
            del self._holding[incoming]
            self._held_bytes -= incoming.nbytes

    @staticmethod
    def _count_no_more(incoming: Incoming) -> None:
        if incoming.known is not None:
            incoming.known.counted -= 1
            incoming.known = None

    def _look_later(self) -> None:
        if self._timer is None:
            after_s = self.overdue_s if self._fresh else LOOK_S
            self._timer = asyncio.get_running_loop().call_later(after_s, self._look_again)

    def _look_again(self) -> None:
        self._timer = None
        self.look()
        self.look_at_memory()
        if self._fresh or self._overdue or self._idle:
            self._look_later()

    def _error(self, incoming: Incoming, deadline_s: float | None) -> Exception:
        if incoming.pushed_out == MEMORY:
            return self._refusal(
                f"messages that are not whole take more than {self._max_bytes} bytes (max_in_flight_bytes), and this"
                " connection has most of them",
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
