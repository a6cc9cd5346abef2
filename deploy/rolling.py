"""Rolling restart: one member after the other, each healthy again before the next one is restarted.

It is driven by the command, through two verbs of the coordinator, not by the coordinator's state machine: to that a
restarted member is one that crashed, which it repairs anyway. So every step is safe by itself, nothing has to be saved,
and a command that is interrupted leaves a deployment that is healthy within seconds. The conditions of each step are
checked by the coordinator (`ringpull.router.control.restarts`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ringpull.ps.errors import InvalidInput, Retryable, RingpullError
from ringpull.ps.spec import OnUnavailable
from ringpull.router.control.deployment_spec import DeploymentSpec
from ringpull.router.control.events import Member
from ringpull.router.control.operations import ListMembers, MemberState, OperatorVerbs, RestartMember

POLL_S: Final = 0.1


class NotBack(RingpullError):
    """Raised when a restarted member is not healthy in time; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Restarted:
    """Member that was restarted."""

    member: Member
    seconds: float
    """Time from the request until it was healthy again."""


@dataclass(frozen=True, slots=True)
class Effects:
    """Effects of a restart on requests."""

    failing: tuple[str, ...]
    """Tables with one copy whose requests fail while a shard is away."""
    defaulted: tuple[str, ...]
    """Tables with one copy whose rows are default vectors while a shard is away, as replies report."""
    headless: bool
    """Whether no request is answered while a head is away."""

    @classmethod
    def of(cls, spec: DeploymentSpec, members: Sequence[Member]) -> Effects:
        """Return the effects of restarting these members."""
        heads = [member for member in members if member.role == "head"]
        sole = spec.sole_tables if len(heads) < len(members) else {}
        return cls(
            failing=tuple(sorted(name for name, policy in sole.items() if policy is OnUnavailable.ERROR)),
            defaulted=tuple(sorted(name for name, policy in sole.items() if policy is OnUnavailable.DEFAULT)),
            headless=len(heads) == 1,
        )

    @property
    def lines(self) -> list[str]:
        """Descriptions of the effects; empty if clients that retry notice nothing."""
        lines = []
        if self.failing:
            lines.append(
                f"while a shard is away, requests for its rows of {', '.join(self.failing)} fail: one copy each"
            )
        if self.defaulted:
            lines.append(
                f"while a shard is away, its rows of {', '.join(self.defaulted)} are default vectors, which replies"
                " tell: one copy each"
            )
        if self.headless:
            lines.append("while the only head is away, some ten seconds, no request is answered")
        return lines

    def check(self) -> None:
        """Check that no request fails for lack of a copy.

        Raises:
            InvalidInput: Some would; the message names the tables, and the way out.
        """
        if self.failing:
            more = " ".join(f"--replicas {table}=2" for table in self.failing)
            raise InvalidInput(
                f"{', '.join(self.failing)}: on one shard each, and on_unavailable is error: requests would fail while"
                f" it is away. Give them another copy with `ringpull rebalance {more}`, or say --force"
            )


def chosen(states: Iterable[MemberState], *, shards: bool, heads: bool) -> list[Member]:
    """Return the members of the wanted kinds, in the order in which they are restarted."""
    roles = {role for role, wanted in (("shard", shards), ("head", heads)) if wanted}
    return [state.member for state in states if state.member.role in roles]


def restart(
    operations: OperatorVerbs,
    member: Member,
    *,
    drain_s: float,
    within_s: float,
    force: bool = False,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Restarted:
    """Restart one member, and return when it is healthy again.

    Args:
        drain_s: Time limit for answering requests in flight.
        within_s: Time limit for the whole restart.
        force: Restart it even while others of its kind are not healthy.

    Raises:
        InvalidInput: There is no such member, or a change is under way; it was not restarted.
        NotBack: It is not healthy in time, or it was not restarted because the others were not healthy in time.
    """
    begin_s = clock()
    before, sent = "", False
    while True:
        try:
            now = _state(operations, member)
            # A member that does not answer is coming back by itself; its process can be named once it does.
            before = before or now.incarnation
            if before and not sent:
                operations.call(RestartMember(member=member, incarnation=before, drain_s=drain_s, force=force))
                sent = True
            elif sent and now.incarnation != before and not now.missing:
                return Restarted(member, clock() - begin_s)
            waits_for = now.missing or "it has not ended yet"
        except Retryable as exc:
            # The coordinator, or the head that forwards the call, may itself be away for some seconds.
            waits_for = str(exc)
        if clock() - begin_s > within_s:
            raise NotBack(f"{member} is not {'back' if sent else 'restarted'} after {within_s:g} s: {waits_for}")
        sleep(POLL_S)


def summary(done: Sequence[Restarted], left: int) -> dict[str, Any]:
    """Return the result as JSON values.

    Args:
        left: Number of members that were not restarted, because the command was interrupted.
    """
    longest = max(done, key=lambda each: each.seconds, default=None)
    return {
        "restarted": [_fields(each) for each in done],
        "longest": None if longest is None else _fields(longest),
        "seconds": round(sum(each.seconds for each in done), 3),
        "left": left,
    }


def summary_line(done: Sequence[Restarted]) -> str:
    """Return the result in one line."""
    if not done:
        return "nothing was restarted"
    longest = max(done, key=lambda each: each.seconds)
    kinds = [_counted(done, "shard"), _counted(done, "head")]
    took = f"{sum(each.seconds for each in done):.1f} s; the longest was {longest.member}, {longest.seconds:.1f} s"
    return f"restarted {' and '.join(filter(None, kinds))} in {took}"


def _state(operations: OperatorVerbs, member: Member) -> MemberState:
    for state in operations.call(ListMembers()):
        if state.member == member:
            return state
    raise InvalidInput(f"{member} is not there any more: the deployment was changed meanwhile")


def _fields(done: Restarted) -> dict[str, Any]:
    return {"role": done.member.role, "number": done.member.id, "seconds": round(done.seconds, 3)}


def _counted(done: Sequence[Restarted], role: str) -> str:
    number = sum(each.member.role == role for each in done)
    return f"{number} {role}{'s' * (number > 1)}" if number else ""
