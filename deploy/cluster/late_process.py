"""The object that an actor's process runs, made at once on the first start, and for as long as it takes on a restart.

Ray does not restart an actor whose constructor raised: one that is restarted in the seconds in which its folder cannot
be read, its disk is full or its port is still in use would be away for good. So on a restart nothing that goes wrong
reaches Ray. It is said, in the log and to whoever calls, and tried again. On the first start somebody waits who can
mend what is wrong: errors go to them.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, Final

from ringpull.ps.errors import RingpullError, Unavailable

FIRST_RETRY_S: Final = 0.2
LONGEST_RETRY_S: Final = 5.0
"""Delay after the first failure, doubled with each further one up to the longest."""

FIRST_WAIT_S: Final = 10.0
"""Longest time that an actor's constructor takes on a restart: a disk that hangs is waited for beside it."""

logger: Final = logging.getLogger(__name__)


class LateProcess:
    """Process object of an actor, which may be there later than the actor."""

    def __init__(
        self,
        called: str,
        make: Callable[[], Any],
        *,
        restarted: bool,
        wait: Callable[[threading.Event, float], object] = threading.Event.wait,
    ) -> None:
        """Make it; on a restart, return when it is made, has failed for the first time, or takes long.

        Args:
            called: Name of the member in messages, such as "shard 3".
            make: Makes the object. On a restart it is called again for as long as it raises, in a thread.
            restarted: Whether an earlier process of this actor has ended.
            wait: Waits until an event is set, at most so many seconds; given by tests.

        Raises:
            Exception: On the first start: whatever `make` raised.
        """
        self._called = called
        self._make = make
        self._wait = wait
        self._made: Any = None
        self._is_made = threading.Event()
        self._tried = threading.Event()
        self._given_up = threading.Event()
        self._reason = "it is being made"
        if not restarted:
            self._made = make()
            self._is_made.set()
        else:
            threading.Thread(target=self._keep_trying, name="restart", daemon=True).start()
            wait(self._tried, FIRST_WAIT_S)

    def __repr__(self) -> str:
        return f"<LateProcess {self._called}: {self._made if self._is_made.is_set() else self._reason}>"

    def get(self) -> Any:
        """Return the object.

        Raises:
            Unavailable: It could not be made so far; the message says why.
        """
        if not self._is_made.is_set():
            raise Unavailable(f"{self._called} is back, and waits for what it needs: {self._reason}")
        return self._made

    def give_up(self) -> None:
        """Try no more."""
        self._given_up.set()

    def _keep_trying(self) -> None:
        delay_s, failures = FIRST_RETRY_S, 0
        while not self._given_up.is_set():
            try:
                self._made = self._make()
            except BaseException as exc:  # whatever it is: with this thread the member would be away for good
                reason = _text(exc)
                if reason != self._reason:
                    logger.warning("restart waits", extra={"reason": reason})
                self._reason = reason
            else:
                self._is_made.set()
                self._tried.set()
                if failures:
                    logger.info("restart goes on", extra={"failures": failures})
                return
            failures += 1
            self._tried.set()
            self._wait(self._given_up, delay_s)
            delay_s = min(2 * delay_s, LONGEST_RETRY_S)


def _text(exc: BaseException) -> str:
    return str(exc) if isinstance(exc, RingpullError) else f"{type(exc).__name__}: {exc}"
