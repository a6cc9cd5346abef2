"""Introductions: each incarnation of a member obeys a leader only after that has introduced itself.

A member that restarts has heard of no term. So that it obeys none that is over, the leader looks up that its own is the
highest *after* it has seen the incarnation: a higher one that begins later comes to introduce itself, and is obeyed
then.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from ringpull.ps.errors import RingpullError, Superseded
from ringpull.ps.heartbeat import ShardHeartbeat
from ringpull.router.control.controls import Members
from ringpull.router.control.events import Member
from ringpull.router.control.observed import HeadHeartbeat
from ringpull.router.control.reign import Reign
from ringpull.router.control.retry_delays import RetryDelays

logger: Final = logging.getLogger(__name__)

Heartbeat = ShardHeartbeat | HeadHeartbeat


class Introductions:
    """Introductions of one term. Callable from any thread, but for `begin`, which belongs to the leader's.

    Args:
        reign: The term.
        members: The shards and heads.
        spawn: Runs work beside this, under a name.
        done: Called with a member that obeys now, and its heartbeat.
        over: Called when the term is found to be over.
        backoff: Delays after failures, by incarnation.
    """

    def __init__(
        self,
        reign: Reign,
        members: Members,
        *,
        spawn: Callable[[Callable[[], None], str], None],
        done: Callable[[Member, Heartbeat], None],
        over: Callable[[Superseded], None],
        backoff: RetryDelays[str],
    ) -> None:
        self._reign = reign
        self._members = members
        self._spawn = spawn
        self._tell_done = done
        self._tell_over = over
        self._backoff = backoff
        self._done: dict[Member, str] = {}
        self._under_way: set[Member] = set()

    def __repr__(self) -> str:
        return f"<Introductions to {self._reign!r} of {len(self._done)} members>"

    def of(self, member: Member) -> str:
        """Return the incarnation of a member that obeys this term; empty while there is none."""
        return self._done.get(member, "")

    def begin(self, member: Member, heartbeat: Heartbeat) -> None:
        """Introduce this term to an incarnation of a member, unless that is under way, or has just failed.

        If it fails, a later heartbeat will begin it again.
        """
        if member in self._under_way or self._backoff.waits(heartbeat.incarnation):
            return
        self._under_way.add(member)

        def introduce() -> None:
            try:
                self.introduce(member, heartbeat)
            except RingpullError as exc:
                self._backoff.failed(heartbeat.incarnation)
                logger.warning("%s was not introduced to term %d: %s", member, self._reign.term, exc)
            finally:
                self._under_way.discard(member)

        self._spawn(introduce, f"introduce {member}")

    def introduce(self, member: Member, heartbeat: Heartbeat) -> None:
        """Have an incarnation of a member, which was seen before, obey this term; return when it does.

        Raises:
            Superseded: A higher term has begun.
            RingpullError: The state's folder cannot be read, or the member does not answer.
        """
        control = self._members.shard(member.id) if member.role == "shard" else self._members.head(member.id)
        try:
            self._reign.check()
            control.obey(self._reign.order(heartbeat.incarnation))
        except Superseded as exc:
            self._tell_over(exc)
            raise
        self._backoff.succeeded(heartbeat.incarnation)
        self._done[member] = heartbeat.incarnation
        self._tell_done(member, heartbeat)
