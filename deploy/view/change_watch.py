"""Watching a change: a progress bar for the phase under way, a line for each that has ended, and clients' latencies.

Watching has no effect on the change. When it is interrupted it says how to find the change again, which goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from ringpull.deploy.view.progress import LINE_EVERY_S
from ringpull.ps.errors import Retryable, Unavailable
from ringpull.ps.text.byte_size import size
from ringpull.router.control.change import Phase
from ringpull.router.control.change_end import check_ended
from ringpull.router.control.operations import ChangeStatus, GetChange, Latency, OperatorVerbs

POLL_S: Final = 0.25
SILENCE_S: Final = 60.0
"""Time without an answer after which watching ends; a restart of the coordinator takes much less."""

AFTERWARDS: Final = (
    "it goes on without this command; `ringpull status` shows it, `ringpull rebalance --abort` gives up whatever change"
    " is under way"
)


def follow(
    operations: OperatorVerbs,
    begun: ChangeStatus,
    console: Console,
    *,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> ChangeStatus:
    """Show a change until it is over; return how it ended.

    Args:
        begun: Status of the change when it was submitted, or found.
        console: Console for people; results are not printed there.

    Raises:
        ChangeGivenUp: It was aborted, by the coordinator or by an operator; the message says why.
        Unavailable: The coordinator has not answered for a minute.
        KeyboardInterrupt: Raised again after a hint how to find the change.
    """
    view = _View(console, clock)
    heard_s = clock()
    status = begun
    try:
        with view:
            while True:
                view.show(status)
                if not status.under_way or status.id != begun.id:
                    break
                sleep(POLL_S)
                try:
                    status = operations.call(GetChange())
                    heard_s = clock()
                except Retryable as exc:
                    if clock() - heard_s > SILENCE_S:
                        raise Unavailable(f"the coordinator has not answered for {SILENCE_S:.0f} s: {exc}") from exc
    except KeyboardInterrupt:
        console.print(f"{begun.kind.value} {begun.subject}: {AFTERWARDS}", highlight=False, soft_wrap=True)
        raise
    check_ended(begun, status)
    return status


def change_fields(status: ChangeStatus) -> dict[str, Any]:
    """Return a change as JSON values."""
    return {
        "id": status.id,
        "kind": status.kind.value,
        "subject": status.subject,
        "under_way": status.under_way,
        "phase": None if status.phase is None else status.phase.value,
        "paused": status.paused,
        "members_done": status.members_done,
        "members": status.members,
        "copied_bytes": status.copied_bytes,
        "bytes_to_copy": status.bytes_to_copy,
        "checked_bytes": status.checked_bytes,
        "bytes_to_check": status.bytes_to_check,
        "before": _latency_fields(status.before),
        "now": _latency_fields(status.now),
        "trouble": status.trouble,
        "error": status.error,
    }


def change_line(status: ChangeStatus) -> str:
    """Return a change in one line: `rebalance shards 2 -> 4: preparing, 12.0 MiB of 60.1 MiB copied; p99 ...`."""
    if status.id == 0:
        return "nothing has been changed yet"
    what = f"{status.kind.value} {status.subject}"
    if status.phase is None:
        return (
            f"{what}: given up: {status.error}"
            if status.error
            else ", ".join(filter(None, (f"{what}: done", _read(status))))
        )
    parts = [f"{what}: {'paused, ' if status.paused else ''}{status.phase.value}"]
    parts.append(_amount(status))
    parts.append(latency_text(status.before, status.now))
    if status.trouble:
        parts.append(f"trying again: {status.trouble}")
    return "; ".join(part for part in parts if part)


def latency_text(before: Latency, now: Latency) -> str:
    """Return the latencies as text: `p50 2.1 ms, p99 8.0 ms (before 2.0, 7.1)`; empty when there are no requests."""
    if not now.p99_ms:
        return ""
    text = f"p50 {now.p50_ms:.1f} ms, p99 {now.p99_ms:.1f} ms"
    return f"{text} (before {before.p50_ms:.1f}, {before.p99_ms:.1f})" if before.p99_ms else text


def _latency_fields(latency: Latency) -> dict[str, float]:
    return {"p50_ms": latency.p50_ms, "p99_ms": latency.p99_ms}


def _read(status: ChangeStatus) -> str:
    """Return what shards have copied and checked; empty if that was nothing."""
    amounts = (status.copied_bytes, "copied"), (status.checked_bytes, "checked")
    return ", ".join(f"{size(count)} {what}" for count, what in amounts if count)


def _amount(status: ChangeStatus) -> str:
    if status.phase is Phase.PREPARING and (status.bytes_to_copy or status.bytes_to_check):
        parts = []
        if status.bytes_to_copy:
            what = " copied" if status.bytes_to_check else ""
            parts.append(f"{size(status.copied_bytes)} of {size(status.bytes_to_copy)}{what}")
        if status.bytes_to_check:
            parts.append(f"{size(status.checked_bytes)} of {size(status.bytes_to_check)} checked")
        return ", ".join(parts)
    return f"{status.members_done} of {status.members}" if status.members else ""


def done_and_total(status: ChangeStatus, phase: Phase) -> tuple[int, int]:
    """Return how far the bar is, and how far it goes: by bytes copied, else by bytes checked, else by members.

    Copying is the longer way, and rows that are copied are checked on it: of both together the bar would say nothing.
    """
    if phase is Phase.PREPARING and status.bytes_to_copy:
        return status.copied_bytes, status.bytes_to_copy
    if phase is Phase.PREPARING and status.bytes_to_check:
        return status.checked_bytes, status.bytes_to_check
    return status.members_done, status.members


class _View:
    """Display with a transient bar for the phase under way, and a line for each phase that has ended."""

    def __init__(self, console: Console, clock: Callable[[], float]) -> None:
        self._console = console
        self._clock = clock
        self._phase: Phase | None = None
        self._begin_s = clock()
        self._troubles: set[str] = set()
        """Troubles that were told: several members' come in turns."""
        self._told_s = self._begin_s
        self._status: ChangeStatus | None = None
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[amount]}"),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[latency]}[/]"),
            console=console,
            transient=True,
            # Without a terminal there are only the lines.
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> _View:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, status: ChangeStatus) -> None:
        if status.phase is not self._phase:
            self._tell_phase(status)
        if status.trouble and status.trouble not in self._troubles:
            self._troubles.add(status.trouble)
            self._console.print(f"trying again: {status.trouble}", style="yellow", highlight=False, markup=False)
        self._status = status
        self._tell_amount(status)
        if status.phase is not None:
            self._move_bar(status, status.phase)

    def _tell_phase(self, status: ChangeStatus) -> None:
        now_s = self._clock()
        if self._phase is not None and not status.error:
            read = _read(status) if self._phase is Phase.PREPARING else ""
            details = ", ".join(filter(None, (read, latency_text(status.before, status.now))))
            took = f"[dim]{now_s - self._begin_s:.1f} s[/]"
            self._console.print(f"[green]✓[/] {self._phase.value} {took} {details}".rstrip(), highlight=False)
        self._phase, self._begin_s = status.phase, now_s
        self._troubles.clear()
        self._told_s = now_s
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None

    def _tell_amount(self, status: ChangeStatus) -> None:
        """Where there is no bar, tell now and then how far it is."""
        amount, now_s = _amount(status), self._clock()
        if self._console.is_terminal or status.phase is not Phase.PREPARING or now_s - self._told_s < LINE_EVERY_S:
            return
        self._told_s = now_s
        self._console.print(f"{status.phase.value}: {amount}", highlight=False)

    def _move_bar(self, status: ChangeStatus, phase: Phase) -> None:
        done, total = done_and_total(status, phase)
        amount, latency = _amount(status), latency_text(status.before, status.now)
        name = f"{phase.value}, paused" if status.paused else phase.value
        if self._task is None:
            self._task = self._bar.add_task(name, amount=amount, latency=latency)
        self._bar.update(
            self._task, description=name, total=total or None, completed=done, amount=amount, latency=latency
        )
