"""Heartbeat monitor: asks every member of a deployment for a heartbeat about twice a second.

Each member has a thread of its own, so a slow or stopped member does not delay the others and never has two requests
under way. Answers and failures go to callbacks.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Hashable
from typing import Any, Final, Generic, TypeVar

logger: Final = logging.getLogger(__name__)

HEARTBEAT_S: Final = 0.5
"""Time between the end of one heartbeat and the next, in seconds."""

M = TypeVar("M", bound=Hashable)


class HeartbeatMonitor(Generic[M]):
    """Monitor of a changing set of members.

    Args:
        ask: Asks one member for its heartbeat; raises when it does not answer.
        answered: Called with a member and its heartbeat, from many threads.
        lost: Called with a member that did not answer, from many threads.
        every_s: Time between two heartbeats of a member.
    """

    def __init__(
        self,
        ask: Callable[[M], Any],
        answered: Callable[[M, Any], None],
        lost: Callable[[M], None],
        *,
        every_s: float = HEARTBEAT_S,
    ) -> None:
        self._ask = ask
        self._answered = answered
        self._lost = lost
        self._every_s = every_s
        self._ends: dict[M, threading.Event] = {}

    def __repr__(self) -> str:
        return f"<HeartbeatMonitor of {len(self._ends)} members>"

    def watch(self, members: Collection[M]) -> None:
        """Ask these members from now on, and no others. To be called from one thread only."""
        for member in self._ends.keys() - set(members):
            self._ends.pop(member).set()
        for member in members:
            if member not in self._ends:
                self._ends[member] = end = threading.Event()
                threading.Thread(target=self._run, args=(member, end), name=f"heartbeat {member}", daemon=True).start()

    def _run(self, member: M, end: threading.Event) -> None:
        while not end.is_set():
            try:
                answer = self._ask(member)
            except Exception:
                # Any exception counts: if this thread died, the member would seem alive for ever.
                logger.debug("%s does not answer", member, exc_info=True)
                if not end.is_set():
                    self._lost(member)
            else:
                if not end.is_set():
                    self._answered(member, answer)
            end.wait(self._every_s)
