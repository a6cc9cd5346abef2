"""Earlier lives of a writer: what they may have sent, as answers to pushes that are sent once more tell it.

A life that ended may have had several pushes in one message, which one shard has applied and another has not, under the
number of the last of them. So of a push that is sent again a shard may say that it is new, and of the next one, to the
same lane, another shard that its number is too low: both are right. Numbers that are out at a time lie within `SPAN`,
and those below are acknowledged; so the first push that is new anywhere is at most so far behind all that was sent.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.client.lanes import SPAN, Outgoing
from ringpull.inference.push_answer import PushAnswer

_SLOTS: Final = 65_536


class EarlierLife:
    """What earlier lives of one writer may have sent. Used by one thread at a time."""

    def __init__(self) -> None:
        self.last: int | None = None
        """Number above all that they can have sent; None: not known yet."""
        self._own: dict[str, NDArray[np.bool_]] = {}
        """Slots of each table, (65536,), of which the last number is this life's."""

    def __repr__(self) -> str:
        return f"<EarlierLife below {self.last}>"

    def acknowledged(self, message: Outgoing, answer: PushAnswer) -> None:
        """Take in the answer to a message, which is of one push where it may have been sent before."""
        number = message.pushes[-1]
        if self.last is not None and number > self.last:
            return
        if answer.rows and self.last is None:
            self.last = number + SPAN
        elif answer.repeated and self.last is not None:
            # Shards that lost rows call those new that were acknowledged: what is known elsewhere says more.
            self.last = max(self.last, number + SPAN)
        if answer.rows and not answer.repeated:
            self._own.setdefault(message.table, np.zeros(_SLOTS, np.bool_))[message.keyed.slots()] = True

    def may_have_sent(self, message: Outgoing) -> bool:
        """Return whether a message whose number is too low may be one that they sent, and went on behind."""
        if self.last is not None and message.pushes[-1] > self.last:
            return False
        own = self._own.get(message.table)
        return own is None or not bool(own[message.keyed.slots()].all())
