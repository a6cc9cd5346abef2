"""Proof of keys: what a graph computes of ids, run by onnxruntime, beside the key expressions that were read off it.

Reading shows what is computed; this shows that it was read well, at the ids where it matters: 0, -1, the last row,
those after it, those around every constant, and where integers end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.export.ranges import HIGHEST, LOWEST, telling_ids
from ringpull.inference.importers.onnx.binding import FRONT
from ringpull.inference.importers.onnx.cutting import CutGraph, CutSite, Use
from ringpull.inference.importers.onnx.layout import by_row
from ringpull.inference.importers.onnx.rest import pruned
from ringpull.inference.importers.onnx.sessions import Session
from ringpull.inference.importers.onnx.source import SourceGraph
from ringpull.inference.schema.kinds import IdSequence
from ringpull.inference.schema.schema import Schema
from ringpull.ps.errors import ExportError

Array = NDArray[Any]

BEYOND: Final = 5
"""Ids beyond the last row that are tried, as far as this."""


def prove_keys(source: SourceGraph, cut: CutGraph, schema: Schema) -> int:
    """Hold every key expression against the graph's own index, and return how many ids were.

    Raises:
        ExportError: They differ; the message has table, feature, id and both rows.
    """
    tried = 0
    for site in cut.sites:
        if site.layout is None:
            continue
        part = pruned(source, [site.site.index])
        session = Session(part.model, part.weights, source.where, optimised=False)
        for number in dict.fromkeys(each for each in site.uses if each >= 0):
            tried += _prove(session, cut, site, number, schema)
    return tried


def _prove(session: Session, cut: CutGraph, site: CutSite, number: int, schema: Schema) -> int:
    use = cut.uses[number]
    ids = _ids(use, [cut.within.get(each, (LOWEST, HIGHEST)) for each in use.features])
    if use.through is not None:
        rows_of_ids = use.expression.evaluate(*ids)
        held = (rows_of_ids >= -use.rows) & (rows_of_ids < use.rows)
        ids = tuple(each[held] for each in ids)
    rows = len(ids[0])
    feeds: dict[str, Array] = {}
    for name in session.inputs:
        argument = schema.argument_names()[name.removeprefix(FRONT)]
        feature = schema[argument.features[0]]
        place = use.features.index(argument.features[0]) if argument.features[0] in use.features else None
        own = np.zeros(rows, np.int64) if place is None else ids[place]
        feeds[name] = np.repeat(own[:, None], feature.length, 1) if isinstance(feature, IdSequence) else own
        if argument.part in ("dense", "number"):
            feeds[name] = np.zeros((rows, getattr(feature, "width", 1)), np.float32)[
                :, 0 if argument.part == "number" else slice(None)
            ]
    (index,) = session.run(feeds)
    assert site.layout is not None
    found = by_row(site.layout, site.site.index_of(index), rows)
    wanted = use.expression.evaluate(*ids)
    if use.through is not None:
        wanted = use.through[wanted]
    for element in [place for place, each in enumerate(site.uses) if each == number]:
        wrong = np.flatnonzero(found[:, element].astype(np.int64) != wanted)
        if len(wrong):
            at = int(wrong[0])
            told = ", ".join(f"{name} = {each[at]}" for name, each in zip(use.features, ids, strict=True))
            raise ExportError(
                f"table {use.table}: of {told} the graph looks up row {found[at, element]}, but it was read as"
                f" {use.expression}, which is {wanted[at]}; this is a fault of the importer, please report it"
            )
    return rows


def _ids(use: Use, within: Sequence[tuple[int, int]]) -> tuple[Array, ...]:
    """Return ids of each feature, `within` the bounds of its type, that tell expressions apart."""
    rows = use.rows
    edges = [0, rows - 1, rows, rows + BEYOND, -1, -rows, -rows - 1]
    telling = np.array(sorted({*edges, *telling_ids(use.expression, rows)}), np.int64)
    if len(use.features) == 1:
        return (_held(telling, use.within),)
    random = np.random.default_rng(0)
    few = [random.choice(_held(telling, each), 512) for each in within]
    small = [random.integers(max(0, low), min(max(2, rows), high), 512) for low, high in within]
    return tuple(np.concatenate([one, other]) for one, other in zip(few, small, strict=True))


def _held(ids: Array, within: tuple[int, int]) -> Array:
    low, high = within
    return ids[(ids >= low) & ((ids < high) | (high == HIGHEST))]
