"""Planned exit of an actor's process: requests in flight are answered first, then Ray restarts the process.

The process exits by itself: if another process had to end it, that one might be gone after this one stopped serving.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import Final

SLACK_S: Final = 5.0
"""Time added to the limit of finishing, before the process exits regardless."""

STATUS: Final = 1
"""Exit status. Ray restarts the actor of a worker that exits by itself, whatever its status."""

logger: Final = logging.getLogger(__name__)


class Exit:
    """Exit of this process, which can begin only once.

    Args:
        end: Ends the process with a status; returns only in tests.
    """

    def __init__(self, end: Callable[[int], None] = os._exit) -> None:
        self._end = end
        self._begun = threading.Lock()

    def after(self, finish: Callable[[], None], *, within_s: float) -> None:
        """Call `finish` in a thread, and end the process when it returns, or after `within_s` seconds and some slack.

        Returns at once, so that the caller gets an answer. Idempotent.
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
