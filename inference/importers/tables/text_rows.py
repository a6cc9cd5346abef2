"""Rows of a text's lines by compiled kernels, block by block, in threads of their own while others are written.

What kernels give up on, such as an escaped quote or any error, Arrow reads, whose errors name the line.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ringpull.inference.importers.tables.columns import Chosen
from ringpull.inference.importers.tables.source import PieceKeys
from ringpull.inference.importers.tables.text_blocks import Block
from ringpull.inference.importers.tables.text_layout import TextLayout
from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.spec import Float32Array, KeyType

SMALL_BYTES = 1 << 20
"""Size of a block up to which Arrow is faster than compiling, or loading, kernels."""
_THREADS: Final = 4
_MAX_HARD: Final = 4096
"""Numbers of a block that are rounded by Arrow, at most."""

Rows = tuple[PieceKeys, Float32Array]


@dataclass(frozen=True, slots=True)
class RowParser:
    """How the lines of one text become keys and vectors."""

    layout: TextLayout
    chosen: Chosen
    dim: int
    key_type: KeyType

    def parsed(self, blocks: Iterable[Block]) -> Generator[tuple[Block, Rows | None]]:
        """Yield blocks in their order, with the rows of each; None: they are left to Arrow."""
        waiting: deque[tuple[Block, Future[Rows | None]]] = deque()
        threads = min(_THREADS, len(os.sched_getaffinity(0)))
        with ThreadPoolExecutor(threads, "text") as pool:
            try:
                for block in blocks:
                    waiting.append((block, pool.submit(self.rows, block)))
                    if len(waiting) > threads:
                        first, rows = waiting.popleft()
                        yield first, rows.result()
                while waiting:
                    first, rows = waiting.popleft()
                    yield first, rows.result()
            finally:
                for _, rows in waiting:
                    rows.cancel()

    def rows(self, block: Block) -> Rows | None:
        """Return the rows of a block; None: they are left to Arrow."""
        data, layout = block.data, self.layout
        if self.chosen.value is not None or len(data) <= SMALL_BYTES:
            return None
        from ringpull.inference.importers.tables import text_kernels as kernels

        most = int(np.count_nonzero(data == ord("\n"))) + 1
        keys, key_places = np.empty(most, np.uint64), np.empty((most, 2), np.int64)
        rows, hard = np.empty((most, self.dim), np.float32), np.empty((_MAX_HARD, 4), np.int64)
        kinds = {KeyType.INT64: kernels.SIGNED, KeyType.UINT64: kernels.UNSIGNED, KeyType.STRING: kernels.TEXT}
        count, hard_count = kernels.parse_rows(
            data,
            ord(layout.delimiter),
            layout.quoted,
            layout.line_ends,
            layout.trailing,
            self._roles(),
            kinds[self.key_type],
            keys,
            key_places,
            rows,
            hard,
        )
        if count <= 0:
            return None
        found = rows[:count]
        if hard_count:
            row, place, begin, end = hard[:hard_count].T
            texts = [data[a:b].tobytes().decode() for a, b in zip(begin.tolist(), end.tolist(), strict=True)]
            found[row, place] = nearest_float32(texts)
        if self.key_type is KeyType.STRING:
            return _texts_at(data, key_places[:count]), found
        return (keys if self.key_type is KeyType.UINT64 else keys.view(np.int64))[:count], found

    def _roles(self) -> NDArray[np.int64]:
        """Return what each column is, for kernels."""
        from ringpull.inference.importers.tables import text_kernels as kernels

        names = [column.name for column in self.layout.columns]
        roles = np.full(len(names), kernels.UNUSED, np.int64)
        for place, name in enumerate(self.chosen.vector):
            roles[names.index(name)] = place
        if len(self.chosen.vector) == 1 and self.layout.is_vector(self.chosen.vector[0]):
            roles[names.index(self.chosen.vector[0])] = kernels.VECTOR
        roles[names.index(self.chosen.id)] = kernels.KEY
        return roles


def nearest_float32(texts: list[str]) -> Float32Array:
    """Return numbers that are texts, each rounded once."""
    return np.array(pa.array(texts, pa.string()).cast(pa.float32()).to_numpy(zero_copy_only=False))


def _texts_at(
    data: np.ndarray[tuple[int], np.dtype[np.uint8]], places: np.ndarray[tuple[int, int], np.dtype[np.int64]]
) -> BytesRows:
    """Return the texts that begin and end at some places, end to end."""
    from ringpull.inference.importers.tables.text_kernels import gather_texts

    offsets = np.zeros(len(places) + 1, np.int64)
    np.cumsum(places[:, 1] - places[:, 0], out=offsets[1:])
    out = np.empty(int(offsets[-1]), np.uint8)
    gather_texts(data, places, offsets, out)
    return BytesRows(out, offsets)
