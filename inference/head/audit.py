"""Audit log: who asked which verb of operators, from where, and what came of it; refused ones too.

Each is an event of the logger `ringpull.audit`, and a line of JSON in a file if one is named. A line is one write to a
file that is opened for it alone, so heads can share the file, and whoever rotates it need tell nobody. Where it cannot
be written the verb goes on, and the head warns.

Who may not operate can ask as often as they like, and be refused for whatever reason: of callers who were not let in,
only so many verbs a second get a line; the next line says how many did not.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

from ringpull.inference.head.audit_file import AuditFile
from ringpull.inference.wire.status_codes import public_text, status_of
from ringpull.router.control.coordinator_state import VALUES
from ringpull.router.control.operations import VERBS, OperatorVerbs
from ringpull.router.control.verbs import Request, Role

R = TypeVar("R")

logger: Final = logging.getLogger("ringpull.audit")
# Whatever the level of other events: an audit log without those that went well is none.
logger.setLevel(logging.INFO)

MAX_TEXT: Final = 2_000
"""Characters of a request or an error in a line."""

REFUSALS_PER_S: Final = 10.0
REFUSALS_AT_ONCE: Final = 100
"""Refusals that get a line: of callers who are not let in.

A verb that is not known here may be another build's, so whoever asks for it is not let in, whatever its roles.
"""

WATCH: Final = "--watch"
"""Name of a head that publishes new versions by itself."""


@dataclass(slots=True)
class Entry:
    """Verb that is being carried out, or refused."""

    verb: str
    """Name of the verb; empty of a stranger's, whose message is not received."""
    request: str
    """Fields of its request, as they came."""
    peer: str
    """Address that it came from, as gRPC names it; `unix:` is this machine."""
    door: str
    """Way that it came: `admin` or `grpc`; empty: the head asks by itself."""
    who: str = ""
    """Name of the caller; empty until it is let in."""
    began_s: float = 0.0
    """Time at which it came, by the log's clock."""


class AuditLog:
    """Audit log of one head. Safe to use from any thread.

    Args:
        file: File that is appended to; None: events of the logger only.
        head: Number of the head, for the file, which several heads may share.
        clock: Monotonic clock, for the rate of refusals.
    """

    def __init__(self, file: Path | None = None, head: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self._file = None if file is None else AuditFile(file)
        self._head = head
        self._clock = clock
        self._refusals = float(REFUSALS_AT_ONCE)
        self._refused_s = clock()
        self._untold = 0
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<AuditLog {self._file}>"

    @property
    def warnings(self) -> tuple[str, ...]:
        """What an operator should know of it."""
        return () if self._file is None or not self._file.trouble else (self._file.trouble,)

    @contextmanager
    def of(self, entry: Entry) -> Iterator[None]:
        """Context of a verb: its end, or the error that it ends with, is the outcome."""
        with self.refusals_of(entry):
            yield
        self.tell(entry, None)

    @contextmanager
    def refusals_of(self, entry: Entry) -> Iterator[None]:
        """Context in which a verb may be refused, which is told; else whoever carries it out tells of it."""
        entry.began_s = self._clock()
        try:
            yield
        except BaseException as exc:
            self.tell(entry, exc)
            raise

    async def written(self) -> None:
        """Wait until every line so far is in the file, or for `WRITE_WAIT_S`."""
        if self._file is not None:
            await self._file.written()

    def close(self) -> None:
        """End the thread that writes. What is told after that is written all the same."""
        if self._file is not None:
            self._file.close()

    def tell(self, entry: Entry, error: BaseException | None) -> None:
        """Tell what came of a verb; from any thread, and never with an error of its own.

        Args:
            error: What it ended with; None: it was carried out.
        """
        line: dict[str, Any] = {
            "who": entry.who,
            "verb": _shortened(entry.verb),
            "request": _shortened(entry.request),
            "peer": entry.peer,
            "door": entry.door,
            "outcome": _outcome(error),
            "took_s": round(self._clock() - entry.began_s, 4),
        }
        if error is not None:
            line["error"] = _shortened(_text(error))
        with self._lock:
            if not entry.who and not self._may_tell():
                self._untold += 1
                return
            if self._untold:
                line["refusals_untold"], self._untold = self._untold, 0
        logger.log(logging.INFO if error is None else logging.WARNING, "operators' verb", extra=line)
        if self._file is not None:
            now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            self._file.put({"time": now, "head": self._head, **line})

    def _may_tell(self) -> bool:
        now_s = self._clock()
        grown = self._refusals + (now_s - self._refused_s) * REFUSALS_PER_S
        self._refusals, self._refused_s = min(float(REFUSALS_AT_ONCE), grown), now_s
        if self._refusals < 1:
            return False
        self._refusals -= 1
        return True


class Audited:
    """`OperatorVerbs` for the head's own looking for new versions, which publishes what it finds."""

    def __init__(self, operations: OperatorVerbs, audit: AuditLog) -> None:
        self._operations = operations
        self._audit = audit

    def __repr__(self) -> str:
        return f"<Audited {self._operations!r}>"

    def call(self, request: Request[R], *, within_s: float | None = None) -> R:
        """See `OperatorVerbs.call`."""
        verb = VERBS.of(request)
        if verb.role is not Role.OPERATE:
            return self._operations.call(request, within_s=within_s)
        with self._audit.of(Entry(verb.name, VALUES.to_json(verb.request, request), "", "", WATCH)):
            return self._operations.call(request, within_s=within_s)


def _outcome(error: BaseException | None) -> str:
    return "ok" if error is None else status_of(error).grpc


def _text(error: BaseException) -> str:
    return public_text(error) if isinstance(error, Exception) else "the caller went away"


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}... ({len(text)} characters)"
