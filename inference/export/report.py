"""Report of an export: what it did, as values and as text for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from rich import box
from rich.console import Console
from rich.table import Table

from ringpull.inference.export.kept_weight import KeptWeight
from ringpull.inference.model.manifest import Bfloat16Receipt, Manifest
from ringpull.inference.short_form import SHOWN, and_more, most_important
from ringpull.ps.text.byte_size import size

COLUMNS: Final = ("table", "rows", "dim", "type", "bytes", "keyed by", "features", "pooling", "unknown ids")
NUMBERS: Final = ("rows", "dim", "bytes")
SPARED: Final = ("unknown ids", "pooling", "keyed by", "dim", "type")
"""Columns that are left out where there is no room for all, in this order."""
OF_FEATURES: Final = ("features", "pooling")
"""Columns that say how features use a table; left out where the version is of tables alone."""
GAP: Final = 2
"""Characters between two columns."""


@dataclass(frozen=True, slots=True)
class TableDelta:
    """What a delta has of one table."""

    name: str
    changed: int
    new: int
    gone: int
    bytes: int
    """Bytes of its files."""

    @property
    def sentence(self) -> str:
        """What people read of it."""
        if not self.bytes:
            return f"{self.name}: as before"
        counts = f"{self.changed:,} rows changed, {self.new:,} new, {self.gone:,} gone"
        return f"{self.name}: {counts}; {size(self.bytes)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TableReport:
    """One table that was written."""

    name: str
    rows: int
    dim: int
    """Numbers per row; 0 where rows are bytes."""
    row_type: str
    bytes: int
    keyed_by: str
    """"row number", "raw ids, strings", "vocabulary of integers", ..."""
    features: tuple[str, ...]
    """Features that are looked up in the table."""
    poolings: tuple[str, ...]
    default: str
    """Vector of unknown ids: "zeros", "row 0", "mean" or "given"; "refused", or "there are none"."""
    computed: str | None = None
    """What its rows were computed of, once, at export; None of a weight of the model itself."""

    def cells(self) -> dict[str, str]:
        """Return what people read of it, by column."""
        return {
            "table": self.name,
            "rows": f"{self.rows:,}",
            "dim": str(self.dim) if self.dim else "",
            "type": self.row_type,
            "bytes": size(self.bytes),
            "keyed by": self.keyed_by,
            "features": ", ".join(self.features),
            "pooling": ", ".join(self.poolings),
            "unknown ids": self.default,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """The self-check: the same rows through the module, and through tables and dense program."""

    rows: int
    largest_difference: float
    largest_output: float
    """The largest magnitude of an output that is finite."""


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
    """Embeddings that stayed in the dense program, or a copy of them did, and why."""
    check: CheckReport | None
    """Result of the self-check; None when no rows were to be checked."""
    cost: CostReport | None = None
    """Cost of short row types; None when no rows are rounded, or none were to be checked."""
    large: tuple[KeptWeight, ...] = ()
    """Large weights of the dense program that no ids are looked up in, and what uses them."""
    ids: bool = True
    """Whether a feature has ids."""
    deltas: tuple[TableDelta, ...] = ()
    """What is new of each table, where the version follows another one."""

    @property
    def without_tables(self) -> str | None:
        """Why there is no table at all; None if there is one, or no feature has ids that could be looked up."""
        if self.tables or not self.ids:
            return None
        if not self.kept:
            return "NO TABLE came out: no weight is looked up by ids of the request; all of it is in the dense program"
        names = ", ".join(each.name for each in self.kept)
        return f"NO TABLE came out: what is looked up stays in the dense program ({names}), for the reasons below"

    @property
    def bytes(self) -> int:
        """Bytes of the whole version but its manifest."""
        files = (self.manifest.program, self.manifest.schema, *self.manifest.program_data)
        return sum(table.bytes for table in self.tables) + sum(file.bytes for file in files if file is not None)

    def print(self, console: Console) -> None:
        """Show it."""
        if self.without_tables is not None:
            title = f"{self.manifest.model}/{self.manifest.version}"
            console.print(f"{title}: {self.without_tables}", markup=False, highlight=False, style="bold red")
        else:
            self._print_tables(console)
        for delta in self.deltas:
            console.print(delta.sentence, markup=False)
        self._print_dense(console)
        if self.check is not None:
            console.print(
                f"self-check: {self.check.rows} rows, largest difference {self.check.largest_difference:.1e}"
                f" (outputs up to {self.check.largest_output:.3g})"
            )
        if self.cost is not None:
            console.print(_described("row types", self.cost))
        if self.manifest.bfloat16 is not None:
            console.print(_described("bfloat16 dense program", self.manifest.bfloat16))
        if self.manifest.degrade:
            steps = "; ".join(step.phrase for step in self.manifest.degrade)
            console.print(f"under load, before requests are refused: {steps}", markup=False)
        console.print(f"written to {self.path}", markup=False)

    def _print_tables(self, console: Console) -> None:
        shown = most_important(self.tables, lambda each: each.bytes, every=False)
        rows = [each.cells() for each in shown]
        unused = OF_FEATURES if self.manifest.tables_alone else ()
        columns = [name for name in COLUMNS if name not in unused]
        spared = [name for name in SPARED if name not in unused]
        for left_out in range(len(spared) + 1):
            names = [name for name in columns if name not in spared[:left_out]]
            widths = _widths({name: [name, *(row[name] for row in rows)] for name in names}, console.width)
            if widths is not None:
                break
        title = f"{self.manifest.model}/{self.manifest.version}"
        tables = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        for place, name in enumerate(names):
            number = name in NUMBERS
            width = None if widths is None else widths[place]
            justify: Literal["left", "right"] = "right" if number else "left"
            tables.add_column(name, justify=justify, no_wrap=number, overflow="fold", width=width)
        for row in rows:
            tables.add_row(*(row[name] for name in names))
        console.print(tables)
        if left_out:
            console.print(f"not shown at this width: {', '.join(spared[:left_out])}", style="dim")
        more = f"of {size(sum(each.bytes for each in self.tables))} in all"
        if left := and_more(len(self.tables), len(shown), more, see=f"ringpull inspect {self.path} --all"):
            console.print(left, style="dim", markup=False, soft_wrap=True)
        for each in shown:
            if each.computed is not None:
                console.print(f"{each.name} was computed once, at export: {each.computed}", markup=False)

    @property
    def sentences(self) -> list[str]:
        """What is told of weights that stay, and of outputs that are queries or of classes, a sentence each."""
        ranked = [
            f"{each.name} gives queries, by which the rows of table {each.ranks.table} are ranked (top-k)"
            for each in self.manifest.outputs
            if each.ranks is not None
        ]
        named = [
            f"{each.name} has the classes, in order: {', '.join(each.classes)}"
            for each in self.manifest.outputs
            if each.classes
        ]
        return [*ranked, *named, *(kept.sentence for kept in (*self.kept, *self.large))]

    def _print_dense(self, console: Console) -> None:
        for sentence in self.sentences[:SHOWN]:
            console.print(sentence, markup=False)
        if left := and_more(len(self.sentences), SHOWN, see="`sentences` of the report"):
            console.print(left, style="dim", markup=False)
        if self.manifest.program is not None:
            inputs = len(self.manifest.inputs)
            taken = self.manifest.program.bytes + sum(each.bytes for each in self.manifest.program_data)
            by = "" if self.manifest.runtime == "torch" else f", run by {self.manifest.runtime}"
            console.print(f"dense program: {size(taken)}, {inputs} inputs{by}")


def _described(what: str, cost: CostReport | Bfloat16Receipt) -> str:
    rows = f"{cost.rows:,} {'given' if cost.given else 'made-up'} rows"
    text = f"{what}: scores differ by up to {cost.largest_difference:.1e}, {cost.mean_difference:.1e} on average, on"
    if cost.auc is None or cost.auc_difference is None:
        return f"{text} {rows}"
    return f"{text} {rows}; AUC {cost.auc:.5f} {cost.auc_difference:+.1e}"


def _widths(columns: Mapping[str, Sequence[str]], room: int) -> list[int] | None:
    """Return how wide each column of these texts may be; None: there is no room.

    A number stays whole, and other text wraps between words: no column is narrower than its longest word.
    """
    natural = [max(map(len, texts)) for texts in columns.values()]
    widths = [
        most if name in NUMBERS else max(len(word) for text in texts for word in text.split())
        for (name, texts), most in zip(columns.items(), natural, strict=True)
    ]
    spare = room - sum(widths) - GAP * len(widths)
    for place, most in enumerate(natural):
        wider = max(0, min(spare, most - widths[place]))
        widths[place] += wider
        spare -= wider
    return widths if spare >= 0 else None
