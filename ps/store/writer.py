"""The writer of a table: takes rows in any order, in chunks of any size, within a fixed amount of memory.

`add` fills a buffer; a full buffer is sorted and spilled (`ringpull.ps.store.spill`); `finish` brings the runs into
ring order slice by slice and feeds them to `BaseWriter`. Two rows of one position meet there at the latest, so
duplicates never pass unseen.

The table's folder appears in one rename when it is complete; until then, and after a failure, there is none. Temporary
files go with the writer, but for those in a folder that its caller gave: of these, a checkpoint says what counts, and
another writer goes on with them.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self, cast

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.errors import DuplicateKey, ExportError, HashCollision, InvalidInput
from ringpull.ps.hashing import as_keys, keys_of, keys_of_strings, keys_of_texts, positions_of
from ringpull.ps.spec import MAX_BYTES_ROW, Float32Array, KeyType, TableSpec, UInt64Array
from ringpull.ps.store.base_writer import BaseWriter, TableSummary, hidden_folder, translated
from ringpull.ps.store.checkpoint import Checkpoint
from ringpull.ps.store.heap import REFERENCE_BYTES, Heap
from ringpull.ps.store.raw_rows import RawRows, lengths_of, ordered_pieces, part_of
from ringpull.ps.store.row_codec import encode
from ringpull.ps.store.spill import Spill

BUFFER_BYTES: Final = 64 << 20
"""Bytes of rows held in memory. The writer's peak is about twice this; 1 TB of rows makes 16,000 runs of it."""

_CHUNK_ROWS: Final = 1 << 16
"""Rows of its input that `add` takes at a time: a large `add` takes no more memory than many small ones."""


Keys = NDArray[Any] | Sequence[int] | Sequence[str] | BytesRows
"""Keys of rows: integers, or strings, which as `BytesRows` are their UTF-8."""


class TableWriter:
    """Writes one table; a context manager that leaves nothing behind unless `finish` returned.

    Example:
        with TableWriter(folder, TableSpec(name="user", dim=64)) as writer:
            for keys, rows in chunks:
                writer.add(keys, rows)
            writer.finish()
    """

    def __init__(
        self,
        folder: Path,
        spec: TableSpec,
        *,
        default: Literal["zeros", "mean"] | Float32Array | None = None,
        buffer_bytes: int = BUFFER_BYTES,
        scratch: Path | None = None,
        resumed: Checkpoint | None = None,
    ) -> None:
        """Begin an empty table, or go on with one.

        Args:
            folder: Where the table will be; must not exist. Temporary files of the table's size grow beside it.
            spec: What the rows are.
            default: The vector of unknown keys: zeros, the mean of all rows, or float32 (dim,). None: as `spec` says.
            buffer_bytes: How many bytes of rows to hold in memory.
            scratch: Folder for the temporary files, on the same disk: empty, or as the writer of `resumed` left it. It
                stays its caller's. None: a hidden one beside the table, which goes with the writer.
            resumed: What `checkpoint` returned, of a writer with the same arguments.

        Raises:
            InvalidInput: `default` is not one of these.
            CorruptData: `scratch` has less than `resumed` says.
            ExportError: The folder exists or cannot be made.
        """
        self.folder = folder
        self._spec, self._sum = _with_default(spec, default)
        row_bytes = REFERENCE_BYTES if spec.is_bytes else spec.row_bytes
        # Of rows of bytes, half of the buffer holds the bytes, the other half where they are.
        capacity = max(2, (buffer_bytes // 2 if spec.is_bytes else buffer_bytes) // (row_bytes + 16))
        self._positions = np.empty(capacity, np.uint64)
        self._rows = np.empty((capacity, row_bytes), np.uint8)
        self._text_pos = np.empty(capacity, np.uint64) if spec.key_type is KeyType.STRING else None
        self._filled = 0
        self._added = 0 if resumed is None else resumed.rows
        if resumed is not None and self._sum is not None:
            self._sum += np.array(resumed.sum)
        self._finished = False
        self._hidden = hidden_folder(folder) if scratch is None else None
        files = scratch or self._hidden
        assert files is not None
        try:
            with translated(spec.name, folder), ExitStack() as opened:
                self._spill = Spill(files, row_bytes, texts=self._text_pos is not None, resumed=resumed)
                opened.callback(self._spill.close)
                heap_bytes = None if resumed is None else resumed.heap_bytes
                self._heap = Heap(files / "heap", buffer_bytes // 2, heap_bytes) if spec.is_bytes else None
                opened.pop_all()
        except BaseException:
            self._remove_hidden()
            raise

    def add(self, keys: Keys, rows: Float32Array) -> None:
        """Add rows, in any order; nothing of the arguments is kept.

        Args:
            keys: (n,): integers (an int64 is taken bit for bit), or for a table of string keys strings, which may come
                as `BytesRows`, their UTF-8.
            rows: float32 (n, dim).

        Raises:
            InvalidInput: Keys or rows are of the wrong type or shape, or the row type cannot hold a number.
            ExportError: The disk is full.
        """
        spec = self._spec
        self._check_kind(is_bytes=False)
        if not isinstance(rows, np.ndarray) or rows.dtype != np.float32 or rows.shape != (len(keys), spec.dim):
            what = f"{rows.dtype} {rows.shape}" if isinstance(rows, np.ndarray) else type(rows).__name__
            raise InvalidInput(f"table {spec.name}: rows are {what}; they must be float32 {(len(keys), spec.dim)}")
        checked = self._check_keys(keys)
        with translated(spec.name, self.folder):
            for begin in range(0, len(rows), _CHUNK_ROWS):
                chunk = rows[begin : begin + _CHUNK_ROWS]
                positions, text_pos = self._positions_of(_some(checked, begin, begin + len(chunk)))
                if self._sum is not None:
                    self._sum += chunk.sum(axis=0, dtype=np.float64)
                self._add_chunk(positions, text_pos, encode(chunk, spec))

    def add_bytes(self, keys: Keys, rows: BytesRows) -> None:
        """Add rows of bytes, in any order; nothing of the arguments is kept.

        Args:
            keys: As for `add`.
            rows: As many rows, of at most `MAX_BYTES_ROW` bytes each.

        Raises:
            InvalidInput: Keys or rows are of the wrong type or shape, or a row is too long; the message names its key.
            ExportError: The disk is full.
        """
        self._check_kind(is_bytes=True)
        checked = self._check_keys(keys)
        _check_bytes(self._spec.name, checked, rows)
        with translated(self._spec.name, self.folder):
            for begin in range(0, len(rows), _CHUNK_ROWS):
                end = min(len(rows), begin + _CHUNK_ROWS)
                positions, text_pos = self._positions_of(_some(checked, begin, end))
                self._add_bytes_chunk(positions, text_pos, part_of(rows, begin, end))

    def checkpoint(self) -> Checkpoint:
        """Return what another writer needs to go on behind the rows added so far, which are on the disk then.

        Only of use where the temporary files stay: in a `scratch` of the caller's.

        Raises:
            ExportError: The disk is full.
        """
        with translated(self._spec.name, self.folder):
            self._flush()
            heap_bytes = 0 if self._heap is None else self._heap.checkpoint()
            total = None if self._sum is None else tuple(self._sum.tolist())
            return replace(self._spill.checkpoint(), heap_bytes=heap_bytes, sum=total)

    def finish(self) -> TableSummary:
        """Sort, write, sync, and let the table's folder appear.

        Raises:
            DuplicateKey: A key was added twice; the message names it.
            HashCollision: Two different strings have one hash; the message names both.
            ExportError: The folder exists by now, the disk is full, or the rows have no mean.
        """
        if self._finished:
            raise InvalidInput(f"table {self._spec.name}: finish was called before")
        self._finished = True
        spec = self._spec if self._sum is None else _with_mean(self._spec, self._sum, self._added)
        with translated(spec.name, self.folder):
            self._flush()
            with BaseWriter(self.folder, spec, self._added) as base:
                for intervals in self._spill.slices(len(self._positions)):
                    count = self._spill.read(intervals, self._positions, self._rows, self._text_pos)
                    self._append_sorted(base, count)
                return base.finish()

    def abort(self) -> None:
        """Drop everything added so far and its temporary files; after `finish`, only those files. A `scratch` of the
        caller's stays as it is."""
        self._finished = True
        self._spill.close()
        if self._heap is not None:
            self._heap.close()
        self._remove_hidden()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    def __repr__(self) -> str:
        return (
            f"<TableWriter {self._spec.name} rows={self._added} runs_rows={self._spill.rows} finished={self._finished}>"
        )

    def _remove_hidden(self) -> None:
        if self._hidden is not None:
            shutil.rmtree(self._hidden, ignore_errors=True)

    def _check_keys(self, keys: Keys) -> Keys:
        name = self._spec.name
        if self._text_pos is not None:
            if isinstance(keys, np.ndarray) and (keys.ndim != 1 or keys.dtype.kind not in "UO"):
                raise InvalidInput(f"table {name}: keys are {keys.dtype} {keys.shape}; they must be strings (n,)")
            return keys
        if isinstance(keys, BytesRows):
            raise InvalidInput(f"table {name}: keys are BytesRows; they must be integers (n,)")
        integers = np.asarray(keys)
        if integers.ndim != 1 or (integers.dtype.kind not in "iu" and integers.size):
            raise InvalidInput(f"table {name}: keys are {integers.dtype} {integers.shape}; they must be integers (n,)")
        return integers

    def _check_kind(self, *, is_bytes: bool) -> None:
        spec = self._spec
        if self._finished:
            raise InvalidInput(f"table {spec.name}: rows cannot be added after finish")
        if spec.is_bytes != is_bytes:
            what, how = ("bytes", "add_bytes") if spec.is_bytes else (f"vectors of {spec.row_type.value}", "add")
            raise InvalidInput(f"table {spec.name}: its rows are {what}; add them with {how}")

    def _positions_of(self, keys: Keys) -> tuple[UInt64Array, UInt64Array | None]:
        """Return the positions of some keys and, of strings, where they are kept for messages."""
        if isinstance(keys, BytesRows):
            hashed = keys_of_texts(keys.data.tobytes(), lengths_of(keys))
            return positions_of(hashed), self._spill.append_texts(keys)
        if self._text_pos is None:
            return positions_of(as_keys(np.ascontiguousarray(keys))), None
        texts = self._encode(keys)
        return positions_of(keys_of_strings(texts)), self._spill.append_texts(texts)

    def _add_chunk(self, positions: UInt64Array, text_pos: UInt64Array | None, raw: NDArray[np.uint8]) -> None:
        done = 0
        while done < len(raw):
            take = min(len(raw) - done, len(self._positions) - self._filled)
            into = slice(self._filled, self._filled + take)
            self._positions[into] = positions[done : done + take]
            self._rows[into] = raw[done : done + take]
            if self._text_pos is not None and text_pos is not None:
                self._text_pos[into] = text_pos[done : done + take]
            self._filled += take
            done += take
            if self._filled == len(self._positions):
                self._flush()
        self._added += len(raw)

    def _add_bytes_chunk(self, positions: UInt64Array, text_pos: UInt64Array | None, rows: RawRows) -> None:
        """Take rows of bytes into the heap, as many at a time as there is room for, and references into the buffer."""
        assert self._heap is not None
        assert isinstance(rows, BytesRows)
        done = 0
        while done < len(rows):
            # No more than what the buffer takes as well: the heap's is written when it is, with the same order.
            take = min(len(rows) - done, len(self._positions) - self._filled, self._heap.room(rows, done))
            if take == 0:
                self._flush()
                continue
            raw = self._heap.add(rows, done, done + take)
            part = slice(done, done + take)
            self._add_chunk(positions[part], None if text_pos is None else text_pos[part], raw)
            done += take

    def _encode(self, texts: NDArray[Any] | Sequence[Any]) -> list[bytes]:
        try:
            return [str.encode(text) for text in texts]
        except TypeError as exc:
            raise InvalidInput(f"table {self._spec.name}: keys must be strings: {exc}") from exc
        except UnicodeEncodeError as exc:
            raise InvalidInput(
                f"table {self._spec.name}: key {exc.object!r} is not valid Unicode: {exc.reason}"
            ) from exc

    def _flush(self) -> None:
        count, self._filled = self._filled, 0
        if count:
            text_pos = None if self._text_pos is None else self._text_pos[:count]
            if self._heap is not None:
                self._heap.flush(self._positions[:count], self._rows[:count])
            self._spill.append_run(self._positions[:count], self._rows[:count], text_pos)

    def _append_sorted(self, base: BaseWriter, count: int) -> None:
        order = np.argsort(self._positions[:count])
        positions = self._positions[order]
        equal = np.flatnonzero(positions[1:] == positions[:-1])
        if equal.size:
            self._refuse(int(order[equal[0]]), int(order[equal[0] + 1]))
        done = 0
        for ordered in ordered_pieces(self._rows, order):
            for piece in (ordered,) if self._heap is None else self._heap.pieces(ordered):
                base.append(positions[done : done + len(piece)], piece)
                done += len(piece)

    def _refuse(self, first: int, second: int) -> None:
        """Raise for two rows of the buffer with one position: it is a bijection of the key, so they have one key."""
        name = self._spec.name
        key = keys_of(self._positions[first : first + 1])[0]
        if self._text_pos is None:
            shown = key if self._spec.key_type is KeyType.UINT64 else key.astype(np.int64)
            raise DuplicateKey(f"table {name}: key {shown} was given more than once", key=int(key))
        one, other = (
            self._spill.text(int(self._text_pos[i])).decode(errors="backslashreplace") for i in (first, second)
        )
        if one == other:
            raise DuplicateKey(f"table {name}: key {one!r} was given more than once", key=int(key))
        raise HashCollision(
            f"table {name}: the keys {one!r} and {other!r} have one hash, {int(key):#018x}; rename one of them",
            key=int(key),
        )


def _some(keys: Keys, begin: int, end: int) -> Keys:
    return cast(BytesRows, part_of(keys, begin, end)) if isinstance(keys, BytesRows) else keys[begin:end]


def _check_bytes(table: str, keys: Keys, rows: BytesRows) -> None:
    """Check rows of bytes and their offsets.

    Raises:
        InvalidInput: They are not such, or as many as the keys, or one is too long.
    """
    if not isinstance(rows, BytesRows):
        raise InvalidInput(f"table {table}: rows are {type(rows).__name__}; they must be BytesRows")
    data, offsets = rows.data, rows.offsets
    if data.dtype != np.uint8 or data.ndim != 1 or offsets.dtype != np.int64 or offsets.shape != (len(keys) + 1,):
        raise InvalidInput(
            f"table {table}: rows have data {data.dtype} {data.shape} and offsets {offsets.dtype} {offsets.shape};"
            f" they must be uint8 (total,) and int64 {(len(keys) + 1,)}"
        )
    lengths = np.diff(offsets)
    if offsets[0] != 0 or int(offsets[-1]) != len(data) or bool((lengths < 0).any()):
        raise InvalidInput(f"table {table}: offsets of rows must ascend from 0 to the number of bytes, {len(data)}")
    if len(lengths) and int(lengths.max()) > MAX_BYTES_ROW:
        longest = int(np.argmax(lengths))
        raise InvalidInput(
            f"table {table}: the row of key {_shown(keys, longest)} has {int(lengths[longest])} bytes; a row may have"
            f" at most {MAX_BYTES_ROW}"
        )


def _shown(keys: Keys, row: int) -> str:
    key = keys[row]
    return key.decode(errors="backslashreplace") if isinstance(key, bytes) else str(key)


def _with_default(
    spec: TableSpec, default: Literal["zeros", "mean"] | Float32Array | None
) -> tuple[TableSpec, NDArray[np.float64] | None]:
    """Return the spec with the default asked for, and for a mean where to sum the rows up."""
    if default is None:
        return spec, None
    if isinstance(default, str):
        if default == "zeros":
            return replace(spec, default=None), None
        if default == "mean" and not spec.is_bytes:
            return spec, np.zeros(spec.dim)
        raise InvalidInput(
            f"table {spec.name}: default is {default!r}; it must be 'zeros', 'mean' or a vector"
            + (", and for rows of bytes None" if spec.is_bytes else "")
        )
    vector = np.asarray(default)
    if vector.dtype != np.float32 or vector.shape != (spec.dim,):
        raise InvalidInput(
            f"table {spec.name}: default is {vector.dtype} {vector.shape}; it must be float32 {(spec.dim,)}"
        )
    return replace(spec, default=tuple(vector.tolist())), None


def _with_mean(spec: TableSpec, total: NDArray[np.float64], rows: int) -> TableSpec:
    mean = (total / max(rows, 1)).astype(np.float32)
    if not np.isfinite(mean).all():
        raise ExportError(
            f"table {spec.name}: rows hold values that are not finite, so their mean cannot be the default"
        )
    return replace(spec, default=tuple(mean.tolist()))
