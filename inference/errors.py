"""The errors that clients raise, by who must act: one place to import them from without knowing the other packages."""

from __future__ import annotations

from ringpull.ps.errors import (
    CorruptData,
    DeadlineExceeded,
    Forbidden,
    InvalidInput,
    LimitExceeded,
    NotFound,
    RingpullError,
    StaleNumber,
    Unauthenticated,
    Unavailable,
    UnmetCondition,
)

__all__ = [
    "CorruptData",
    "DeadlineExceeded",
    "Forbidden",
    "InvalidInput",
    "LimitExceeded",
    "NotFound",
    "RingpullError",
    "StaleNumber",
    "Unauthenticated",
    "Unavailable",
    "UnmetCondition",
]
