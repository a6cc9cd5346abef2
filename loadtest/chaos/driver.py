"""The driver: one event of the schedule after the other, the next only when the deployment is whole again.

So two copies of a range are never lost at once, and whatever fails is not the schedule's fault.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Protocol

from rich.console import Console

from ringpull.loadtest.chaos.record import Record, Span
from ringpull.loadtest.chaos.schedule import Event, Fault

SETTLE_S: Final = 1.0
"""From whole to the next event at least."""


class Deployment(Protocol):
    """What is done things to."""

    async def carry_out(self, change: Fault) -> str:
        """Carry a change out and wait until it is over; return why it was not carried through."""
        ...

    async def strike(self, blow: Fault, struck: Callable[[], None]) -> None:
        """Call `struck`, strike, and return when all pieces are whole again."""
        ...


class Driver:
    """Plays a schedule.

    Args:
        now_s: Seconds since the load began.
    """

    def __init__(self, deployment: Deployment, record: Record, now_s: Callable[[], float], console: Console) -> None:
        self._deployment = deployment
        self._record = record
        self._now_s = now_s
        self._console = console
        self.played = 0
        """Events so far."""

    async def play(self, events: Iterable[Event], until_s: float) -> None:
        """Play events in turn; those that could only begin after `until_s` are left out.

        Raises:
            Broken: The deployment did not become whole again.
        """
        earliest_s = 0.0
        for event in events:
            if (at_s := max(event.at_s, earliest_s)) > until_s:
                return
            await asyncio.sleep(max(at_s - self._now_s(), 0))
            await self._play(event)
            self.played += 1
            earliest_s = self._now_s() + SETTLE_S

    async def _play(self, event: Event) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                if event.change is not None:
                    group.create_task(self._change(event.change))
                if event.blow is not None:
                    group.create_task(self._blow(event.blow, event.delay_s))
        except* RuntimeError as group_of_errors:
            raise group_of_errors.exceptions[0] from None

    async def _change(self, change: Fault) -> None:
        span = self._record.begin(change.kind, self._now_s())
        await self._timed(span, self._deployment.carry_out(change))

    async def _blow(self, blow: Fault, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        spans: list[Span] = []
        await self._deployment.strike(blow, lambda: spans.append(self._record.begin(blow.kind, self._now_s())))
        for span in spans:
            span.end_s = self._now_s()
            self._tell(span)

    async def _timed(self, span: Span, action: Awaitable[str]) -> None:
        span.said = await action
        span.end_s = self._now_s()
        self._tell(span)

    def _tell(self, span: Span) -> None:
        mark, style = ("·", "yellow") if span.said else ("✓", "green")
        self._console.print(
            f"[{style}]{mark}[/] {span.begin_s:6.1f} s  {span.kind} [dim]{span.seconds:.1f} s[/]",
            highlight=False,
            soft_wrap=True,
        )
        if span.said:
            self._console.print(f"    {span.said}", style="yellow", highlight=False, markup=False, soft_wrap=True)
