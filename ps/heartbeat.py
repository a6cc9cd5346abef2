"""Heartbeat of a shard: its identity, address and progress, as the coordinator asks for twice a second."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ShardHeartbeat:
    """State of a shard at one moment."""

    incarnation: str
    """Random id of the process: a new one means a restart, after which the shard serves nothing."""
    shard: int
    host: str
    port: int
    """Port of its data plane."""
    node: str
    """Name of its node, as given to its constructor."""
    epoch: int
    """Epoch of its last assignment; 0 before the first."""
    copied_bytes: int
    """Bytes of rows and keys copied by the `prepare` under way, or by the last one, including what an interrupted one
    had left on disk."""
    bytes_to_copy: int
    """Bytes that `prepare` has to copy in total; 0 when it only opens files."""
    resident_bytes: int
    """Resident memory of the process. A page that several shards map counts in each."""
    metrics_port: int = 0
    """Port of its metrics; 0 when it has none."""
    checked_bytes: int = 0
    """Bytes of rows that the `prepare` under way, or the last one, has held against their checksums."""
    bytes_to_check: int = 0
    """Bytes of rows that it has to check in total; 0 when it checks none."""
    damaged: bool = False
    """Whether copies of its own are damaged, and it is time to `prepare` it again, which copies them anew."""
    warnings: tuple[str, ...] = ()
    """What an operator should know of it now, a sentence each; `status` shows them."""
    term: int = 0
    """Highest term of a coordinator that it was introduced to; 0: none yet."""
    wants_to_push: tuple[tuple[str, int, str], ...] = ()
    """Tables, by model, lineage and name, with pushes that wait until it is saved that they have pushed rows here."""
    pushed: tuple[tuple[str, int, str], ...] = ()
    """Tables that have pushed rows here."""
    newer_rows: int = 0
    """Keys of these rows."""
    newer_bytes: int = 0
    """Memory that they take."""
    log_bytes: int = 0
    """Bytes of the log of pushes."""
