"""Audit log: who asked which verb of operators, from where, and what came of it; refused ones too.

Each is an event of the logger `ringpull.audit`, and a line of JSON in a file if one is named. A line is one write to a
file that is opened for it alone, so heads can share the file, and whoever rotates it need tell nobody. Where it cannot
be written the verb goes on, and the head warns.

Who may not operate can ask as often as they like, and be refused for whatever reason: of callers who were not let in,
only so many verbs a second get a line; the next line says how many did not.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

from ringpull.inference.wire.status_codes import public_text, status_of
from ringpull.ps.errors import StartupError
from ringpull.router.control.coordinator_state import VALUES
from ringpull.router.control.operations import VERBS, OperatorVerbs
from ringpull.router.control.verbs import Request, Role

R = TypeVar("R")

logger: Final = logging.getLogger("ringpull.audit")
# Whatever the level of other events: an audit log without those that went well is none.
logger.setLevel(logging.INFO)

MAX_TEXT: Final = 2_000
"""Characters of a request or an error in a line."""

WRITE_WAIT_S: Final = 1.0
"""Longest wait of a verb for its line: a disk that hangs holds up no operator for longer."""

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
    request: str
    """Fields of its request, as they came."""
    peer: str
    """Address that it came from, as gRPC names it; `unix:` is this machine."""
    door: str
    """Way that it came: `admin` or `grpc`; empty: the head asks by itself."""
    who: str = ""
    """Name of the caller; empty until it is let in."""


class AuditLog:
    """Audit log of one head.

    Args:
        file: File that is appended to; None: events of the logger only.
        head: Number of the head, for the file, which several heads may share.
        clock: Monotonic clock, for the rate of refusals.
    """

    def __init__(self, file: Path | None = None, head: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self._file = file
        self._head = head
        self._clock = clock
        self._refusals = float(REFUSALS_AT_ONCE)
        self._refused_s = clock()
        self._untold = 0
        # Of its own: what hangs there holds up no verb.
        self._writing = ThreadPoolExecutor(1, "audit")
        self._trouble = ""

    def __repr__(self) -> str:
        return f"<AuditLog {self._file}{' in trouble' if self._trouble else ''}>"

    @property
    def warnings(self) -> tuple[str, ...]:
        """What an operator should know of it."""
        return (self._trouble,) if self._trouble else ()

    @contextmanager
    def of(self, entry: Entry) -> Iterator[None]:
        """Context of a verb: its end, or the error that it ends with, is the outcome."""
        began_s = self._clock()
        try:
            yield
        except BaseException as exc:
            self._tell(entry, exc, self._clock() - began_s)
            raise
        self._tell(entry, None, self._clock() - began_s)

    async def written(self) -> None:
        """Wait until every line so far is in the file, or for `WRITE_WAIT_S`."""
        if self._file is None:
            return
        last = asyncio.wrap_future(self._writing.submit(lambda: None))
        done, _ = await asyncio.wait([last], timeout=WRITE_WAIT_S)
        if not done:
            self._warn(f"the audit log {self._file} has not been written for {WRITE_WAIT_S:g} s")

    def close(self) -> None:
        """End the thread that writes, once all is written."""
        self._writing.shutdown(wait=False)

    def _tell(self, entry: Entry, error: BaseException | None, took_s: float) -> None:
        if not entry.who and not self._may_tell():
            self._untold += 1
            return
        line: dict[str, Any] = {
            "who": entry.who,
            "verb": _shortened(entry.verb),
            "request": _shortened(entry.request),
            "peer": entry.peer,
            "door": entry.door,
            "outcome": _outcome(error),
            "took_s": round(took_s, 4),
        }
        if error is not None:
            line["error"] = _shortened(_text(error))
        if self._untold:
            line["refusals_untold"], self._untold = self._untold, 0
        logger.log(logging.INFO if error is None else logging.WARNING, "operators' verb", extra=line)
        if self._file is not None:
            now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            self._writing.submit(self._append, self._file, {"time": now, "head": self._head, **line})

    def _may_tell(self) -> bool:
        now_s = self._clock()
        grown = self._refusals + (now_s - self._refused_s) * REFUSALS_PER_S
        self._refusals, self._refused_s = min(float(REFUSALS_AT_ONCE), grown), now_s
        if self._refusals < 1:
            return False
        self._refusals -= 1
        return True

    def _append(self, file: Path, line: dict[str, Any]) -> None:
        try:
            append(file, json.dumps(line).encode() + b"\n")
        except OSError as exc:
            self._warn(f"the audit log {file} cannot be written: {exc.strerror or exc}")
        else:
            self._trouble = ""

    def _warn(self, trouble: str) -> None:
        if trouble != self._trouble:
            logger.warning(trouble)
        self._trouble = trouble


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


def append(file: Path, line: bytes) -> None:
    """Append a line to a file, which is made for its owner alone.

    Raises:
        OSError: It cannot be written.
    """
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while line:
            line = line[os.write(descriptor, line) :]
    finally:
        os.close(descriptor)


def check(file: Path) -> None:
    """Look whether lines can be appended to a file, before a head does it.

    Raises:
        StartupError: They cannot.
    """
    try:
        append(file, b"")
    except OSError as exc:
        raise StartupError(f"--audit-log: {file} cannot be written: {exc.strerror or exc}") from exc


def _outcome(error: BaseException | None) -> str:
    return "ok" if error is None else status_of(error).grpc


def _text(error: BaseException) -> str:
    return public_text(error) if isinstance(error, Exception) else "the caller went away"


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}... ({len(text)} characters)"
