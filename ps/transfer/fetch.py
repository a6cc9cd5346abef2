"""Copy one slot range into a piece, from the first of its sources that can.

A source that fails (gone, no owner any more, damaged, of other content) is left, and the next one goes on at the row it
had come to. While a block is checked and written, the next is on its way.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Final

from ringpull.ps.errors import CorruptData, InvalidInput, NotFound, Retryable, RingpullError, Unavailable
from ringpull.ps.hashing import SLOT_SHIFT
from ringpull.ps.ring import SlotRange
from ringpull.ps.transfer.job import Cancelled, Job
from ringpull.ps.transfer.piece import POSITION_BYTES, Piece
from ringpull.ps.transfer.source import Block, RowSource, TableContent, check_block
from ringpull.ps.transfer.throttle import Throttle

BLOCK_BYTES: Final = 1 << 20
"""Rows asked for at a time. Larger blocks are faster, and slow the pulls beside them: ps/README.md, "Decisions"."""

_OF_ONE_SOURCE = (Retryable, CorruptData, NotFound, InvalidInput)
"""What one source may fail with and another not."""

Failures = list[tuple[RowSource, RingpullError]]


@dataclass(slots=True)
class Fetch:
    """The rows of `slots` from row `cursor` on, which moves as they are copied."""

    slots: SlotRange
    sources: Sequence[RowSource]
    """In the order to try them; each has the whole range, as far as is known."""
    content: TableContent
    cursor: int = 0

    @property
    def bytes(self) -> int:
        """Still to copy."""
        return (self.content.rows - self.cursor) * (self.content.spec.row_bytes + POSITION_BYTES)


def describe(table: str, slots: SlotRange, sources: Sequence[RowSource]) -> TableContent:
    """Return what the first source that answers says of a table and a range of it.

    Raises:
        Unavailable: None does.
        CorruptData: None does, and their data are all that is wrong.
    """
    failures: Failures = []
    for source in sources:
        try:
            return source.describe(slots)
        except Cancelled:
            raise
        except _OF_ONE_SOURCE as exc:
            failures.append((source, exc))
    raise no_source(table, slots, failures)


def no_source(table: str, slots: SlotRange, failures: Failures) -> RingpullError:
    """Return the error to raise when every source of a range failed, or there was none."""
    reasons = "; ".join(f"{source!r}: {error}" for source, error in failures) or "nobody to ask"
    damaged = failures and all(isinstance(error, CorruptData) for _, error in failures)
    kind = CorruptData if damaged else Unavailable
    return kind(f"table {table}: slots {slots.begin} to {slots.end} cannot be copied: {reasons}")


class Fetcher:
    """Carries out fetches one after another; a context manager that ends its reading thread."""

    def __init__(self, job: Job, throttle: Throttle, *, block_bytes: int = BLOCK_BYTES) -> None:
        self._job = job
        self._throttle = throttle
        self._block_bytes = block_bytes
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="copy")

    def __enter__(self) -> Fetcher:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.shutdown()

    def fetch(self, fetch: Fetch, piece: Piece) -> None:
        """Append the rows to a piece that ends where the fetch begins.

        Raises:
            Unavailable: No source could give them all. What came is in the piece.
            CorruptData: The same, and the sources' data are all that is wrong.
            Cancelled: The job was given up.
            ExportError: The disk is full.
        """
        failures: Failures = []
        for source in fetch.sources:
            try:
                self._fetch_from(source, fetch, piece)
            except Cancelled:
                raise
            except _OF_ONE_SOURCE as exc:
                failures.append((source, exc))
            else:
                return
        raise no_source(fetch.content.spec.name, fetch.slots, failures)

    def _fetch_from(self, source: RowSource, fetch: Fetch, piece: Piece) -> None:
        content = source.describe(fetch.slots)
        if content != fetch.content:
            raise CorruptData("it has another table under this name and version")
        coming = self._reader.submit(self._read, source, fetch.slots, fetch.cursor)
        try:
            while True:
                block = coming.result()
                check_block(block, fetch.slots, fetch.cursor, content)
                whole = block.next_cursor == content.rows
                if not whole:
                    coming = self._reader.submit(self._read, source, fetch.slots, block.next_cursor)
                piece.append(block, fetch.slots.end if whole else int(block.positions[-1]) >> SLOT_SHIFT)
                fetch.cursor = block.next_cursor
                self._job.copied_bytes += block.positions.nbytes + block.rows.nbytes
                if whole:
                    return
        finally:
            wait([coming])  # a source is asked by one thread at a time

    def _read(self, source: RowSource, slots: SlotRange, cursor: int) -> Block:
        self._throttle.take(self._block_bytes, self._job)
        size = 0
        try:
            self._job.check()
            block = source.read(slots, cursor, self._block_bytes)
            size = block.positions.nbytes + block.rows.nbytes
        finally:
            self._throttle.give_back(self._block_bytes - size)
        return block
