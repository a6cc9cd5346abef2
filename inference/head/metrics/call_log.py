"""Log lines about calls: failed ones at a bounded rate, answered ones for debugging only.

A flood of failures is one thing that goes wrong, not a thousand lines: of each status code and level the first `BURST`
are told at once and one a second from then on, which says how many were left out. What callers send is cut short;
whoever formats the line escapes it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from ringpull.ps.errors import LimitExceeded

logger: Final = logging.getLogger(__name__)

BURST: Final = 10

LONGEST: Final = 128
"""Characters of a request id or a model's name in a line."""

LONGEST_ERROR: Final = 500

LEVELS: Final[Mapping[str, int]] = {
    "CANCELLED": logging.DEBUG,
    "FAILED_PRECONDITION": logging.INFO,
    "INVALID_ARGUMENT": logging.INFO,
    "NOT_FOUND": logging.INFO,
}
"""Log levels of failures that are the caller's doing, by status code; all others are warnings. But that a request is
larger than what is taken, whenever it comes."""


Verb = Literal["predict", "lookup", "top_k", "push"]


@dataclass(slots=True)
class Call:
    """A call on its way."""

    started_s: float
    """Time on the monotonic clock."""
    stage: str = "decode"
    """Stage it is in: `admission`, `decode`, `batch` (queue, features, look-up, dense program), `lookup`
    (of rows by key, or of those with the largest scores), `push` or `encode`."""
    model: str = ""
    """Name that the caller gave; empty until the request is decoded."""
    request_id: str = ""
    """The caller's own, or one made here when it gave none; empty until the request is decoded."""
    caller: str = ""
    """Name of the caller's token; empty where none is asked for, or it is not known."""
    verb: Verb = "predict"
    """What is asked for: a prediction, rows by key, those with the largest scores, or that rows are written."""
    version: int = 0
    """Version of it that is asked for; 0 until it is known to be one that is served."""
    rows: int = 0
    """Rows that are scored for it, keys whose rows it asks for, queries, or rows to write; 0 until that is known."""
    table: str = ""
    """Table that rows are written to; empty until it is known to be one that takes them."""


class CallLog:
    """Writes lines about calls. Owned by the event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._limits: dict[tuple[str, int], _Limit] = {}

    def answered(self, call: Call, version: int) -> None:
        """Tell of an answered call, at level debug."""
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug(f"{call.verb} answered", extra={**self._fields(call), "version": version})

    def failed(self, call: Call, code: str, error: BaseException) -> None:
        """Tell of a call that ended with an error, unless there were many of its code lately."""
        too_large = isinstance(error, LimitExceeded) and error.retry_after_s is None
        level = logging.INFO if too_large else LEVELS.get(code, logging.WARNING)
        if not logger.isEnabledFor(level):
            return
        limit, now_s = self._limits.get((code, level)), self._clock()
        if limit is None:
            limit = self._limits[code, level] = _Limit(now_s)
        left_out = limit.left_out(now_s)
        if left_out is None:
            return
        fields = {**self._fields(call), "code": code, "stage": call.stage, "error": str(error)[:LONGEST_ERROR]}
        if left_out:
            fields["left_out"] = left_out
        logger.log(level, f"{call.verb} failed", extra=fields)

    def _fields(self, call: Call) -> dict[str, object]:
        caller = {"caller": call.caller} if call.caller else {}
        return {
            **caller,
            "request_id": call.request_id[:LONGEST],
            "model": call.model[:LONGEST],
            "elapsed_ms": round((self._clock() - call.started_s) * 1e3, 3),
        }


class _Limit:
    """A burst, then one a second: a bucket of tokens."""

    def __init__(self, now_s: float) -> None:
        self._tokens = float(BURST)
        self._filled_s = now_s
        self._left_out = 0

    def left_out(self, now_s: float) -> int | None:
        """Return how many were left out since the last line; None: this one is, too."""
        self._tokens = min(float(BURST), self._tokens + now_s - self._filled_s)
        self._filled_s = now_s
        if self._tokens < 1.0:
            self._left_out += 1
            return None
        self._tokens -= 1.0
        left_out, self._left_out = self._left_out, 0
        return left_out
