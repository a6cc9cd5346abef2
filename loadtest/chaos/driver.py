"""The driver: one event of a schedule or script after the other, the next only when the deployment is healthy again.

So two copies of a range are never lost at once, and whatever fails is not the schedule's fault.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from rich.console import Console

from ringpull.loadtest.chaos.record import Record, Span
from ringpull.loadtest.chaos.schedule import Command, Event, Fault

SETTLE_S: Final = 1.0
"""Time from healthy to the next event at least."""


class Target(Protocol):
    """The deployment as the driver sees it."""

    async def execute(self, change: Fault | Command) -> str:
        """Carry a change out and wait until it is over; return why it was not carried through."""
        ...

    async def inject(self, fault: Fault, injected: Callable[[], None]) -> None:
        """Call `injected`, inject a fault, and return when all is healthy again."""
        ...


class Driver:
    """Plays events.

    Args:
        now_s: Seconds since the load began.
        settle_s: Time from the end of an event to the next one at least.
    """

    def __init__(
        self,
        target: Target,
        record: Record,
        now_s: Callable[[], float],
        console: Console,
        *,
        settle_s: float = SETTLE_S,
    ) -> None:
        self._target = target
        self._record = record
        self._now_s = now_s
        self._console = console
        self._settle_s = settle_s
        self.played = 0
        """Events so far."""

    async def play(self, events: Iterable[Event], until_s: float) -> None:
        """Play events in turn; those that could only begin after `until_s` are left out.

        Raises:
            Broken: The deployment did not become healthy again.
            CommandFailed: A scripted command did not work.
        """
        earliest_s = 0.0
        for event in events:
            if (at_s := max(event.at_s, earliest_s)) > until_s:
                return
            await asyncio.sleep(max(at_s - self._now_s(), 0))
            await self._play(event)
            self.played += 1
            earliest_s = self._now_s() + self._settle_s

    async def _play(self, event: Event) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                if event.change is not None:
                    group.create_task(self._change(event.change))
                if event.fault is not None:
                    group.create_task(self._inject(event.fault, event.delay_s))
        except* RuntimeError as group_of_errors:
            raise group_of_errors.exceptions[0] from None

    async def _change(self, change: Fault | Command) -> None:
        span = self._record.begin(change.kind, self._now_s())
        span.said = await self._target.execute(change)
        self._end(span)

    async def _inject(self, fault: Fault, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        spans: list[Span] = []
        await self._target.inject(fault, lambda: spans.append(self._record.begin(fault.kind, self._now_s())))
        for span in spans:
            self._end(span)

    def _end(self, span: Span) -> None:
        span.end_s = self._now_s()
        mark, style = ("·", "yellow") if span.said else ("✓", "green")
        self._console.print(
            f"[{style}]{mark}[/] {span.begin_s:6.1f} s  {span.kind} [dim]{span.seconds:.1f} s[/]",
            highlight=False,
            soft_wrap=True,
        )
        if span.said:
            self._console.print(f"    {span.said}", style="yellow", highlight=False, markup=False, soft_wrap=True)
