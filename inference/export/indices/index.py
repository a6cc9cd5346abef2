"""Index expressions: what does an embedding's index look up, for each row of the batch?

Rows can be looked up before the dense program runs when every element of the index is a key expression of the ids of
one row, or of one place of a sequence, and every row of the batch is read alike. That is seen by reading the index for
a few numbers of rows (`ringpull.inference.export.indices.marks`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from ringpull.inference.export.indices.additive import constant_added
from ringpull.inference.export.indices.marks import ID_PARTS, NO_ROW, MarkReader, Marks, Source, Unread
from ringpull.inference.export.indices.row_moves import RowMove
from ringpull.inference.export.probe import PROBED_ROWS, Probe
from ringpull.inference.export.refusals import NotPlain
from ringpull.inference.schema.key_expressions import MAX_FEATURES, KeyExpression
from ringpull.inference.schema.schema import Schema

__all__ = ["ID_PARTS", "Index", "Layout", "NotPlain", "Part", "Source", "read_index"]

MAX_PER_SOURCE: Final = 16
"""Different expressions of one source that one index may look up: as many times its ids are pulled."""


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that an index looks up: a row for each id of a source, or for the ids of several, of one row."""

    sources: tuple[Source, ...]
    add: int = 0
    """Constant added to the ids; 0 where there is an expression."""
    key: KeyExpression | None = None
    """Expression of the sources' ids, in their order; None: the constant is all there is."""

    @property
    def source(self) -> Source:
        """The only source."""
        (source,) = self.sources
        return source

    def row_of(self, *ids: int) -> int:
        """Return the row for one id of each source."""
        return ids[0] + self.add if self.key is None else self.key.row_of(*ids)


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Layout of the elements of an index: `elements` of them belong to each row of the batch, B.

    The index has the shape (*before, B * times, *after), rows whole or, where `tiled`, one after the other, `times`
    over. In a row, elements are in the order of (*before, times, *after).
    """

    before: tuple[int, ...]
    times: int
    after: tuple[int, ...]
    tiled: bool
    parts: NDArray[np.int64]
    """Number of the part of each element (K,)."""
    places: NDArray[np.int64]
    """Place of each in its sequence (K,); -1 where the part is single-valued."""
    fixed: NDArray[np.int64]
    """Row of each element that is the same in every request (K,), whatever its part; -1 of the others."""

    @property
    def elements(self) -> int:
        """Elements of one row, K."""
        return len(self.parts)


@dataclass(frozen=True, slots=True, eq=False)
class Index:
    """What an index looks up, and where its elements are."""

    parts: tuple[Part, ...]
    layout: Layout | None
    """Layout of its elements; None: they are the ids of a ragged feature, one by one, in their order."""

    @property
    def in_order(self) -> bool:
        """Whether it is all of one part, row by row, in the order of its ids."""
        layout = self.layout
        if layout is None:
            return True
        one = len(self.parts) == 1 and not layout.before and not layout.tiled and bool((layout.fixed < 0).all())
        one = one and self.parts[0].sources[0].moved is None
        return one and (layout.elements == 1 or bool((layout.places == np.arange(layout.elements)).all()))


def read_index(probe: Probe, node: fx.Node, rows: int) -> Index:
    """Return what an index of a table of so many rows looks up.

    Raises:
        NotPlain: The index is constant, computed by other operators, or rows of the batch influence each other.
    """
    if not probe.reads(node):
        raise NotPlain("its index is constant")
    reader = MarkReader.of(probe)
    read = []
    for count in PROBED_ROWS:
        marks = reader.read(node, count)
        if not isinstance(marks, Marks):
            raise NotPlain("its index is constant")
        read.append(marks)
    numbers = np.unique(np.concatenate([each.meanings.reshape(-1).numpy() for each in read]))
    fixed = {number: row for number in numbers.tolist() if (row := _fixed_row(reader, number, rows)) is not None}
    parts = {number: _part(reader, probe.schema, number, rows) for number in numbers.tolist() if number not in fixed}
    if not parts:
        raise NotPlain("its index is constant")
    _check_counts(parts.values())
    ragged = [part for part in parts.values() if _part_kind(probe, part.sources[0]) == "values"]
    if ragged:
        if fixed:
            raise NotPlain(f"the ids of feature {ragged[0].sources[0].feature} are mixed with constants")
        _check_ragged(parts.values(), read)
        return Index(tuple(parts.values()), None)
    for part in parts.values():
        if len(part.sources) > 1:
            _check_single(probe, part)
    layout = _layout(read)
    distinct = list(dict.fromkeys(parts[number] for number in layout.parts.tolist() if number in parts))
    numbered = {number: distinct.index(part) for number, part in parts.items()}
    own = np.array([numbered.get(number, 0) for number in layout.parts.tolist()], np.int64)
    rows_fixed = np.array([fixed.get(number, -1) for number in layout.parts.tolist()], np.int64)
    return Index(tuple(distinct), replace(layout, parts=own, fixed=rows_fixed))


def _fixed_row(reader: MarkReader, number: int, rows: int) -> int | None:
    """Return the row that a meaning is when it reads no ids."""
    meaning = reader.meaning(number)
    if isinstance(meaning, Unread) or meaning.features or not meaning.is_constant:
        return None
    row = int(meaning.value)
    if meaning.type not in ("int64", "int32") or not 0 <= row < rows:
        raise NotPlain(f"its index has the constant {meaning}, which is no row of its own")
    return row


def read_parts(probe: Probe, node: fx.Node, rows: int) -> list[Part]:
    """Return all that is known of what an index looks up, wherever its elements are: less than `read_index` needs."""
    reader = MarkReader.of(probe)
    try:
        read = [reader.read(node, count) for count in PROBED_ROWS]
    except NotPlain:
        return []
    marked = [each.meanings.reshape(-1).numpy() for each in read if isinstance(each, Marks)]
    found: dict[Part, None] = {}
    for number in np.unique(np.concatenate(marked)).tolist() if marked else ():
        with suppress(NotPlain):
            found[_part(reader, probe.schema, number, rows)] = None
    return list(found)


def _part(reader: MarkReader, schema: Schema, number: int, rows: int) -> Part:
    meaning = reader.meaning(number)
    if isinstance(meaning, Unread):
        raise NotPlain(meaning.reason)
    if not meaning.features:  # no number, or it had been read as one
        raise NotPlain("its index is constant")
    if meaning.type not in ("int64", "int32"):
        raise NotPlain(f"its index is cast to {meaning.type}")
    numbers = meaning.features
    # One that comes as two arguments, its own and in a stack, has the same ids.
    by_ids: dict[tuple[str, RowMove | None], Source] = {}
    for each in numbers:
        by_ids.setdefault(_ids_of(reader.sources[each]), reader.sources[each])
    own = sorted(by_ids, key=lambda ids: schema.place(ids[0]))
    sources = tuple(by_ids[each] for each in own)
    if len(sources) > MAX_FEATURES:
        raise NotPlain(f"its index is computed of {len(sources)} features; {MAX_FEATURES} may be")
    key = meaning.renumbered({each: own.index(_ids_of(reader.sources[each])) for each in numbers})
    add = constant_added(key, rows) if len(sources) == 1 else None
    return Part(sources, key=key.cast("int64").in_order()) if add is None else Part(sources, add)


def _ids_of(source: Source) -> tuple[str, RowMove | None]:
    return source.feature, source.moved


def _part_kind(probe: Probe, source: Source) -> str:
    return probe.arguments[source.argument].part


def _check_counts(parts: Iterable[Part]) -> None:
    counts: dict[Source, set[Part]] = {}
    for part in parts:
        for source in part.sources:
            counts.setdefault(source, set()).add(part)
    for source, different in counts.items():
        if len(different) > MAX_PER_SOURCE:
            raise NotPlain(
                f"its index computes {len(different)} different things of the ids of {source.feature}; as a table it"
                f" would be pulled that many times, {MAX_PER_SOURCE} at most"
            )


def _check_single(probe: Probe, part: Part) -> None:
    for source in part.sources:
        if _part_kind(probe, source) not in ("id", "id_stack"):
            others = ", ".join(each.feature for each in part.sources if each is not source)
            raise NotPlain(
                f"its index is computed of feature {source.feature}, which has many ids per row, and of {others}: only"
                " single-valued features can be put together"
            )


def _check_ragged(parts: Iterable[Part], read: list[Marks]) -> None:
    first, *others = parts
    feature = next(each.feature for part in (first, *others) for each in part.sources)
    whole = all(torch.equal(each.places.reshape(-1), torch.arange(each.places.numel())) for each in read)
    # Starts of bags are probed with sizes that no two features share, so that an index as long as the values is whole.
    if others or len(first.sources) > 1 or not whole:
        raise NotPlain(f"the ids of feature {feature} are mixed with others or moved before they are pooled")


def _layout(read: list[Marks]) -> Layout:
    """Return where the elements are, for any number of rows; parts are still numbers of meanings."""
    shapes = [tuple(each.rows.shape) for each in read]
    ranks = {len(shape) for shape in shapes}
    axes = [axis for axis in range(len(shapes[0])) if len(ranks) == 1 and len({shape[axis] for shape in shapes}) > 1]
    if len(axes) != 1:
        raise NotPlain("its index is not one for each row: no single dimension grows with the rows of the batch")
    (axis,) = axes
    counts = zip(shapes, PROBED_ROWS, strict=True)
    times = {divmod(shape[axis], rows) for shape, rows in counts}
    if len(times) > 1 or next(iter(times))[1]:
        raise NotPlain("its index has elements whose number does not grow with the rows of the batch alone")
    ((each_row, _),) = times
    for tiled in (False, True):
        found = [_by_row(marks, axis, rows, each_row, tiled) for marks, rows in zip(read, PROBED_ROWS, strict=True)]
        first = found[0]
        if first is not None and all(
            each is not None and np.array_equal(each[0], first[0]) and np.array_equal(each[1], first[1])
            for each in found
        ):
            shape = shapes[0]
            return Layout(shape[:axis], each_row, shape[axis + 1 :], tiled, *first, np.full(len(first[0]), -1))
    raise NotPlain("its index mixes ids of different rows, or computes other things of the ids in other rows")


def _by_row(
    marks: Marks, axis: int, rows: int, times: int, tiled: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Return meanings and places of the elements of every row, if they are alike in all, each of the row's own ids."""

    def rows_first(part: Tensor) -> Tensor:
        shape = part.shape
        sizes = (times, rows) if tiled else (rows, times)
        split = part.reshape(*shape[:axis], *sizes, *shape[axis + 1 :])
        return split.movedim(axis + int(tiled), 0).reshape(rows, -1)

    if math.prod(marks.rows.shape) == 0:
        return None
    of_row = rows_first(marks.rows)
    if not bool(((of_row == torch.arange(rows)[:, None]) | (of_row == NO_ROW)).all()):
        return None
    meanings, places = rows_first(marks.meanings), rows_first(marks.places)
    if not bool((meanings == meanings[0]).all() and (places == places[0]).all()):
        return None
    return meanings[0].numpy().copy(), places[0].numpy().copy()
