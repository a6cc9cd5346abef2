"""Errors on the wire: an exception becomes a code and a message, and its class once more at the caller.

Codes are part of the protocol: they are never renamed, and a code this build does not know becomes a plain
`RingpullError`.
"""

from __future__ import annotations

import math
from typing import Final

from ringpull.ps.errors import (
    CorruptData,
    DeadlineExceeded,
    InvalidInput,
    LimitExceeded,
    NotAnswered,
    NotFound,
    NotOwner,
    OtherContent,
    ProtocolError,
    RequestCancelled,
    RingpullError,
    StaleLineage,
    StaleNumber,
    Stranger,
    Unavailable,
    UnmetCondition,
)
from ringpull.ps.wire.messages import ErrorReply

ERROR_CODES: Final[dict[str, type[RingpullError]]] = {
    "INVALID_INPUT": InvalidInput,
    "NOT_FOUND": NotFound,
    "LIMIT_EXCEEDED": LimitExceeded,
    "CORRUPT_DATA": CorruptData,
    "OTHER_CONTENT": OtherContent,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "CANCELLED": RequestCancelled,
    "UNAVAILABLE": Unavailable,
    "NOT_OWNER": NotOwner,
    "PROTOCOL_ERROR": ProtocolError,
    "STRANGER": Stranger,
    "UNMET_CONDITION": UnmetCondition,
    "STALE_LINEAGE": StaleLineage,
    "STALE_NUMBER": StaleNumber,
}

INTERNAL: Final = "INTERNAL"
"""Code of a verb that failed in an unforeseen way; the message names the exception."""

MAX_MESSAGE_CHARS: Final = 4096

MAX_RANGES: Final = 1024
"""Ranges of slots that an error names; what is left over is named when it is asked for again."""

_CODES: Final = {error: code for code, error in ERROR_CODES.items()}


def error_reply(error: Exception) -> ErrorReply:
    """Return what a shard answers when a verb raised `error`."""
    message = str(error)
    if isinstance(error, NotAnswered):
        return ErrorReply("UNAVAILABLE", message[:MAX_MESSAGE_CHARS], 0, error.table, error.slots[:MAX_RANGES])
    epoch = error.epoch if isinstance(error, NotOwner) else 0
    retry_after_s = error.retry_after_s if isinstance(error, LimitExceeded) else None
    retry_after_ms = 0 if retry_after_s is None else max(1, math.ceil(retry_after_s * 1e3))
    for ancestor in type(error).__mro__:
        code = _CODES.get(ancestor)
        if code is not None:
            return ErrorReply(code, message[:MAX_MESSAGE_CHARS], epoch, retry_after_ms=retry_after_ms)
    return ErrorReply(INTERNAL, f"{type(error).__name__}: {message}"[:MAX_MESSAGE_CHARS])


def error_of(reply: ErrorReply) -> RingpullError:
    """Return the error to raise at the caller for an `ErrorReply`."""
    error = ERROR_CODES.get(reply.code)
    if error is Unavailable and reply.table:
        return NotAnswered(reply.message, table=reply.table, slots=reply.slots)
    if error is NotOwner:
        return NotOwner(reply.message, epoch=reply.epoch)
    if error is LimitExceeded and reply.retry_after_ms:
        return LimitExceeded(reply.message, retry_after_s=reply.retry_after_ms / 1e3)
    if error is None:
        return RingpullError(f"the shard failed: {reply.message} ({reply.code})")
    return error(reply.message)
