"""The end of an actor's process on purpose: what is in flight is answered first, then Ray starts the process anew.

The process ends itself, so there is no moment in which it has stopped serving and waits for somebody to end it, who may
be gone.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import Final

SLACK_S: Final = 5.0
"""That finishing may take above the time it was given, before the process ends regardless."""

STATUS: Final = 1
"""Ray takes a worker that ends by itself for one that died, whatever the status, and restarts its actor."""

logger: Final = logging.getLogger(__name__)


class Exit:
    """Ends this process once.

    Args:
        end: Ends it, given a status; returns in tests only.
    """

    def __init__(self, end: Callable[[int], None] = os._exit) -> None:
        self._end = end
        self._begun = threading.Lock()

    def after(self, finish: Callable[[], None], *, within_s: float) -> None:
        """Finish in a thread of its own and end the process then, or after `within_s` seconds and some slack.

        Returns at once, so that whoever asked hears of it. Again, it does nothing.
        """
        if not self._begun.acquire(blocking=False):
            return
        limit = threading.Timer(within_s + SLACK_S, self._end, [STATUS])
        limit.daemon = True
        limit.start()
        threading.Thread(target=self._finish, args=(finish, limit), name="exit", daemon=True).start()

    def _finish(self, finish: Callable[[], None], limit: threading.Timer) -> None:
        try:
            finish()
        except Exception:
            logger.exception("what was in flight could not be finished")
        finally:
            limit.cancel()
            self._end(STATUS)
