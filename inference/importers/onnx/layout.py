"""Layout of an index: which ids its elements are, row by row, seen by reading it for two numbers of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.importers.onnx.elements import MIXED, NO_ROW, Elements, Numbers, Sent
from ringpull.inference.importers.onnx.operators import NotRead

Array = NDArray[Any]

READ_ROWS: Final = (5, 7, 12)
"""Numbers of rows of the readings: what grows with them, but not by as much for each, is seen by the third."""


@dataclass(frozen=True, slots=True)
class Looked:
    """One element of a row's part of an index: a form of ids, or a row that is the same in every request."""

    form: int
    sent: tuple[Sent, ...]
    """Ids that it is computed of; none: it is the same in every request."""


@dataclass(frozen=True, slots=True)
class IndexLayout:
    """Layout of the elements of an index.

    The index has the shape (*before, B * times, *after), rows whole or, where `tiled`, one after the other, `times`
    over. The elements of a row are in the order of (times, *before, *after).
    """

    before: tuple[int, ...]
    times: int
    after: tuple[int, ...]
    tiled: bool
    looked: tuple[Looked, ...]


def ragged_form(elements: Elements, numbers: Numbers) -> Looked | None:
    """Return the one form that an index makes of ids given end to end, in their order; None: it is none such."""
    if numbers.ndim != 1 or not numbers.size:
        return None
    looked = [elements[int(each)] for each in numbers]
    if [each.row for each in looked] != list(range(len(looked))) or len({each.form for each in looked}) != 1:
        return None
    return Looked(looked[0].form, looked[0].sent)


def read_layout(elements: Elements, readings: Sequence[tuple[Numbers, int]]) -> IndexLayout:
    """Return the layout of an index, of its elements in readings of different numbers of rows.

    Raises:
        NotRead: Rows of the batch influence each other, or are not all done alike.
    """
    (numbers, rows), *others = readings
    found = None
    for axis in range(numbers.ndim):
        for tiled in (False, True):
            found = found or _along(elements, numbers, rows, axis, tiled)
    if found is None:
        raise NotRead("its index is not one part for each row of the batch")
    axis = len(found.before)
    for other, count in others:
        again = _along(elements, other, count, axis, found.tiled) if other.ndim == numbers.ndim else None
        if again != found:
            raise NotRead("its index depends on the number of rows of the batch")
    return found


def _along(elements: Elements, numbers: Numbers, rows: int, axis: int, tiled: bool) -> IndexLayout | None:
    """Return the layout with the batch along an axis, if it is that."""
    before, size, after = numbers.shape[:axis], numbers.shape[axis], numbers.shape[axis + 1 :]
    if size == 0 or size % rows:
        return None
    times = size // rows
    if tiled and times == 1:
        return None
    laid = _by_row(numbers, rows, axis, times, tiled)
    by_row = [[elements[int(each)] for each in row] for row in laid]
    for number, row in enumerate(by_row):
        if any(each.row not in (number, NO_ROW) or each.row == MIXED for each in row):
            return None
    looked = [tuple(Looked(each.form, each.sent) for each in row) for row in by_row]
    if any(each != looked[0] for each in looked[1:]) or not any(each.sent for each in looked[0]):
        return None
    return IndexLayout(before, times, after, tiled, looked[0])


def _by_row(numbers: Array, rows: int, axis: int, times: int, tiled: bool) -> Array:
    """Return the elements of each row (rows, K), in the order of (times, *before, *after)."""
    before, after = numbers.shape[:axis], numbers.shape[axis + 1 :]
    split = (times, rows) if tiled else (rows, times)
    batch, again = (axis + 1, axis) if tiled else (axis, axis + 1)
    laid: Array = np.moveaxis(numbers.reshape(*before, *split, *after), (batch, again), (0, 1))
    return laid.reshape(rows, -1)


def by_row(layout: IndexLayout, values: Array, rows: int) -> Array:
    """Return the elements of each row of an index of this layout, (rows, K)."""
    return _by_row(values, rows, len(layout.before), layout.times, layout.tiled)


def in_order(places: NDArray[Any]) -> bool:
    """Return whether places are 0, 1, 2, ..."""
    return bool((places == np.arange(len(places))).all())
