"""Threads that run look-ups off the event loop.

Not a `ThreadPoolExecutor`: its `submit` makes a future with locks that nothing here waits on, which costs more than the
rest of the hand-off (13 us against 0.2 us a call, both with a thread that takes the calls, on a 2-core machine).
"""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable
from types import TracebackType

from ringpull.ps.niceness import take_niceness

Job = tuple[Callable[..., None], tuple[object, ...]]


class LookupThreads:
    """A fixed number of threads around one queue; a context manager that ends them."""

    def __init__(self, count: int = 1, *, name: str = "lookup", nice: int = 0) -> None:
        """Start the threads.

        Args:
            nice: How much they give way to other threads, of this process too: 0 not at all, 19 most.
        """
        self._nice = nice
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}-{number}", daemon=True) for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, function: Callable[..., None], /, *args: object) -> None:
        """Have `function(*args)` called in one of the threads. What it raises goes to `threading.excepthook`."""
        self._jobs.put((function, args))

    @property
    def waiting(self) -> int:
        """Calls that were submitted and that no thread has begun, about: others may take and submit meanwhile."""
        return self._jobs.qsize()

    def close(self, *, wait: bool = True) -> None:
        """Let what was submitted finish, then end the threads. Nothing may be submitted afterwards.

        Args:
            wait: Whether to return only then: never, where a call hangs.
        """
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads if wait else ():
            thread.join()

    def __enter__(self) -> LookupThreads:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        take_niceness(self._nice)
        while (job := self._jobs.get()) is not None:
            function, args = job
            try:
                function(*args)
            except Exception:
                threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))
            del job, function, args  # keep no request's arrays while waiting
