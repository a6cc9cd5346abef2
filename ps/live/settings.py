"""Settings of pushes: how durable they are, and what they may take of disk and memory."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

LOG_LIMIT_BYTES: Final = 1 << 30
NEWER_MEMORY_BYTES: Final = 1 << 30
"""Limits on log and memory of a shard's pushes, unless its owner says otherwise."""

MIN_LOG_LIMIT_BYTES: Final = 16 << 20
"""Least limit on the log that may be asked for: numbers of writers may have a quarter of it, whatever is folded."""


class Durability(StrEnum):
    """What a push that is acknowledged survives, at its shard."""

    SYNC = "sync"
    """A power cut: the log is on disk."""
    WRITTEN = "written"
    """A kill of the process: the log is with the kernel."""
    MEMORY = "memory"
    """Nothing: there is no log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveSettings:
    """Settings of the pushes of one shard."""

    durability: Durability = Durability.SYNC
    log_limit_bytes: int = LOG_LIMIT_BYTES
    """Size of the log over which pushes are refused until it is shorter; rows are folded before (`Headroom`)."""
    newer_memory_bytes: int = NEWER_MEMORY_BYTES
    """Memory of pushed rows, with what finds them, over which pushes are refused until there is less."""
