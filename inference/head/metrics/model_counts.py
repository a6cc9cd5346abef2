"""Counts of a version's predictions since start, which heads report and whoever asks is told the sum of."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCounts:
    """Counts of one version: calls, rows, batches and where their time went. Times are sums, in nanoseconds."""

    calls: int = 0
    """Calls that were answered."""
    failed: int = 0
    """Calls that ended with an error after it was known which version they ask for."""
    rows: int = 0
    """Rows that were scored, and keys whose rows were asked for."""
    batches: int = 0
    """Micro-batches in which they were."""
    total_ns: int = 0
    """Time of answered calls, from their bytes to their reply."""
    failed_ns: int = 0
    queue_ns: int = 0
    input_ns: int = 0
    """Time of decoding, of preparing features and of look-ups."""
    infer_ns: int = 0
    """Time of the dense program."""
    output_ns: int = 0
    last_ms: int = 0
    """Time of the last call that was answered, in milliseconds since 1970; 0: there was none."""

    def __add__(self, other: ModelCounts) -> ModelCounts:
        """Return the sums of both; the later of their last calls."""
        sums = {each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(self)}
        return ModelCounts(**sums | {"last_ms": max(self.last_ms, other.last_ms)})
