"""Offers: what a head has found in folders and asked the coordinator to do by itself, and what became of it.

What is wrong now may be right in a moment: files are still being copied, a disk was full, a shard was away. So what was
refused is offered again, after a delay that doubles, and at once when what lies there has changed. Every head offers;
who is first has it done, and the others see that a change is under way, and then how it ended.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

from ringpull.ps.errors import RingpullError, Unavailable
from ringpull.router.control.change import Kind
from ringpull.router.control.operations import ChangeStatus, GetChange, OperatorVerbs
from ringpull.router.control.verbs import Request

logger: Final = logging.getLogger(__name__)

FIRST_RETRY_S: Final = 1.0
"""Delay before what was refused is offered again; doubled with each further refusal."""
LONGEST_RETRY_S: Final = 120.0
"""Upper bound on that delay: opening a version everywhere, only to refuse it, costs something."""


class Found(NamedTuple):
    """Version as it lies somewhere."""

    number: int
    mark: int | None
    """Mark that tells its manifest from a later one under the same number; None: whatever it is."""


class Step(Enum):
    """What is to be done about something at this look."""

    OFFER = "offer"
    WAIT = "wait"
    DONE = "done"
    """It was offered here, and has been carried through."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Offer that was refused, or whose change was given up."""

    found: Found
    reason: str
    delay_s: float
    due_s: float
    """Time at which it is offered again."""


class Offers:
    """Offers of one head, by a key that each looker chooses: a model, a folder. Used by one thread at a time.

    Args:
        operations: The way to the coordinator.
        clock: Returns seconds since any origin.
    """

    def __init__(self, operations: OperatorVerbs, clock: Callable[[], float] = time.monotonic) -> None:
        self._operations = operations
        self._clock = clock
        self._begun: dict[str, tuple[Found, int]] = {}
        """What was offered last and taken, and the change that carries it out."""
        self._ended: dict[str, int] = {}
        """Last change to have failed to carry it out, whoever asked for it."""
        self._refused: dict[str, Refusal] = {}

    def __repr__(self) -> str:
        return f"<Offers begun {sorted(self._begun)} refused {sorted(self._refused)}>"

    @property
    def refused(self) -> Mapping[str, Refusal]:
        """What was refused last, by key."""
        return self._refused

    def keys(self) -> set[str]:
        """Return the keys of what was offered and has not come to an end."""
        return self._begun.keys() | self._refused.keys()

    def is_open(self, key: str) -> bool:
        """Return whether something was offered that has not come to an end."""
        return key in self._begun or key in self._refused

    def settle(self, key: str) -> None:
        """Forget what was offered: there is nothing to do any more."""
        self._refused.pop(key, None)
        self._begun.pop(key, None)

    def drop_others(self, key: str, number: int) -> None:
        """Forget a refusal of another number than what lies there now."""
        if (refused := self._refused.get(key)) is not None and refused.found.number != number:
            del self._refused[key]

    def step(self, key: str, found: Found, is_of: Callable[[ChangeStatus], bool]) -> Step:
        """Return what to do about something at this look.

        Args:
            is_of: Whether a change was to do this, by this head or another, or an operator.

        Raises:
            RingpullError: The coordinator does not answer.
        """
        change = self._operations.call(GetChange())
        if change.under_way:
            return Step.WAIT  # At the next look.
        begun, change_id = self._begun.pop(key, (None, 0))
        if begun == found and change.id == change_id and not change.error:
            self.settle(key)
            return Step.DONE
        if change.error and is_of(change) and self._ended.get(key) != change.id:
            self._ended[key] = change.id
            self._refuse(key, found, change.error)
        refused = self._refused.get(key)
        waits = refused is not None and refused.found == found and self._clock() < refused.due_s
        return Step.WAIT if waits else Step.OFFER

    def offer(self, key: str, found: Found, request: Request[ChangeStatus], what: str) -> Step:
        """Ask the coordinator to do something; return whether it is done, or begun.

        Args:
            what: Description of it, for the log: `publish ranker/7 in /models/ranker`.

        Raises:
            RingpullError: The coordinator does not answer.
        """
        try:
            change = self._operations.call(request)
        except RingpullError as exc:
            # Another head may have been faster.
            if not self._operations.call(GetChange()).under_way:
                self._refuse(key, found, str(exc), again_s=0.0 if isinstance(exc, Unavailable) else None)
            return Step.WAIT
        if not change.id:  # It is so already.
            self.settle(key)
            return Step.DONE
        self._begun[key] = (found, change.id)
        logger.info("%s, by itself", what)
        return Step.WAIT

    def _refuse(self, key: str, found: Found, reason: str, again_s: float | None = None) -> None:
        before = self._refused.get(key)
        delay_s = FIRST_RETRY_S
        if before is not None and before.found == found:
            delay_s = before.delay_s if again_s is not None else min(2 * before.delay_s, LONGEST_RETRY_S)
        due_s = self._clock() + (delay_s if again_s is None else again_s)
        self._refused[key] = Refusal(found, reason, delay_s, due_s)
        logger.warning("%s: what was found is refused: %s", key, reason)


def is_change(kind: Kind, subject: str) -> Callable[[ChangeStatus], bool]:
    """Return a function that tells whether a change is of this kind and subject."""
    return lambda change: change.kind is kind and change.subject == subject
