"""Status codes of failed requests: from our errors to gRPC's codes and HTTP's statuses, in one table.

Metrics and log lines of calls go by gRPC's names, whichever protocol a call came over.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from ringpull.ps.errors import (
    ChangeGivenUp,
    CorruptData,
    DeadlineExceeded,
    Forbidden,
    InvalidInput,
    LimitExceeded,
    NotFound,
    Retryable,
    RingpullError,
    StaleNumber,
    Unauthenticated,
    UnmetCondition,
    Unsupported,
)

PUSHBACK: Final = "grpc-retry-pushback-ms"
"""Trailing metadata by which a server says when to come back, or by a negative number not to: gRFC A6."""
MAX_ERROR_CHARS: Final = 1_000
"""Characters of an error that are sent. Over gRPC they travel as a header of up to 9 bytes each, and clients take
16 KiB of those: beyond it the call would end as RESOURCE_EXHAUSTED, whatever it was. And an error names what was
sent, which may be a name of megabytes."""


class Status(NamedTuple):
    """A row of the table."""

    error: type[BaseException]
    grpc: str
    """Name of the gRPC status code."""
    http: int


STATUSES: Final = (
    Status(ChangeGivenUp, "FAILED_PRECONDITION", 409),
    Status(StaleNumber, "ABORTED", 409),
    Status(UnmetCondition, "FAILED_PRECONDITION", 400),
    Status(InvalidInput, "INVALID_ARGUMENT", 400),
    Status(NotFound, "NOT_FOUND", 404),
    Status(Unauthenticated, "UNAUTHENTICATED", 401),
    Status(Forbidden, "PERMISSION_DENIED", 403),
    Status(Unsupported, "UNIMPLEMENTED", 501),
    Status(LimitExceeded, "RESOURCE_EXHAUSTED", 429),
    Status(DeadlineExceeded, "DEADLINE_EXCEEDED", 504),
    Status(Retryable, "UNAVAILABLE", 503),
    Status(CorruptData, "DATA_LOSS", 500),
    Status(Exception, "INTERNAL", 500),
    # All there is besides exceptions: the call's task was cancelled, because the caller went away.
    Status(BaseException, "CANCELLED", 499),
)
"""The first row whose error fits decides. Of errors with one code of gRPC, our clients raise the one whose row is last.
"""
TOO_LARGE: Final = Status(LimitExceeded, "RESOURCE_EXHAUSTED", 413)
"""Row of a `LimitExceeded` without a time after which to come back: the request is larger than what is taken, whenever
it comes. TensorFlow Serving answers it by 429, Triton by 400; but whoever gets a 429 comes again, and who gets a 400
looks for what is wrong within the request."""


_known: Final[dict[type[BaseException], Status]] = {}
"""Rows by the classes of errors that were asked for: a head under overload asks for thousands a second."""


def status_of(error: BaseException) -> Status:
    """Return how a call ends that raised `error`."""
    if isinstance(error, LimitExceeded) and error.retry_after_s is None:
        return TOO_LARGE
    kind = type(error)
    status = _known.get(kind)
    if status is None:
        status = _known[kind] = next(status for status in STATUSES if issubclass(kind, status.error))
    return status


def http_headers(error: BaseException) -> dict[str, str]:
    """Return the headers that go with an error over HTTP: how to say who one is, or when to come back."""
    if isinstance(error, Unauthenticated):
        return {"WWW-Authenticate": "Bearer"}
    if isinstance(error, LimitExceeded) and error.retry_after_s is not None:
        # In whole seconds, and never at once: RFC 9110, 10.2.3.
        return {"Retry-After": str(max(1, math.ceil(error.retry_after_s)))}
    return {}


def public_text(error: Exception) -> str:
    """Return what a caller may read of an error: an unexpected one's own text may hold anything, and is hidden."""
    if isinstance(error, RingpullError):
        text = str(error)
        return text if len(text) <= MAX_ERROR_CHARS else f"{text[:MAX_ERROR_CHARS]}... ({len(text)} characters)"
    return f"internal error ({type(error).__name__}); the server's log has more"
