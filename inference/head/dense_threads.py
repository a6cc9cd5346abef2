"""Threads of a head's dense programs: the one that has a batch, and those that help it with a lone request.

How many of the latter there are is chosen by the cores there are, and whether they help by the load, for each batch
anew (`ringpull.inference.model.part_threads`); where the settings give a number of threads, there are none.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

from ringpull.inference.head.config import HeadConfig
from ringpull.inference.model.part_threads import MAX_THREADS, PartThreads
from ringpull.ps import allowance


class DenseThreads:
    """The threads of one head, until it is stopped."""

    def __init__(self, config: HeadConfig, alone: Callable[[], bool]) -> None:
        """Start them.

        Args:
            alone: Returns whether one request at most is in this head; asked in the thread that has the batch.
        """
        # One thread: the dense program is the bottleneck it feeds, and its runtime may bring threads of its own.
        self.executor: Final = ThreadPoolExecutor(1, "dense")
        cores = allowance.cores()
        threads = min(MAX_THREADS, int(cores)) if config.dense_threads is None else 1
        idle = partial(allowance.idle_cores, cores)
        self.parts: Final = PartThreads(threads, alone=alone, idle_cores=idle) if threads > 1 else None
        """Threads that take parts of a batch; None: nobody helps."""

    def __repr__(self) -> str:
        return f"DenseThreads({self.parts or 'one'})"

    def close(self) -> None:
        """Let what they have begun finish, and end them."""
        self.executor.shutdown()
        if self.parts is not None:
            self.parts.close()
