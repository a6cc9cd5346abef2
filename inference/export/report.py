"""What an export did, as values and as text for people."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from inference.export.cut import KeptWeight
from inference.manifest import Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class TableReport:
    """One table that was written."""

    name: str
    rows: int
    dim: int
    bytes: int
    keyed_by: str
    """"row number", "raw ids, strings", "vocabulary of integers", ..."""
    features: tuple[str, ...]
    """That are looked up in it."""
    poolings: tuple[str, ...]
    default: str
    """The vector of unknown ids: "zeros", "row 0", "mean" or "given"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """The self-check: the same rows through the module, and through tables and dense program."""

    rows: int
    largest_difference: float
    largest_output: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """One version that was exported."""

    path: Path
    """The version's folder."""
    manifest: Manifest
    tables: tuple[TableReport, ...]
    kept: tuple[KeptWeight, ...]
    """Embeddings that stayed in the dense program, and why."""
    check: CheckReport | None
    """None when no rows were to be checked."""

    @property
    def bytes(self) -> int:
        """Bytes of the whole version but its manifest."""
        return sum(table.bytes for table in self.tables) + self.manifest.program.bytes + self.manifest.schema.bytes

    def print(self, console: Console) -> None:
        """Show it."""
        tables = Table(title=f"{self.manifest.model}/{self.manifest.version}", title_justify="left")
        for column in ("table", "rows", "dim", "bytes", "keyed by", "features", "pooling", "unknown ids"):
            tables.add_column(column, justify="right" if column in ("rows", "dim", "bytes") else "left")
        for each in self.tables:
            names = ", ".join(each.features), ", ".join(each.poolings)
            numbers = f"{each.rows:,}", str(each.dim), size(each.bytes)
            tables.add_row(each.name, *numbers, each.keyed_by, *names, each.default)
        console.print(tables)
        for kept in self.kept:
            console.print(f"{kept.name} stays in the dense program ({size(kept.bytes)}): {kept.reason}", markup=False)
        console.print(f"dense program: {size(self.manifest.program.bytes)}, {len(self.manifest.inputs)} inputs")
        if self.check is not None:
            console.print(
                f"self-check: {self.check.rows} rows, largest difference {self.check.largest_difference:.1e}"
                f" (outputs up to {self.check.largest_output:.3g})"
            )
        console.print(f"written to {self.path}", markup=False)


def size(count: int) -> str:
    """Return a number of bytes for people: 512 B, 1.5 MB."""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"
