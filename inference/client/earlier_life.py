"""Earlier lives of a writer: what they may have sent, as answers to pushes that are sent once more tell it.

A life that ended may have had several pushes in one message, which one shard has applied and another has not, under the
number of the last of them. So of a push that is sent again a shard may say that it is new, and of the next one, to the
same lane, another shard that its number is too low: both are right. What is out at a time lies within `SPAN` pushes,
and those below are acknowledged; so the first push that is new anywhere is at most so many behind all that was sent.
They are counted as they are handed on once more: a number that is an offset does not say how many there are.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.client.lanes import SPAN, Outgoing
from ringpull.inference.push_answer import PushAnswer

_SLOTS: Final = 65_536


class EarlierLife:
    """Numbers that earlier lives of one writer may have sent. Used by one thread at a time."""

    def __init__(self) -> None:
        self.last: int | None = None
        """Number that is above all that they can have sent; None: not known yet."""
        self._reached: int | None = None
        """Number of the push from which on they had sent so many at most; None: not known yet."""
        self._given: deque[int] = deque()
        """Numbers of the pushes that were handed on, of those that may still be counted."""
        self._own: dict[str, NDArray[np.bool_]] = {}
        """Slots of each table, (65536,), of which the last number is this life's."""

    def __repr__(self) -> str:
        return f"<EarlierLife below {self.last}>"

    def handed_on(self, number: int, acknowledged: int) -> None:
        """Note a push that has rows, and the number up to which all are acknowledged."""
        if self.last is not None and acknowledged >= self.last:
            self._given.clear()  # nothing is out that could say more
            return
        self._given.append(number)
        counted = acknowledged if self._reached is None else min(acknowledged, self._reached)
        while self._given[0] <= counted:
            self._given.popleft()
        if self.last is None:
            self._count()

    def _count(self) -> None:
        if self._reached is None:
            return
        behind = bisect_right(self._given, self._reached) + SPAN - 1
        self.last = self._given[behind] if behind < len(self._given) else None

    def acknowledged(self, message: Outgoing, answer: PushAnswer) -> None:
        """Take in the answer to a message, which is of one push where it may have been sent before."""
        number = message.pushes[-1]
        if self.last is not None and number > self.last:
            return
        if answer.rows and self._reached is None:
            self._reached = number
            self._count()
        elif answer.repeated and self._reached is not None and number > self._reached:
            # Shards that lost rows call those new that were acknowledged: what is known elsewhere says more.
            self._reached = number
            self._count()
        if answer.rows and not answer.repeated:
            self._own.setdefault(message.table, np.zeros(_SLOTS, np.bool_))[message.keyed.slots()] = True

    def may_have_sent(self, message: Outgoing) -> bool:
        """Return whether a message whose number is too low may be one that they sent, and went on behind."""
        if self.last is not None and message.pushes[-1] > self.last:
            return False
        own = self._own.get(message.table)
        return own is None or not bool(own[message.keyed.slots()].all())
