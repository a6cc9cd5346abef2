"""What an export did, as values and as text for people."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from ringpull.inference.export.cut import KeptWeight
from ringpull.inference.model.manifest import Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class TableReport:
    """One table that was written."""

    name: str
    rows: int
    dim: int
    row_type: str
    bytes: int
    keyed_by: str
    """"row number", "raw ids, strings", "vocabulary of integers", ..."""
    features: tuple[str, ...]
    """Features that are looked up in the table."""
    poolings: tuple[str, ...]
    default: str
    """Vector of unknown ids: "zeros", "row 0", "mean" or "given"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """The self-check: the same rows through the module, and through tables and dense program."""

    rows: int
    largest_difference: float
    largest_output: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CostReport:
    """The cost of short row types: the module's scores with rounded rows, beside those with its own."""

    rows: int
    given: bool
    """Whether the rows were the exporter's; else they were made up."""
    largest_difference: float
    mean_difference: float
    """Mean absolute difference over all rows and outputs."""
    auc: float | None
    """AUC of the module as it is; None without labels."""
    auc_difference: float | None
    """Change of the AUC by rounding; None without labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """One version that was exported."""

    path: Path
    """Folder of the version."""
    manifest: Manifest
    tables: tuple[TableReport, ...]
    kept: tuple[KeptWeight, ...]
    """Embeddings that stayed in the dense program, and why."""
    check: CheckReport | None
    """Result of the self-check; None when no rows were to be checked."""
    cost: CostReport | None = None
    """Cost of short row types; None when all rows are float32, or none were to be checked."""

    @property
    def bytes(self) -> int:
        """Bytes of the whole version but its manifest."""
        return sum(table.bytes for table in self.tables) + self.manifest.program.bytes + self.manifest.schema.bytes

    def print(self, console: Console) -> None:
        """Show it."""
        title = f"{self.manifest.model}/{self.manifest.version}"
        tables = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        for column in ("table", "rows", "dim", "type", "bytes", "keyed by", "features", "pooling", "unknown ids"):
            number = column in ("rows", "dim", "bytes")
            # Where there is no room, text folds and numbers stay whole: nothing is cut.
            tables.add_column(column, justify="right" if number else "left", no_wrap=number, overflow="fold")
        for each in self.tables:
            names = ", ".join(each.features), ", ".join(each.poolings)
            numbers = f"{each.rows:,}", str(each.dim), each.row_type, size(each.bytes)
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
        if self.cost is not None:
            console.print(_described(self.cost))
        if self.manifest.degrade:
            steps = "; ".join(step.phrase for step in self.manifest.degrade)
            console.print(f"under load, before requests are refused: {steps}", markup=False)
        console.print(f"written to {self.path}", markup=False)


def _described(cost: CostReport) -> str:
    rows = f"{cost.rows:,} {'given' if cost.given else 'made-up'} rows"
    text = f"row types: scores differ by up to {cost.largest_difference:.1e}, {cost.mean_difference:.1e} on average, on"
    if cost.auc is None or cost.auc_difference is None:
        return f"{text} {rows}"
    return f"{text} {rows}; AUC {cost.auc:.5f} {cost.auc_difference:+.1e}"


def size(count: int) -> str:
    """Return a number of bytes for people: 512 B, 1.5 MB."""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"
