"""Serving form of a graph that was cut: its uses as look-ups in keys, its tables as they are written, its schema.

Without raw ids a key is the number of a row. With them (`keys=`), the graph's own numbering is gone: a feature is
looked up by what clients send, and nothing of the rest may take its numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.export.keys import Keys, RowKeys
from ringpull.inference.export.table_options import TableOptions, check_options, row_type_of
from ringpull.inference.importers.imported_tables import ImportedTable
from ringpull.inference.importers.onnx.cutting import DROPPED, CutGraph, Use
from ringpull.inference.model.manifest import LookupSpec
from ringpull.inference.schema.key_expressions import KeyExpression
from ringpull.inference.schema.kinds import Feature, IdSequence, MadeFeature
from ringpull.inference.schema.schema import Schema
from ringpull.inference.schema.transforms import ValueType, Vocabulary
from ringpull.ps.errors import ExportError, InvalidInput
from ringpull.ps.spec import KeyType, OnUnavailable, Pooling, RowType, TableSpec

Array = NDArray[Any]

CHUNK_BYTES: Final = 16 * 1024 * 1024
"""Bytes of rows handed on at a time."""

_VALUE_TYPES: Final[dict[KeyType, ValueType]] = {
    KeyType.STRING: "string",
    KeyType.INT64: "int64",
    KeyType.UINT64: "uint64",
}
_OWN_TYPES: Final = {"float16": RowType.FLOAT16, "bfloat16": RowType.BFLOAT16}


@dataclass(frozen=True, slots=True, eq=False)
class GraphTable:
    """Table of a graph, as it is served."""

    name: str
    rows: Array
    """Its rows (n, D), of any type of numbers; perhaps a map of a file."""
    keys: RowKeys
    options: TableOptions

    def row(self, number: int) -> NDArray[np.float32]:
        """Return one row, float32 (D,)."""
        row: NDArray[np.float32] = self.part(number, number + 1)[0]
        return row

    def part(self, begin: int, end: int) -> NDArray[np.float32]:
        """Return rows [begin, end), float32 (n, D)."""
        made: NDArray[np.float32] = np.ascontiguousarray(self.rows[begin:end], np.float32)
        return made

    def imported(self, features: Sequence[str], beyond: str | None) -> ImportedTable:
        """Return it as it is written.

        Args:
            features: Features that are looked up in it.
            beyond: What becomes of ids without a row, for people; None: they get the default vector.

        Raises:
            InvalidInput: There is no such row type.
            ExportError: The default vector does not fit the rows.
        """
        row_type = row_type_of(self.name, self.options, _OWN_TYPES.get(self.rows.dtype.name, RowType.FLOAT32))
        spec = TableSpec(
            name=self.name,
            dim=self.rows.shape[1],
            row_type=row_type,
            key_type=self.keys.key_type,
            replicas=self.options.replicas,
            on_unavailable=OnUnavailable(self.options.on_unavailable),
        )
        return ImportedTable(
            pieces=self._pieces(spec.row_bytes),
            spec=spec,
            keyed_by=self.keys.described,
            features=tuple(features),
            default=self._default(),
            unknown=self._unknown(beyond),
            total_bytes=(len(self.rows) - self.keys.first) * spec.row_bytes,
            live=self.options.live,
        )

    def _pieces(self, row_bytes: int) -> Sequence[tuple[Array, NDArray[np.float32]]] | Iterator[Any]:
        chunk = max(1, CHUNK_BYTES // row_bytes)
        begins = range(self.keys.first, len(self.rows), chunk)
        pieces = (
            (
                self.keys.of(begin, min(begin + chunk, len(self.rows))),
                self.part(begin, min(begin + chunk, len(self.rows))),
            )
            for begin in begins
        )
        return list(pieces) if len(begins) == 1 else pieces

    def _unknown(self, beyond: str | None) -> str | None:
        if self.options.default is not None:
            return None
        if self.keys.raw:
            return None if self.keys.vocabulary is None else "row 0"
        return beyond

    def _default(self) -> Literal["zeros", "mean"] | NDArray[np.float32]:
        default = self.options.default
        if default is None:
            return "zeros" if self.keys.vocabulary is None else self.row(0).copy()
        if isinstance(default, str):
            return default
        vector = np.asarray(default, np.float32)
        if vector.shape != self.rows.shape[1:]:
            raise ExportError(
                f"table {self.name}: default has the shape {vector.shape}; it must be ({self.rows.shape[1]},)"
            )
        return vector


@dataclass(frozen=True, slots=True, eq=False)
class Serving:
    """A graph that was cut, as it serves."""

    schema: Schema
    lookups: tuple[LookupSpec, ...]
    """Look-ups, one for each use, in their order."""
    raw: Mapping[str, RowKeys]
    """Features that are looked up by raw ids, and the keys of their table."""


def served_tables(
    cut: CutGraph,
    names: Mapping[str, str],
    keys: Mapping[str, Keys],
    options: Mapping[str, TableOptions],
    left: Mapping[str, str],
) -> dict[str, GraphTable]:
    """Return the tables by the tensor's name.

    Args:
        cut: The graph.
        names: Names of the tables, by the tensor's.
        keys: Raw ids of rows, by the table's name.
        options: Options, by the table's name.
        left: Why what is looked up stays in the rest, by name.

    Raises:
        ExportError: Keys or options are of no table, or keys do not fit their rows.
    """
    check_options(options)
    for table in [*keys, *options]:
        if table not in names.values():
            known = ", ".join(names.values()) or "none"
            why = f"; it stays in the dense program, because {left[table]}" if table in left else ""
            raise ExportError(
                f"keys or tables name {table!r}, which is no table of this model{why}. Its tables: {known}"
            )
    made = {}
    for tensor, name in names.items():
        given = options.get(name, TableOptions())
        rows = cut.tables[tensor]
        row_keys = RowKeys.read(name, len(rows), keys.get(name), unknown_is_row_0=given.default is None)
        made[tensor] = GraphTable(name, rows, row_keys, given)
    return made


def plan_serving(
    cut: CutGraph, uses: Sequence[Use], schema: Schema, tables: Mapping[str, GraphTable], taken: Sequence[str]
) -> Serving:
    """Say every use in the keys of its table.

    Args:
        cut: The graph.
        uses: The look-ups of the rest, in the order of its inputs.
        schema: The schema that the graph takes.
        tables: Its tables, by the tensor's name.
        taken: Features whose ids the rest takes.

    Raises:
        ExportError: Raw ids and the way the graph uses the feature do not fit together.
    """
    raw = _raw_features(cut, uses, schema, tables, taken)
    try:
        served = schema.for_serving({name: _VALUE_TYPES[each.key_type] for name, each in raw.items()})
    except InvalidInput as exc:
        raise ExportError(f"keys: {exc}") from exc
    features: list[Feature] = []
    for each in served.features:
        if isinstance(each, IdSequence) and each.name in raw:
            keys, pad = raw[each.name], getattr(schema[each.name], "pad", 0)
            own = keys.first <= pad < keys.rows
            pad = int(keys.prepared_ids(np.array([pad]))[0]) if own else keys.unkeyed_id()
            features.append(replace(each, pad=pad))
        else:
            features.append(each)
    computed = list(dict.fromkeys(cut.computed.values()))
    final = Schema(features, served.stacks).with_computed(computed)
    lookups = tuple(_lookup(cut, use, schema, final, tables[use.table], raw) for use in uses)
    return Serving(final, lookups, raw)


def _raw_features(
    cut: CutGraph, uses: Sequence[Use], schema: Schema, tables: Mapping[str, GraphTable], taken: Sequence[str]
) -> dict[str, RowKeys]:
    found: dict[str, RowKeys] = {}
    numbered: dict[str, str] = {}
    for use in uses:
        keys, name = tables[use.table].keys, cut.feature_of(use)
        if not keys.raw:
            numbered.update(dict.fromkeys(use.features, keys.table))
            continue
        found.setdefault(name, keys)
        if len(use.features) > 1 or isinstance(schema.get(name), MadeFeature):
            raise ExportError(f"keys of table {keys.table}: {name} is computed of other features; export without keys")
        if use.expression != KeyExpression.ids():
            raise ExportError(
                f"keys of table {keys.table}: the graph looks up {use.expression} of feature {name} (x), which raw ids"
                " do not give; import it without keys, and send the ids that the model was trained with"
            )
        last = getattr(schema[name], "transforms", ())[-1:]
        given = last[0] if last and isinstance(last[0], Vocabulary) else None
        if keys.vocabulary != given:
            wanted = "the feature's own Vocabulary" if given else "a list of raw ids: the feature has no Vocabulary"
            raise ExportError(f"keys of table {keys.table}: feature {name} is looked up in it; give {wanted}")
        if found[name].ids is not keys.ids and not np.array_equal(found[name].ids or [], keys.ids or []):
            raise ExportError(f"feature {name}: its tables {found[name].table} and {keys.table} have different keys")
        if name in taken:
            raise ExportError(
                f"feature {name}: its table {keys.table} is keyed by raw ids, but the rest of the graph also takes its"
                " numbers; import it without keys"
            )
    both = sorted(found.keys() & numbered.keys())
    if both:
        raise ExportError(
            f"feature {both[0]}: its table {found[both[0]].table} is keyed by raw ids, {numbered[both[0]]} by row"
            " number; give keys to both"
        )
    return found


def _lookup(
    cut: CutGraph, use: Use, trained: Schema, served: Schema, table: GraphTable, raw: Mapping[str, RowKeys]
) -> LookupSpec:
    name = cut.feature_of(use)
    feature = served[name]
    add, key = (0, None) if name in raw else use.key(feature)
    pooled, pad = use.pooled, getattr(trained.get(name), "pad", None)
    if pooled is not None:
        dropped = pooled.dropped
        if dropped is not None and name in raw:
            keys = raw[name]
            dropped = int(keys.prepared_ids(np.array([dropped]))[0]) if keys.first <= dropped < keys.rows else None
            dropped = getattr(feature, "pad", None) if dropped is None else dropped
        elif dropped is not None and key is not None:
            dropped = DROPPED
        return LookupSpec(
            table=table.name,
            feature=name,
            pooling=pooled.pooling,
            add=add,
            padding_id=dropped,
            weighted=pooled.weighted,
            unpadded=pooled.unpadded,
            key=key,
        )
    fill = None
    if pad is not None and isinstance(feature, IdSequence) and (row := use.row_of(pad)) is not None:
        vector = table.row(row)
        fill = tuple(vector.tolist()) if vector.any() else None
    return LookupSpec(table=table.name, feature=name, pooling=Pooling.NONE, add=add, fill=fill, key=key)
