"""Row check: rows that a change brings are held against their checksums before they are served, between pulls.

Only the blocks that have rows of the shard's own ranges are read, and of those only what is not remembered
(`ringpull.ps.checked_rows`). Between two blocks it waits while a pull is in flight, for a bounded time: a shard that
always has some must come to an end, too. A pause or a limit of the change holds for it as for copying. There is no
lower priority of the thread: it would be put to sleep while it holds the interpreter's lock, with every pull behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from ringpull.ps.checked_rows import CheckedRows
from ringpull.ps.errors import CorruptData
from ringpull.ps.ring import SlotRange
from ringpull.ps.store.base import BadBlock, Base
from ringpull.ps.store.block_check import bad_rows, block_bytes, blocks_with
from ringpull.ps.transfer.job import Job
from ringpull.ps.transfer.throttle import Throttle

STEP_S: Final = 0.0005
"""Length of one wait for pulls."""

MAX_STEPS: Final = 20
"""Waits before a block is read whatever is in flight: some 10 ms for a MiB, so at least 100 MB/s."""

Busy = Callable[[], bool]
"""Function that tells whether pulls are in flight."""


class DamagedRows(CorruptData):
    """Raised when rows do not match their checksum; the message names file, block and rows."""

    def __init__(self, base: Base, bad: BadBlock) -> None:
        last = bad.first_row + bad.rows
        where = base.folder / bad.file
        super().__init__(f"{where}: block {bad.block}, rows {bad.first_row} to {last}, does not match its checksum")
        self.bad = bad


def wait_for_pulls(busy: Busy, job: Job, *, max_steps: int = MAX_STEPS) -> None:
    """Wait while pulls are in flight, a bounded number of steps.

    Raises:
        Cancelled: The job was cancelled.
    """
    job.check()
    for _ in range(max_steps):
        if not busy():
            return
        job.pause(STEP_S)


class RowCheck:
    """Checks rows of one shard. Used by one thread at a time."""

    def __init__(self, memory: CheckedRows, throttle: Throttle, busy: Busy = lambda: False) -> None:
        """Use a memory of what was checked before.

        Args:
            throttle: Limit on reading.
            busy: See `Busy`; asked before each block.
        """
        self._memory = memory
        self._throttle = throttle
        self._busy = busy

    def unchecked(self, base: Base, slots: Sequence[SlotRange], job: Job) -> list[int]:
        """Return the blocks with rows of these slots that have to be read, and count their bytes in the job."""
        checked = self._memory.checked(base)
        blocks = [block for block in blocks_with(base, slots) if not checked[block]]
        job.bytes_to_check += sum(block_bytes(base, block) for block in blocks)
        return blocks

    def check(self, base: Base, blocks: Sequence[int], job: Job) -> None:
        """Read these blocks.

        Raises:
            DamagedRows: One does not match its checksum.
            Cancelled: The job was cancelled. What was read by then is remembered.
        """
        good: list[int] = []
        try:
            for block in blocks:
                wait_for_pulls(self._busy, job)
                size = block_bytes(base, block)
                self._throttle.take(size, job)
                if bad := bad_rows(base, block):
                    self._memory.note(base, bad=[block])
                    raise DamagedRows(base, bad)
                good.append(block)
                job.checked_bytes += size
        finally:
            if good:
                self._memory.note(base, good=good)
