"""Serving form of a model: its uses in row numbers become look-ups in keys, its training schema the serving one.

Without raw ids the two differ only in constants. With raw ids, serving looks up what the client sends: the feature
loses its Vocabulary, and every number of the model's own numbering (padding, fill, constants added) must be said in
raw ids or not at all. What cannot be said so that serving equals the model is an `ExportError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from ringpull.inference.export.cut import Cut
from ringpull.inference.export.indices.index import ID_PARTS
from ringpull.inference.export.keys import RowKeys
from ringpull.inference.export.raw_masks import compared_with, say
from ringpull.inference.export.tables import TablePlan
from ringpull.inference.export.uses import Use
from ringpull.inference.model.manifest import KeptBy, LookupSpec
from ringpull.inference.schema.arguments import Argument
from ringpull.inference.schema.kinds import Computed, IdSequence, MadeFeature
from ringpull.inference.schema.schema import Schema
from ringpull.inference.schema.transforms import ValueType, Vocabulary
from ringpull.ps.errors import ExportError, InvalidInput
from ringpull.ps.spec import KeyType, Pooling

_VALUE_TYPES: dict[KeyType, ValueType] = {KeyType.STRING: "string", KeyType.INT64: "int64", KeyType.UINT64: "uint64"}


@dataclass(frozen=True, slots=True)
class Serving:
    """The look-ups and inputs of a cut model when it serves."""

    schema: Schema
    lookups: tuple[LookupSpec, ...]
    """Look-ups, one for each use, in their order."""


def plan_serving(
    cut: Cut,
    schema: Schema,
    arguments: Mapping[str, Argument],
    plans: Mapping[str, TablePlan],
) -> Serving:
    """Say every use of `cut` in the keys of its table.

    Args:
        cut: The model.
        schema: The one it was trained with.
        arguments: The forward's.
        plans: Plans of the tables, by name.

    Raises:
        ExportError: Raw ids and the way the model uses the feature do not fit together.
    """
    keys = {table: plan.keys for table, plan in plans.items()}
    raw = _raw_features(cut, schema, keys)
    for name in cut.arguments:
        argument = arguments[name]
        if argument.part in ID_PARTS and not set(argument.features).isdisjoint(raw):
            _say_by_raw_ids(cut, argument, raw)
    try:
        served = schema.for_serving({name: _VALUE_TYPES[each.key_type] for name, each in raw.items()})
    except InvalidInput as exc:
        raise ExportError(f"keys: {exc}") from exc
    pads = _raw_pads(cut, schema, keys)
    features = [
        replace(each, pad=pads[each.name]) if isinstance(each, IdSequence) and each.name in pads else each
        for each in served.features
    ]
    served = Schema(features, served.stacks)
    lookups = tuple(_lookup(use, served, plans[use.table], _kept_by(use, cut, raw)) for use in cut.uses)
    return Serving(served, lookups)


def _say_by_raw_ids(cut: Cut, argument: Argument, raw: Mapping[str, RowKeys]) -> None:
    """Compare ids that the dense program reads with raw ids, if comparing them is all it does."""
    feature = next(each for each in argument.features if each in raw)
    table = raw[feature]
    use = next(each for each in cut.uses if each.feature == feature)
    comparisons = None
    if argument.features == (feature,):
        comparisons = compared_with(cut.program, argument.name, -use.add)
    rows = {number: number + use.add for _, number in (comparisons or {}).values()}
    unknown = [number for number, row in rows.items() if not table.first <= row < table.rows]
    if comparisons is None or unknown:
        what = "uses its row numbers" if not unknown else f"compares them with {_unknown(table, rows[unknown[0]])}"
        raise ExportError(
            f"feature {feature}: its table {table.table} is keyed by raw ids, but the dense program also {what}"
            f" (argument {argument.name}). For a mask, take {feature}_lengths; else export without keys"
        )
    say(comparisons, {number: _prepared_id(table, row) for number, row in rows.items()})
    cut.program.recompile()


def _unknown(table: RowKeys, row: int) -> str:
    unknown = 0 <= row < table.first
    return f"row {row}, that of unknown ones" if unknown else f"row {row}, which it does not have"


def _raw_features(cut: Cut, schema: Schema, keys: Mapping[str, RowKeys]) -> dict[str, RowKeys]:
    """Return the keys by which each feature of raw ids is looked up; one feature cannot be both raw and numbered."""
    found: dict[str, RowKeys] = {}
    numbered: dict[str, str] = {}
    for use in cut.uses:
        table = keys[use.table]
        if not table.raw:
            numbered[use.feature] = table.table
            continue
        found.setdefault(use.feature, table)
        feature = schema[use.feature]
        if isinstance(feature, Computed):
            raise ExportError(
                f"keys of table {table.table}: feature {feature.name} is computed of {', '.join(feature.of)}, whose row"
                " numbers raw ids do not give; export this table without keys"
            )
        if isinstance(feature, MadeFeature):
            raise ExportError(f"keys of table {table.table}: feature {use.feature} is a cross, which has no raw ids")
        last = feature.transforms[-1] if feature.transforms else None
        given = last if isinstance(last, Vocabulary) else None
        if table.vocabulary != given:
            wanted = "the feature's own Vocabulary" if given else "a list of raw ids: the feature has no Vocabulary"
            raise ExportError(f"keys of table {table.table}: feature {use.feature} is looked up in it; give {wanted}")
        if use.key is not None:
            raise ExportError(
                f"keys of table {table.table}: the model looks up {_described(use)} in it, which raw ids do not give;"
                " export this table without keys, and send the ids that the model was trained with"
            )
        if table.vocabulary and use.add:
            raise ExportError(
                f"keys of table {table.table}: the model adds {use.add} to the numbers of the Vocabulary of feature"
                f" {use.feature}; give a list with the raw id of each row, to a feature without Vocabulary"
            )
        if (problem := _disagreement(cut, use, keys)) is not None:
            raise ExportError(problem)
    for name in found.keys() & numbered.keys():
        raise ExportError(
            f"feature {name}: looked up by raw ids in table {found[name].table}, but by row numbers in table"
            f" {numbered[name]}; give keys for both"
        )
    return found


def _described(use: Use) -> str:
    return f"{use.key} of the ids x of feature {use.feature}"


def _disagreement(cut: Cut, use: Use, keys: Mapping[str, RowKeys]) -> str | None:
    """Return what is wrong if another table says that some id of the model's is another raw id than `use` says."""
    own = keys[use.table]
    for other_use in cut.uses:
        other = keys[other_use.table]
        if other_use.feature != use.feature or other is own or not other.raw:
            continue
        # No expressions here: tables keyed by raw ids have none.
        low = max(own.first - use.add, other.first - other_use.add)
        high = min(own.rows - use.add, other.rows - other_use.add)
        mine, theirs = own.of(low + use.add, high + use.add), other.of(low + other_use.add, high + other_use.add)
        if own.key_type is not other.key_type or not np.array_equal(mine, theirs):
            return (
                f"keys of tables {own.table} and {other.table}: feature {use.feature} is looked up in both, but their"
                " raw ids of the same row differ"
            )
    return None


def _raw_pads(cut: Cut, schema: Schema, keys: Mapping[str, RowKeys]) -> dict[str, int]:
    """Return what to pad sequences of raw ids with: the raw id of the row that was the padding, or one without row."""
    pads: dict[str, int] = {}
    for use in cut.uses:
        table, feature = keys[use.table], schema[use.feature]
        if table.raw and isinstance(feature, IdSequence):
            row = use.row_of(feature.pad)
            known = table.first <= row < table.rows
            pads[use.feature] = _prepared_id(table, row) if known else table.unkeyed_id()
    return pads


def _kept_by(use: Use, cut: Cut, raw: Mapping[str, RowKeys]) -> KeptBy | None:
    """Return the rule by which another sequence keeps places, in the raw ids of that one if they are raw."""
    rule = use.kept_by
    if rule is None or rule.padding_id is None or rule.feature not in raw:
        return rule
    table = raw[rule.feature]
    row = rule.padding_id + next(each.add for each in cut.uses if each.feature == rule.feature)
    if not table.first <= row < table.rows:
        raise ExportError(
            f"feature {rule.feature}: its table {table.table} is keyed by raw ids, but the model leaves out places of"
            f" feature {use.feature} where its row is {row}, which no raw id stands for. For a mask, take"
            f" {rule.feature}_lengths; else export without keys"
        )
    return replace(rule, padding_id=_prepared_id(table, row))


def _lookup(use: Use, served: Schema, plan: TablePlan, kept_by: KeptBy | None) -> LookupSpec:
    keys, fill = plan.keys, None
    if use.fill_row is not None:
        if not 0 <= use.fill_row < keys.rows:
            raise ExportError(
                f"feature {use.feature}: padded with row {use.fill_row} of table {use.table}, which has rows 0 to"
                f" {keys.rows - 1}"
            )
        fill = tuple(plan.served_rows(np.array([use.fill_row]))[0].tolist())
    return LookupSpec(
        table=use.table,
        feature=use.feature,
        pooling=use.pooling,
        add=0 if keys.raw else use.add,
        padding_id=None
        if use.padding_row is None
        else _padding_id(use, use.padding_row, served, keys, plan.zero_default),
        fill=fill,
        weighted=use.weighted,
        unpadded=use.unpadded,
        key=use.key,
        kept_by=kept_by,
    )


def _padding_id(use: Use, row: int, served: Schema, keys: RowKeys, zero_default: bool) -> int | None:
    """Return the prepared id that bags leave out, as the model leaves out `row`."""
    if not keys.raw:
        return row if use.key is not None else row - use.add
    if row >= keys.first:
        return _prepared_id(keys, row)
    # The model leaves unknown ids out, which serving cannot tell from known ones before the pull. It looks them up and
    # gets the default vector: the same in a sum when that is zeros.
    if use.pooling is not Pooling.SUM or not zero_default:
        raise ExportError(
            f"table {use.table}: its padding_idx is row 0, that of ids unknown to the Vocabulary, and a"
            f" {use.pooling.value} of bags leaves them out; by raw ids they would count as the default vector. Use"
            " another padding_idx, or sum with a row 0 of zeros, or export this table without keys"
        )
    feature = served[use.feature]
    return feature.pad if isinstance(feature, IdSequence) else None


def _prepared_id(keys: RowKeys, row: int) -> int:
    return int(keys.prepared_ids(np.array([row], np.int64))[0])
