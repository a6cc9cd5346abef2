"""Rolling restarts, seen from the coordinator: which members are healthy, and which one may be restarted now.

The command that restarts a deployment asks for one member at a time (`Restarts.begin`) and polls until it is back
(`Restarts.states`). The state machine has no part in it and nothing is saved: to the coordinator a restarted member is
one that has crashed, which it repairs anyway. A request names the process that is to exit, so it may be repeated, even
after the coordinator itself was restarted and has forgotten the first one.

Invariants, unless forced:
* No member is restarted while a change is under way, nor while another member of its kind is not healthy.
* A shard is healthy when it serves all its slots, and every serving head asks it at its present address.
* A process is told to exit once, however often that is requested.

Only the coordinator's thread uses it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from ringpull.ps.errors import InvalidInput, Unavailable
from ringpull.router.control.coordinator import Coordinator
from ringpull.router.control.events import Member
from ringpull.router.control.head_steps import UNSEEN
from ringpull.router.control.missing_versions import version_names
from ringpull.router.control.operations import MemberState

SILENT_S: Final = 3.0
"""Time without an answer after which a member is not healthy. Heartbeats are asked for twice a second."""


class Restarts:
    """Members that are restarting, and the time of each member's last answer.

    Args:
        clock: Returns seconds since any origin.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._answered_s: dict[Member, float] = {}
        self._leaving: dict[Member, str] = {}
        """Member -> the incarnation that was told to exit."""

    def __repr__(self) -> str:
        return f"<Restarts of {', '.join(map(str, self._leaving)) or 'no member'}>"

    def answered(self, member: Member) -> None:
        """Take note of an answer."""
        self._answered_s[member] = self._clock()

    def lost(self, member: Member) -> None:
        """Take note of a member that did not answer."""
        self._answered_s.pop(member, None)

    def called_off(self, member: Member) -> None:
        """Take note of a restart that could not be sent to its member."""
        self._leaving.pop(member, None)

    def was_told(self, member: Member, incarnation: str) -> bool:
        """Return whether this process of a member was told to exit, so that Ray starts another when it has ended."""
        return self._leaving.get(member) == incarnation

    def states(self, machine: Coordinator) -> tuple[MemberState, ...]:
        """Return the state of every member of the spec that serves: shards first, by number."""
        spec = machine.state.spec
        shards = [Member("shard", shard) for shard in (() if spec is None else spec.shards)]
        heads = [Member("head", head) for head in sorted(machine.heads)]
        return tuple(self._state(machine, member) for member in (*shards, *heads))

    def begin(self, machine: Coordinator, member: Member, incarnation: str, *, force: bool = False) -> bool:
        """Return whether to tell a member to exit now, and take note of it; false if that process has gone already.

        Args:
            incarnation: Process that is to be replaced.
            force: Restart it even while others are not healthy.

        Raises:
            InvalidInput: There is no such member, or a change is under way.
            Unavailable: Another member of its kind is not healthy yet; try again.
        """
        change = machine.state.change
        if change is not None:
            raise InvalidInput(
                f"{change.kind.value} {change.subject} is under way ({change.phase.value}); members are restarted when"
                " it is over"
            )
        states = self.states(machine)
        state = next((each for each in states if each.member == member), None)
        if state is None:
            known = ", ".join(str(each.member) for each in states)
            raise InvalidInput(f"there is no {member}; there is {known}")
        if state.incarnation != incarnation or self._leaving.get(member) == incarnation:
            return False
        unhealthy = [
            each for each in states if each.member.role == member.role and each.member != member and each.missing
        ]
        if unhealthy and not force:
            waits = "; ".join(f"{each.member}: {each.missing}" for each in unhealthy)
            raise Unavailable(f"{member} is not restarted before the others are healthy ({waits})")
        self._leaving[member] = incarnation
        return True

    def _state(self, machine: Coordinator, member: Member) -> MemberState:
        incarnation, missing = _shard(machine, member.id) if member.role == "shard" else _head(machine, member.id)
        if self._leaving.get(member) not in (None, incarnation):
            del self._leaving[member]
        answered_s = self._answered_s.get(member)
        if member in self._leaving:
            missing = "it is being restarted"
        elif answered_s is None or not incarnation:
            missing = "it does not answer"
        elif (silent_s := self._clock() - answered_s) > SILENT_S:
            missing = f"it has not answered for {silent_s:.0f} s"
        return MemberState(member, incarnation, missing)


def _shard(machine: Coordinator, shard: int) -> tuple[str, str]:
    """Return a shard's incarnation, and what is missing until it is healthy."""
    observed, state = machine.shards.get(shard), machine.state
    if observed is None:
        return "", ""
    if state.spec_id not in observed.served:
        return observed.incarnation, "it does not answer for its ranges yet"
    if observed.missing:
        return observed.incarnation, f"it could not open {_named(observed.missing)}"
    if state.map is None or observed.address not in state.map.shards or not _all_routed(machine):
        return observed.incarnation, "not every head asks it yet"
    return observed.incarnation, ""


def _named(versions: frozenset[tuple[str, int]]) -> str:
    return ", ".join(f"{model}/{version}" for model, version in sorted(versions))


def _head(machine: Coordinator, head: int) -> tuple[str, str]:
    """Return a head's incarnation, and what is missing until it is healthy."""
    observed, spec = machine.heads[head], machine.state.spec
    if observed.incarnation == UNSEEN:
        return "", ""
    if observed.missing:
        return observed.incarnation, f"it could not load {_named(observed.missing)}"
    if spec is None or not version_names(spec.versions) <= observed.loaded:
        return observed.incarnation, "it has not loaded every version yet"
    if observed.routed < machine.state.epoch:
        return observed.incarnation, "it does not serve by the newest map yet"
    return observed.incarnation, ""


def _all_routed(machine: Coordinator) -> bool:
    """Whether no serving head can still route by an older map."""
    return all(head.routed >= machine.state.epoch for head in machine.heads.values() if not head.expired)
