"""Fetching: copies one slot range into a piece, from the first of its sources that works.

When a source fails (gone, no longer an owner, damaged, other content), the next one goes on from the same row. While a
block is checked and written, the next one is already requested.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Final

from ringpull.ps.errors import (
    CorruptData,
    InvalidInput,
    NotFound,
    OtherContent,
    Retryable,
    RingpullError,
    Unavailable,
)
from ringpull.ps.hashing import SLOT_SHIFT
from ringpull.ps.identity import differ, text_of
from ringpull.ps.ring import SlotRange
from ringpull.ps.transfer.job import Cancelled, Job
from ringpull.ps.transfer.piece import Piece
from ringpull.ps.transfer.source import Block, RowSource, TableContent, check_block
from ringpull.ps.transfer.throttle import Throttle

BLOCK_BYTES: Final = 1 << 20
"""Size of rows requested at a time. Larger blocks are faster but slow down pulls: ps/README.md, "Decisions"."""

_SOURCE_ERRORS = (Retryable, CorruptData, NotFound, InvalidInput)
"""Errors of one source that another source may not have."""

Failures = list[tuple[RowSource, RingpullError]]


@dataclass(slots=True)
class Fetch:
    """Range to copy: the rows of `slots` from row `cursor` on, which advances as they are copied."""

    slots: SlotRange
    sources: Sequence[RowSource]
    """Sources in the order to try them; each is expected to have the whole range."""
    content: TableContent
    cursor: int = 0
    copied_bytes: int = 0
    """Size of the rows before `cursor`, as they are streamed."""

    @property
    def bytes(self) -> int:
        """Size of the rows that are still to be copied."""
        return self.content.bytes - self.copied_bytes


def describe(table: str, slots: SlotRange, sources: Sequence[RowSource], identity: int = 0) -> TableContent:
    """Return the description of a table and a range of it by the first source that answers and has the right content.

    Args:
        identity: Identity that the table must have: a source that has another one is none. 0: that of any.

    Raises:
        Unavailable: No source answers.
        OtherContent: No source answers, and other content is the only reason.
        CorruptData: The same, with damaged data or other content.
    """
    failures: Failures = []
    for source in sources:
        try:
            content = source.describe(slots)
            check_content(content, identity)
            return content
        except Cancelled:
            raise
        except _SOURCE_ERRORS as exc:
            failures.append((source, _untraced(exc)))
    raise no_source(table, slots, failures)


def no_source(table: str, slots: SlotRange, failures: Failures) -> RingpullError:
    """Return the error to raise when every source of a range failed, or there was none."""
    reasons = "; ".join(f"{source!r}: {error}" for source, error in failures) or "nobody to ask"
    kinds = (OtherContent, CorruptData) if failures else ()
    kind = next((each for each in kinds if all(isinstance(error, each) for _, error in failures)), Unavailable)
    return kind(f"table {table}: slots {slots.begin} to {slots.end} cannot be copied: {reasons}")


def _untraced(error: RingpullError) -> RingpullError:
    """Return an error that is kept, without the frames that it came through.

    They would keep it in turn, a cycle with every table that was open then, which only a garbage collection ends.
    """
    return error.with_traceback(None)


def check_content(content: TableContent, identity: int) -> None:
    """Check that a table is the one that it should be.

    Raises:
        OtherContent: It has another identity.
    """
    if differ(content.identity, identity):
        raise OtherContent.found(f"table {content.spec.name} there", text_of(content.identity), text_of(identity))


class Fetcher:
    """Executes fetches one after another; a context manager, which ends its reading thread."""

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
            Unavailable: No source could deliver all of them. Those that were copied are in the piece.
            CorruptData: The same, with damaged data as the only reason.
            Cancelled: The job was given up.
            ExportError: The disk is full.
        """
        failures: Failures = []
        for source in fetch.sources:
            try:
                self._fetch_from(source, fetch, piece)
            except Cancelled:
                raise
            except _SOURCE_ERRORS as exc:
                failures.append((source, _untraced(exc)))
            else:
                return
        raise no_source(fetch.content.spec.name, fetch.slots, failures)

    def _fetch_from(self, source: RowSource, fetch: Fetch, piece: Piece) -> None:
        content = source.describe(fetch.slots)
        check_content(content, fetch.content.identity)
        if content != fetch.content:
            raise CorruptData("it has another table under this name and version")
        coming = self._reader.submit(self._read, source, fetch.slots, fetch.cursor)
        try:
            while True:
                block = coming.result()
                check_block(block, fetch.slots, fetch.cursor, content)
                last = block.next_cursor == content.rows
                if not last:
                    coming = self._reader.submit(self._read, source, fetch.slots, block.next_cursor)
                piece.append(block, fetch.slots.end if last else int(block.positions[-1]) >> SLOT_SHIFT)
                fetch.cursor = block.next_cursor
                fetch.copied_bytes += block.bytes
                self._job.copied_bytes += block.bytes
                if last:
                    return
        finally:
            wait([coming])  # A source is used by one thread at a time.
            del coming  # see `_untraced`

    def _read(self, source: RowSource, slots: SlotRange, cursor: int) -> Block:
        self._throttle.take(self._block_bytes, self._job)
        size = 0
        try:
            self._job.check()
            block = source.read(slots, cursor, self._block_bytes)
            size = block.bytes
        finally:
            self._throttle.give_back(self._block_bytes - size)
        return block
