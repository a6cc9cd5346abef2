"""Virtual time, processes and their threads, with one seed deciding who goes next. Nothing here knows ringpull.

A *process* is alive or dead, and runs or is stopped (SIGSTOP). What it does it does in *tasks*, which are greenlets:
they block where a thread would, in `sleep` and `wait`, and nowhere else, so that a step is what happens between two of
these. A stopped process's tasks stay where they are and go on when it is continued; those of a killed one end there.

Every delay comes from one random generator, and what is due at the same moment comes in an order drawn from it. So a
history is its seed.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from random import Random
from typing import Any

from greenlet import getcurrent, greenlet


class Killed(BaseException):
    """Raised in the tasks of a process that is killed, wherever they are."""


class Process:
    """One life of a process: once dead it stays so."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.stopped = False
        # Dictionaries, since they have an order, and histories are to be the same whenever they are run.
        self.tasks: dict[greenlet, None] = {}
        self.parked: list[tuple[Callable[[], None], Callable[[], None] | None]] = []
        """What came due while it was stopped, and what is done instead if it never does."""
        self.asked: dict[Waiting, None] = {}
        """Who waits for an answer of it, and is let go when it dies."""

    def __repr__(self) -> str:
        return self.name


class Kernel:
    """The clock, and what is due when.

    Args:
        random: Decides everything.
        after_step: Called after every step.
    """

    def __init__(self, random: Random, after_step: Callable[[], None] = lambda: None) -> None:
        self.random = random
        self.now_s = 0.0
        self.steps = 0
        self.after_step = after_step
        self._due: list[tuple[float, float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._hub = getcurrent()
        self._of: dict[greenlet, Process] = {}
        self._failed: list[BaseException] = []

    # -- time ----------------------------------------------------------------------------------------------------------

    def later(
        self,
        seconds: float,
        action: Callable[[], None],
        process: Process | None = None,
        instead: Callable[[], None] | None = None,
    ) -> None:
        """Have something done after a while: by a process, if one is given, once it runs; `instead`, if it is dead."""
        if process is not None:
            action = self._by(process, action, instead)
        heapq.heappush(self._due, (self.now_s + seconds, self.random.random(), next(self._numbers), action))

    def run(self, until_s: float, done: Callable[[], bool] = lambda: False) -> bool:
        """Let time pass, step by step; return whether `done` came before the end."""
        while self._due and self._due[0][0] <= until_s:
            self.now_s, _, _, action = heapq.heappop(self._due)
            self.steps += 1
            action()
            if self._failed:
                raise self._failed[0]
            self.after_step()
            if done():
                return True
        self.now_s = max(self.now_s, until_s)
        return False

    # -- what a task does ----------------------------------------------------------------------------------------------

    def sleep(self, seconds: float) -> None:
        """Block the task that runs for so long."""
        task = getcurrent()
        self.later(seconds, lambda: self._go_on(task), self._of[task])
        self._hub.switch()

    def pause(self) -> None:
        """Let the task that runs go on only if its process does: at once, unless that was stopped."""
        if self._of[getcurrent()].stopped:
            self.sleep(0.0)

    def wait(self, ready: Waiting) -> None:
        """Block the task that runs until somebody opens `ready`."""
        if not ready.open:
            ready.tasks.append(getcurrent())
            self._hub.switch()

    def open(self, ready: Waiting) -> None:
        """Let everybody go on who waits for it, now and from now on."""
        ready.open = True
        for task in ready.tasks:
            if task in self._of:
                self.later(0.0, lambda task=task: self._go_on(task), self._of[task])  # type: ignore[misc]
        ready.tasks.clear()

    # -- processes -----------------------------------------------------------------------------------------------------

    def spawn(self, process: Process, work: Callable[[], Any], delay_s: float = 0.0) -> None:
        """Run work in a task of its own of that process."""

        def run() -> None:
            try:
                work()
            except Killed:
                pass
            except BaseException as exc:  # a task that fails is a bug, of the product or of the simulation
                self._failed.append(exc)
            finally:
                process.tasks.pop(task, None)
                self._of.pop(task, None)

        task = greenlet(run, parent=self._hub)
        self._of[task] = process
        process.tasks[task] = None
        self.later(delay_s, lambda: self._go_on(task), process)

    def kill(self, process: Process) -> None:
        """End a process at once, as `kill -9` does; a task that does it to its own process does not come back."""
        if not process.alive:
            return
        process.alive = False
        for _, instead in process.parked:
            if instead is not None:
                self.later(0.0, instead)
        process.parked.clear()
        for waiting in list(process.asked):
            self.open(waiting)
        here = getcurrent()
        for task in list(process.tasks):
            if task is not here:
                self._of.pop(task, None)
                process.tasks.pop(task, None)
                if task:  # it has begun
                    # Its end must come back here, not to the hub.
                    task.parent = here
                    task.throw(Killed)
        if here in process.tasks:
            raise Killed

    def stop(self, process: Process) -> None:
        """Stop a process where it is, as SIGSTOP does."""
        process.stopped = True

    def go_on(self, process: Process) -> None:
        """Let a stopped process go on."""
        process.stopped = False
        parked, process.parked = process.parked, []
        self.random.shuffle(parked)
        for action, instead in parked:
            self.later(0.0, action, process, instead)

    def end(self) -> None:
        """End every task, so that nothing of this history is left in memory."""
        for process in list(self._of.values()):
            self.kill(process)

    def _by(
        self, process: Process, action: Callable[[], None], instead: Callable[[], None] | None
    ) -> Callable[[], None]:
        def run() -> None:
            if not process.alive:
                if instead is not None:
                    instead()
            elif process.stopped:
                process.parked.append((action, instead))
            else:
                action()

        return run

    def _go_on(self, task: greenlet) -> None:
        if task in self._of:
            task.switch()


class Waiting:
    """Something that tasks wait for."""

    def __init__(self) -> None:
        self.open = False
        self.tasks: list[greenlet] = []
