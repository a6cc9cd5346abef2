"""What became of one model: a value, as the process that tried it tells its parent."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Outcome:
    """What became of one model."""

    name: str
    library: str
    status: str = "refused"
    """untouched, wrapped or refused."""
    tables: dict[str, str] = field(default_factory=dict)
    """Poolings of each table."""
    kept: dict[str, str] = field(default_factory=dict)
    """Reason for which an embedding stayed in the dense program."""
    not_tables: list[str] = field(default_factory=list)
    """Weights that are looked up by ids of the request, and are no tables."""
    max_abs_diff: float = 0.0
    spread: float = 0.0
    reason: str = ""
    """Reason for which the model as it is was refused."""
    faults: list[str] = field(default_factory=list)
    """What went wrong with a model that was served: an error, or another answer than the module's."""
    library_fails: list[str] = field(default_factory=list)
    """Rows on which the library's own module fails, and its error."""
    beyond: dict[str, str] = field(default_factory=dict)
    """Per feature, what became of ids beyond every table."""
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        return asdict(self)
