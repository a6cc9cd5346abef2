"""Cutting of a graph: its look-ups by ids become inputs, which the shards answer, and their tables are no part of it.

read for two numbers of rows -> look-ups with their keys (Cutter) -> graph without them (rest)
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.export.made_lists import ids_made
from ringpull.inference.export.ranges import HIGHEST, LOWEST, IdRange, limits_of, telling_ids
from ringpull.inference.importers.onnx.elements import NO_PLACE, Elements
from ringpull.inference.importers.onnx.layout import IndexLayout, Looked, ragged_form, read_layout
from ringpull.inference.importers.onnx.operators import NotRead
from ringpull.inference.importers.onnx.reading import Reading
from ringpull.inference.importers.onnx.sites import MAX_EXACT, Site, entries_looked_up, find_sites
from ringpull.inference.importers.onnx.source import SourceGraph
from ringpull.inference.model.manifest import IdLimit
from ringpull.inference.schema.key_expressions import FLOATS, KeyExpression
from ringpull.inference.schema.kinds import Computed, Feature, IdSequence, Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.ps.errors import ExportError
from ringpull.ps.spec import Pooling

Array = NDArray[Any]

DROPPED: Final = -(2**63)
"""Key of ids that do not count in a bag, where ids do not have their own."""

MAX_MAPPED_BYTES: Final = 4 << 30
"""Largest table of rows that a constant maps ids to."""

_WITHOUT_OVERFLOW: Final = (62, 53, 47, 40, 32)
"""Powers of 2 to which ids are held where products of larger ones overflow."""

_BY: Final = " by "
"""What stands between the names of a table and of the constant that maps ids to its rows."""

MIN_INTEGER_BYTES: Final = 64 * 1024
"""Bytes from which on a table of integers is cut out: smaller ones are a graph's own numbering."""


@dataclass(frozen=True, slots=True)
class Pooled:
    """How bags of a look-up are pooled, and which of their ids count."""

    pooling: Pooling
    dropped: int | None = None
    """Id that does not count."""
    unpadded: bool = False
    """Whether padded places of a sequence do not count, whatever id pads them."""
    weighted: bool = False
    """Whether the feature's weights multiply the rows."""


@dataclass(frozen=True, slots=True, eq=False)
class Use:
    """One look-up: ids of a feature, in a table, by a key that the graph computes of them."""

    table: str
    """Name of the tensor in the graph."""
    features: tuple[str, ...]
    """Features whose ids it takes; more than one where the graph puts them together."""
    expression: KeyExpression
    """Row that it computes of their ids; below 0 counts from behind."""
    rows: int
    """Rows of the table."""
    beyond_fails: bool
    """Whether a row that there is not is an error; else it is zeros."""
    within: tuple[int, int] = (LOWEST, HIGHEST)
    """Bounds of the ids that the graph's inputs take."""
    through: Array | None = field(default=None, compare=False)
    """Rows of the graph's tensor that a constant maps these rows to; None: they are its own."""
    pooled: Pooled | None = None
    """How its bags are pooled; None: they are not, or it has one id a row."""

    def same_as(self, other: Use) -> bool:
        """Return whether another use looks up the same, in the same way."""
        own = (each.name for each in fields(self) if each.compare)
        return all(getattr(self, each) == getattr(other, each) for each in own)

    def range(self, feature: str) -> IdRange:
        """Return for which ids of `feature` there is a row: of the only one, or of what is computed of several."""
        if len(self.features) > 1 or self.expression == KeyExpression.ids():
            return IdRange((feature,), 0, None, self.rows, None, -self.rows, self.within)
        return IdRange((feature,), 0, self.expression, self.rows, None, -self.rows, self.within)

    def fails_without_bounds(self, feature: str) -> bool:
        """Return whether there are ids without a row that no bounds of ids tell."""
        own = self.range(feature)
        if own.limit() is not None or own.key is None:
            return False
        low, high = own.within
        ids = np.array([each for each in telling_ids(own.key, self.rows) if low <= each < high], np.int64)
        return not bool(own.holds(ids).all())

    def without_overflow(self) -> Use:
        """Return it for ids within bounds in which some bounds tell those that have a row; itself where none do.

        Of `2 * x` id 2^63 - 1 is row -2, by overflow, which nobody means: such ids are refused as those that a cast to
        int32 would make others are.
        """
        if not self.fails_without_bounds(""):
            return self
        low, high = self.within
        for power in _WITHOUT_OVERFLOW:
            narrower = replace(self, within=(max(low, -(2**power)), min(high, 2**power)))
            if narrower.range("").limit() is not None:
                return narrower
        return self

    def row_of(self, value: int) -> int | None:
        """Return the row, from 0 on, of an id; None: there is none."""
        row = self.expression.row_of(value)
        row = row + self.rows if row < 0 else row
        return row if 0 <= row < self.rows else None

    def key(self, feature: Feature) -> tuple[int, KeyExpression | None]:
        """Return the number that is added to ids to give keys, or 0 and the expression that does."""
        expression = KeyExpression.ids() if len(self.features) > 1 else self.expression
        if self._below_zero(expression, feature):
            zero, rows = (KeyExpression.constant(each) for each in (0, self.rows))
            wrapped = KeyExpression.of("add", expression, rows)
            expression = KeyExpression.of("where", KeyExpression.of("lt", expression, zero), wrapped, expression)
        if self.pooled is not None and self.pooled.dropped is not None and expression != KeyExpression.ids():
            # Dropped by its key, which no other id may have: several ids can become one row.
            said = KeyExpression.of("eq", KeyExpression.ids(), KeyExpression.constant(self.pooled.dropped))
            return 0, KeyExpression.of("where", said, KeyExpression.constant(DROPPED), expression)
        if expression == KeyExpression.ids():
            return 0, None
        last = expression.steps[-1]
        if last.operator == "add" and expression.operand(0) == KeyExpression.ids():
            constant = expression.operand(1)
            if constant.is_constant:
                return int(constant.value), None
        return 0, expression

    def _below_zero(self, expression: KeyExpression, feature: Feature) -> bool:
        """Return whether ids may give rows that count from behind."""
        made = ids_made(feature)
        ids = np.array(telling_ids(expression, self.rows), np.int64)
        if made is not None:
            ids = np.concatenate([ids[(ids >= 0) & (ids < made)], np.arange(min(made, 4096))])
        return bool((expression.evaluate(ids) < 0).any())


@dataclass(frozen=True, slots=True, eq=False)
class CutSite:
    """One place of a graph where rows come out, and which of the look-ups they are."""

    site: Site
    layout: IndexLayout | None
    """None: ids given end to end, in their order."""
    uses: tuple[int, ...]
    """Number of the use of each of its elements, or of all; -1: a row that is the same in every request."""
    places: tuple[int, ...]
    """Place in its sequence of each element; -1: the feature has one id a row; of fixed rows the row."""


@dataclass(frozen=True, slots=True, eq=False)
class PooledSite:
    """One place of a graph where pooled bags come out."""

    output: str
    """Tensor of them."""
    tail: tuple[int, ...]
    """Its shape after the batch."""
    use: int


@dataclass(slots=True, eq=False)
class CutGraph:
    """All that is cut out of a graph."""

    uses: list[Use] = field(default_factory=list)
    sites: list[CutSite] = field(default_factory=list)
    pools: list[PooledSite] = field(default_factory=list)
    tables: dict[str, Array] = field(default_factory=dict)
    """Rows (n, D) of each table, by the tensor's name."""
    originals: dict[str, Array] = field(default_factory=dict)
    """The same tables as the graph has them."""
    axes: dict[str, int] = field(default_factory=dict)
    """Axis of each table that its rows lie along."""
    left: list[tuple[Site, str]] = field(default_factory=list)
    """Look-ups that stay, and why."""
    limits: list[IdRange] = field(default_factory=list)
    """Ids that look-ups which stay have rows for."""
    within: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Bounds of the ids that the graph's inputs take, of features whose type is shorter than int64."""
    computed: dict[tuple[tuple[str, ...], KeyExpression], Computed] = field(default_factory=dict)
    """Features that the server makes of others."""

    def within_of(self, features: Sequence[str], expression: KeyExpression) -> tuple[int, int]:
        """Return the bounds of the ids of the only feature; of what is computed of several there are none.

        Where the graph casts ids to int32, those beyond are refused: to it 2^32 + 3 is 3, which nobody means, and what
        it makes of a float beyond differs between processors.
        """
        if len(features) > 1:
            return LOWEST, HIGHEST
        low, high = self.within.get(features[0], (LOWEST, HIGHEST))
        steps = expression.steps
        for cast in [each for each in steps if each.type == "int32" and each.operands]:
            of = steps[cast.operands[0]]
            if of.operator == "id" or of.type in FLOATS:
                return max(low, -(2**31)), min(high, 2**31)
        return low, high

    def feature_of(self, use: Use) -> str:
        """Return the feature that is looked up."""
        return use.features[0] if len(use.features) == 1 else self.computed[use.features, use.expression].name

    def all_limits(
        self, schema: Schema, open_tables: Collection[str], more: Sequence[IdRange] = ()
    ) -> tuple[IdLimit, ...]:
        """Return the ids that the graph takes, by feature: of all but `open_tables`, where others get a default."""
        ranges = [
            use.range(self.feature_of(use)) for use in self.uses if use.beyond_fails and use.table not in open_tables
        ]
        return limits_of([*ranges, *self.limits, *more], schema)


def cut_graph(
    source: SourceGraph,
    schema: Schema,
    readings: Sequence[Reading],
    elements: Elements,
    within: Mapping[str, tuple[int, int]],
) -> CutGraph:
    """Return what of a graph can be cut out.

    Args:
        source: The graph, its inputs the schema's arguments.
        schema: Schema of the features.
        readings: The graph, read for different numbers of rows.
        elements: Elements of them all.
        within: Bounds of the ids that the graph's inputs take, of features whose type is shorter than int64.
    """
    cut = CutGraph(within=within)
    for site in find_sites(source, readings[0]):
        try:
            _add_site(cut, site, schema, readings, elements)
        except NotRead as exc:
            cut.left.append((site, str(exc)))
    cut.left += [(site, "it is looked up by several ids at once") for site in entries_looked_up(source, readings[0])]
    return cut


def _add_site(
    cut: CutGraph,
    site: Site,
    schema: Schema,
    readings: Sequence[Reading],
    elements: Elements,
) -> None:
    table = readings[0].values[site.table]
    unread = next((each for each in readings if site.index not in each.read), None)
    if unread is not None:
        raise NotRead(unread.reason(site.index))
    indices = []
    for each in readings:
        numbers, number_type = each.read[site.index]
        if number_type not in ("int32", "int64") and site.beyond == "fails":
            raise NotRead(f"its index is of type {number_type}")
        indices.append((site.index_of(numbers), each.rows))
    ragged = None
    if _is_ragged(schema, elements, indices[0][0]):
        forms = {ragged_form(elements, numbers) for numbers, _ in indices}
        if len(forms) != 1 or (ragged := forms.pop()) is None:
            raise NotRead("its index is not the ids of a feature of many, in their order")
    layout = None if ragged is not None else read_layout(elements, indices)
    looked = (ragged,) if ragged is not None else layout.looked if layout is not None else ()
    uses = _uses(cut, site, table, schema, elements, looked)
    reason = _unfit(table)
    if reason is not None:
        cut.limits += [_limit(cut, schema, use) for use in uses if use is not None and use.beyond_fails]
        raise NotRead(reason)
    numbers_of_uses = tuple(-1 if use is None else number_of(cut, schema, use) for use in uses)
    places = tuple(_place(elements, table, each, site) for each in looked)
    if cut.axes.get(site.table, site.axis) != site.axis:
        raise NotRead("it is looked up along another axis, too")
    if any(use is None or use.table == site.table for use in uses):
        cut.tables.setdefault(site.table, site.rows_of(table))
    cut.originals.setdefault(site.table, table)
    cut.axes.setdefault(site.table, site.axis)
    cut.sites.append(CutSite(site, layout, numbers_of_uses, places))


def _unfit(table: Array) -> str | None:
    """Return why rows of a table cannot be pulled; None: they can."""
    if table.dtype.kind not in "iub":
        return None
    if table.nbytes < MIN_INTEGER_BYTES:
        return "it is a small table of integers"
    if table.dtype.itemsize > 2 and max(abs(int(table.max())), abs(int(table.min()))) > MAX_EXACT:
        return "its integers are larger than float32 holds exactly"
    return None


def _is_ragged(schema: Schema, elements: Elements, numbers: NDArray[np.int64]) -> bool:
    sent = elements[int(numbers.reshape(-1)[0])].sent if numbers.size else ()
    feature = schema.get(sent[0].feature) if sent else None
    return isinstance(feature, Sparse) and feature.many


def _uses(
    cut: CutGraph, site: Site, table: Array, schema: Schema, elements: Elements, looked: Sequence[Looked]
) -> list[Use | None]:
    made: dict[tuple[int, tuple[str, ...]], Use] = {}
    uses: list[Use | None] = []
    for each in looked:
        if not each.sent:
            uses.append(None)
            continue
        features = tuple(dict.fromkeys(one.feature for one in each.sent))
        if len(features) != len(each.sent):
            raise NotRead("its index is computed of several ids of one sequence")
        if len(features) > 1 and not all(_single(schema, one) for one in features):
            raise NotRead("its index is computed of several features, some of which have many ids or are made")
        key = (each.form, features)
        if key not in made:
            made[key] = _use(cut, site, table, elements, each.form, features)
        uses.append(made[key])
    return uses


def _use(cut: CutGraph, site: Site, table: Array, elements: Elements, form: int, features: tuple[str, ...]) -> Use:
    name, rows, mapped, own = site.table, table.shape[site.axis], None, None
    expression = elements.expression(form, features)
    if expression is None and (through := elements.through(form)) is not None:
        # Rows of what a small constant maps ids to are the rows of a table by those ids.
        mapped, inner, by = through
        name, rows = f"{site.table}{_BY}{by}", len(mapped)
        own = _add_mapped(cut, site, table, name, mapped)
        expression = elements.expression(inner, features)
    if expression is None:
        raise NotRead("its index is too long an expression")
    within = cut.within_of(features, expression)
    if own is not None and mapped is not None:
        if expression == KeyExpression.ids():
            within = max(within[0], own[0]), min(within[1], own[1])
        elif own[0] or expression.evaluate(np.array(telling_ids(expression, rows), np.int64)).min() < 0:
            raise NotRead("its index is mapped by a constant to rows that there are not")
        rows, mapped = own[1], mapped[: own[1]]
    use = Use(name, features, expression.cast("int64"), rows, site.beyond == "fails", within, mapped)
    return use.without_overflow() if use.beyond_fails and len(features) == 1 else use


def _add_mapped(cut: CutGraph, site: Site, table: Array, name: str, mapped: Array) -> tuple[int, int] | None:
    """Add the table whose rows are those that a constant maps ids to, and return which of them [low, high) have one.

    None: all.
    """
    rows = site.rows_of(table)
    held = np.flatnonzero((mapped >= -len(rows)) & (mapped < len(rows)))
    if site.beyond != "fails" or not len(held) or held[-1] - held[0] >= len(held):
        raise NotRead("its index is mapped by a constant to rows that there are not")
    if len(mapped) * rows.shape[1] * rows.itemsize > MAX_MAPPED_BYTES:
        raise NotRead("its index is mapped by a constant so large that its rows are not held at a time")
    if name not in cut.tables:
        made = np.zeros((len(mapped), rows.shape[1]), rows.dtype)  # ids without a row are refused
        made[held] = rows[mapped[held]]
        cut.tables[name] = made[: held[-1] + 1]
    cut.originals.setdefault(name, table)
    cut.axes.setdefault(name, site.axis)
    return None if len(held) == len(mapped) else (int(held[0]), int(held[-1]) + 1)


def _single(schema: Schema, name: str) -> bool:
    feature = schema[name]
    return isinstance(feature, Sparse) and not feature.many


def number_of(cut: CutGraph, schema: Schema, use: Use) -> int:
    """Return the number of a use, which may be there."""
    for number, each in enumerate(cut.uses):
        if each.same_as(use):
            return number
    if len(use.features) > 1:
        _computed_feature(cut, schema, use)
    pad = getattr(schema[use.features[0]], "pad", None) if isinstance(schema[use.features[0]], IdSequence) else None
    if pad is not None and use.row_of(pad) is None and use.beyond_fails:
        raise ExportError(
            f"feature {use.features[0]}: its pad is {pad}, for which {use.table} has no row; it has {use.rows:,}."
            " Say in the schema with which id the model pads: IdSequence(..., pad=...)"
        )
    cut.uses.append(use)
    return len(cut.uses) - 1


def _limit(cut: CutGraph, schema: Schema, use: Use) -> IdRange:
    """Return the range of ids of a look-up that stays."""
    if len(use.features) > 1:
        _computed_feature(cut, schema, use)
    return use.range(cut.feature_of(use))


def _computed_feature(cut: CutGraph, schema: Schema, use: Use) -> Computed:
    """Return the feature that is what the graph makes of several, a new one where there is none."""
    key = (use.features, use.expression)
    if key not in cut.computed:
        name = "_and_".join(use.features)[:100]
        taken = {each.name for each in cut.computed.values()} | set(schema.argument_names())
        tried = (name, *(f"{name}_{number}" for number in range(2, len(taken) + 3)))
        cut.computed[key] = Computed(next(each for each in tried if each not in taken), use.features, use.expression)
    return cut.computed[key]


def _place(elements: Elements, table: Array, looked: Looked, site: Site) -> int:
    if looked.sent:
        return looked.sent[0].place if len(looked.sent) == 1 else NO_PLACE
    expression = elements.expression(looked.form, ())
    row = 0 if expression is None else int(expression.value)
    rows = table.shape[site.axis]
    if site.beyond == "zeros" or not -rows <= row < rows:
        raise NotRead("its index has constants beyond the table")
    return int(row % rows)


def table_names(tensors: Sequence[str]) -> dict[str, str]:
    """Return a name of a table for each tensor: its own, without what a table's name cannot have."""
    names: dict[str, str] = {}
    for tensor in tensors:
        plain = tensor.partition(_BY)[0].removesuffix(":0").removesuffix("/ReadVariableOp").removesuffix(".weight")
        plain = re.sub(r"[^A-Za-z0-9_.-]+", ".", plain).strip(".-")[:100] or "table"
        tried = (plain, *(f"{plain}_{number}" for number in range(2, len(tensors) + 2)))
        names[tensor] = next(each for each in tried if each not in names.values())
    return names
