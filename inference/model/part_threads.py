"""Threads for the parts of a batch: a lone request's rows in two halves at a time, where a core is idle.

Rows of a batch are independent of each other, so the dense program may run on parts of them side by side. Each part is
offered to whoever is first: the thread that has the batch takes one after the other, and helpers take what it has not
begun. So nobody waits for a helper that gets no core, unlike threads of OpenMP, which meet after every operator, and
spin until the last is there.

Two threads take more processor time than one, so they are for what nobody else would have used it for: the batch is all
that its head has to do, and the kernel says that a core is idle.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Final, Generic, TypeVar

from ringpull.ps.wire.threads import LookupThreads

T = TypeVar("T")

MAX_THREADS: Final = 2
"""Most threads of one batch; more were never measured."""

STEP_ROWS: Final = 32
"""Rows between places where a part may begin. Kernels take so many at a time, or a part of it: parts that begin at
multiples of it give the bits that the whole would give."""

MIN_PART_ROWS: Final = 128
"""Fewest rows of a part that a helper is for. A part is laid out, and its products' weights, by itself: halves of 128
rows took as long as the whole on idle cores, and 1.4 times the processor time."""


def run_parts(compute: Callable[[slice], T], rows: int, max_rows: int, threads: PartThreads | None = None) -> list[T]:
    """Return what `compute` returns for each part of a batch, in order; see `PartThreads.run`.

    Args:
        max_rows: Most rows of a part.
        threads: Threads that may compute parts; None: this one alone.
    """
    count = 1 if threads is None else threads.threads_for(rows)
    needed = -(-rows // max_rows)
    # The same cuts as without helpers, where there are enough of them.
    parts = parts_of(rows, needed) if count <= needed else parts_of(rows, count, STEP_ROWS)
    if threads is None or count == 1:
        return [compute(part) for part in parts]
    return threads.run(compute, parts, count)


def parts_of(rows: int, count: int, step: int = 1) -> list[slice]:
    """Return the rows of each part, about as many in each.

    Args:
        count: Number of parts; for each of them there are `step` rows or more.
        step: A part begins at the nearest multiple of it.
    """
    cuts = [(rows * part + count * (step // 2)) // (count * step) * step for part in range(count)]
    return [slice(*cut) for cut in pairwise([*cuts, rows])]


class PartThreads:
    """Helpers for the dense programs of one head, and the rule of when they help."""

    def __init__(self, threads: int, *, alone: Callable[[], bool], idle_cores: Callable[[], int]) -> None:
        """Start the helpers.

        Args:
            threads: Most threads of one batch, the one that has it among them.
            alone: Returns whether a batch that is run now is all there is to do.
            idle_cores: Returns how many cores are idle.
        """
        self.max_threads: Final = threads
        self._alone = alone
        self._idle_cores = idle_cores
        self._helpers = LookupThreads(threads - 1, name="dense-part")

    def __repr__(self) -> str:
        return f"PartThreads({self.max_threads})"

    def threads_for(self, rows: int) -> int:
        """Return how many threads a batch of so many rows gets now."""
        useful = min(self.max_threads, rows // MIN_PART_ROWS)
        if useful < 2 or not self._alone():  # what costs least is asked first
            return 1
        return min(useful, 1 + self._idle_cores())

    def run(self, compute: Callable[[slice], T], parts: Sequence[slice], threads: int) -> list[T]:
        """Return what `compute` returns for each part, in their order.

        Args:
            compute: Called in several threads at a time.
            parts: Parts of the rows.
            threads: Most threads that it is called in, the caller's among them.

        Raises:
            Exception: What it raised for the first part that failed; parts that nobody had begun were left.
        """
        run = _Run(compute, parts)
        for _ in range(min(threads, self.max_threads) - 1):
            self._helpers.submit(run.take_parts)
        run.take_parts()
        return run.results()

    def close(self) -> None:
        """End the helpers; nothing may be run afterwards."""
        self._helpers.close()


class _Run(Generic[T]):
    """Parts of one batch, and what came of them."""

    def __init__(self, compute: Callable[[slice], T], parts: Sequence[slice]) -> None:
        self._compute = compute
        self._parts = parts
        self._begun = 0
        """Parts that somebody has begun: the first ones."""
        self._running = 0
        self._found: dict[int, T] = {}
        self._errors: dict[int, Exception] = {}
        self._changed = threading.Condition(threading.Lock())

    def take_parts(self) -> None:
        """Compute parts until all are begun."""
        while (place := self._take()) is not None:
            self._compute_part(place)

    def _take(self) -> int | None:
        with self._changed:
            if self._begun == len(self._parts):
                return None
            self._begun += 1
            self._running += 1
            return self._begun - 1

    def _compute_part(self, place: int) -> None:
        try:
            found = self._compute(self._parts[place])
        except Exception as exc:  # of any root: whatever the runtime raises
            with self._changed:
                self._errors[place] = exc
                self._begun = len(self._parts)
                self._ended()
        else:
            with self._changed:
                self._found[place] = found
                self._ended()

    def _ended(self) -> None:
        self._running -= 1
        self._changed.notify()

    def results(self) -> list[T]:
        """Wait for those that run, and return what came of all; to be called once, when none is left to begin."""
        with self._changed:
            self._changed.wait_for(lambda: self._running == 0)
        if self._errors:
            error = self._errors[min(self._errors)]
            self._errors.clear()  # each holds this object by the frames it went through
            try:
                raise error
            finally:
                del error
        return [self._found[place] for place in range(len(self._parts))]
