"""Leader: one reign of the coordinator's state machine, without threads and without a clock of its own.

It is driven: what happens is put into its inbox from any thread, and `step` takes one piece out, on one thread. An
event goes into the machine, the state is saved if that matters, and only then commands go out. What takes time
(commands, calls of members) is given to `spawn`, and its end comes back through the inbox. So the same code runs under
threads (`ringpull.router.control.process`) and under a simulation that orders everything by a seed.

What is saved when:
* What an operator asks for and every step of a change are saved before anything follows from them. If that fails, the
  operator is refused with the reason and nothing has changed; a phase waits, and is tried again after a growing delay.
* Maps that only tell new addresses of shards, and shards that have stopped, follow from what members are observed to
  be. They are acted on at once and saved when it can be: repairs need no disk. Their epochs are reserved ahead.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from ringpull.ps.errors import RingpullError, StartupError, Superseded, Unavailable
from ringpull.ps.fence import Order
from ringpull.ps.heartbeat import ShardHeartbeat
from ringpull.router.control.change import CoordinatorState
from ringpull.router.control.change_log import log_change
from ringpull.router.control.change_view import ChangeView
from ringpull.router.control.controls import LEASE_S, Members
from ringpull.router.control.coordinator import Coordinator
from ringpull.router.control.events import (
    OPERATORS_EVENTS,
    Begin,
    Command,
    Done,
    Event,
    Failed,
    Member,
    RetryDue,
    ShardLost,
    VersionLost,
    member_of,
    shard_seen,
)
from ringpull.router.control.execution import execute
from ringpull.router.control.heartbeat_monitor import HEARTBEAT_S
from ringpull.router.control.introductions import Introductions
from ringpull.router.control.observed import HeadHeartbeat
from ringpull.router.control.operations import Asker, ChangeStatus, DeploymentStatus, MemberState
from ringpull.router.control.overviews import Overviews
from ringpull.router.control.reign import Reign
from ringpull.router.control.restarts import Restarts
from ringpull.router.control.retry_delays import RetryDelays
from ringpull.router.control.scraping import ScrapeTarget, scrape_targets
from ringpull.router.control.successions import Successions
from ringpull.router.shard_map import ShardMap

logger: Final = logging.getLogger(__name__)

Work = Callable[[], None]

SAVED_FIRST: Final = (*OPERATORS_EVENTS, VersionLost)
"""Events that are as if they had never been if they cannot be saved; whoever tells of them is told so."""

SAVE: Final = None
"""Key of saves among members, for delays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Durations of the coordinator's process, in seconds."""

    heartbeat_s: float = HEARTBEAT_S
    lease_s: float = LEASE_S
    first_retry_s: float = 0.2
    """Delay after the first failure of a member; doubled with each further one, until a success."""
    longest_retry_s: float = 5.0
    """Upper bound on that delay."""
    files_s: float = 10.0
    """Time between two looks at the files of the versions that are open."""
    still_s: float = 1.5
    """Longest step of a coordinator that leads: while one takes longer, no lease is renewed, and heads say so."""
    watchdog_s: float = 60.0
    """Longest step: whoever runs the process ends it when one takes longer. A folder that hangs is waited for less."""


TIMING: Final = Timing()
"""Durations of a deployment."""


class Leader:
    """Leads the members of a deployment by one `Coordinator`, for one term.

    Everything belongs to one thread, but for what says otherwise. A leader of a term that is over does nothing more.

    Args:
        reign: The term, and the state to go on from.
        members: The shards and heads.
        heads: Numbers of the heads, where no state says so yet.
        clock: Returns seconds since any origin.
        spawn: Runs work beside this, under a name.
        wake: Called, from any thread, when something was put into the inbox.
        orphans_possible: See `ringpull.router.control.successions`.
    """

    def __init__(
        self,
        reign: Reign,
        members: Members,
        *,
        heads: tuple[int, ...] = (0,),
        timing: Timing = TIMING,
        clock: Callable[[], float] = time.monotonic,
        spawn: Callable[[Work, str], None],
        wake: Work = lambda: None,
        orphans_possible: bool = False,
    ) -> None:
        self._reign = reign
        self._members = members
        self._timing = timing
        self._clock = clock
        self._spawn = spawn
        self._wake = wake
        self.over = ""
        """Why the term is over; empty while it is not."""
        state = reign.first_state(heads)
        self.machine = Coordinator(state, deployment=reign.deployment, term=reign.term)
        """State machine. Read only for others."""
        self.saved = state
        """State as it was saved last; at first, as it was found."""
        self._map: ShardMap | None = None
        self._backoff: RetryDelays[Member | None] = RetryDelays(timing.first_retry_s, timing.longest_retry_s, clock)
        self._introductions = Introductions(
            reign,
            members,
            spawn=spawn,
            done=self.answered,
            over=self._superseded,
            backoff=RetryDelays(timing.first_retry_s, timing.longest_retry_s, clock),
        )
        self._view = ChangeView()
        self.overviews = Overviews(clock)
        self.status = self._view.status(self.machine)
        """Status of the change, as of the last event."""
        self.restarts = Restarts(clock)
        self._inbox: deque[Work] = deque()
        self._due_s: dict[Member, float] = {}
        self._successions = Successions(state, timing.lease_s, clock, orphans=orphans_possible)
        self._save_trouble = ""
        self._folder_trouble = ""

    def __repr__(self) -> str:
        return f"<Leader {self._reign!r} {self.machine!r}>"

    @property
    def term(self) -> int:
        """Number of the term."""
        return self._reign.term

    # -- how it is driven ----------------------------------------------------------------------------------------------

    def put(self, work: Work) -> None:
        """Have `work` run in a later step; from any thread."""
        self._inbox.append(work)
        self._wake()

    def step(self) -> bool:
        """Run one piece of work from the inbox, and what the clock says is due; return whether there was a piece."""
        work = self._inbox.popleft() if self._inbox else None
        if work is not None:
            work()
        if not self.over:
            self._look_at_the_clock()
        return work is not None

    def followed(self) -> list[Member]:
        """Return the members to ask for heartbeats: those that there should be, and those that should leave."""
        state = self.machine.state
        shards = set(self.machine.shards)
        if state.spec is not None:
            shards |= set(state.spec.shards)
        if state.change is not None:
            shards |= set(state.change.target.shards)
        for gone in self._view.shards.keys() - shards:
            del self._view.shards[gone]
        return [Member("shard", shard) for shard in sorted(shards)] + [Member("head", head) for head in state.heads]

    def ask(self, member: Member, *, renew: bool = True) -> ShardHeartbeat | HeadHeartbeat:
        """Ask a member for its heartbeat; from any thread. The answer belongs into `answered`, a failure into `lost`.

        Args:
            renew: Whether a head's lease is renewed, by which it knows that somebody leads.

        Raises:
            RingpullError: It does not answer.
        """
        if member.role == "shard":
            return self._members.shard(member.id).heartbeat()
        head, incarnation = self._members.head(member.id), self._introductions.of(member)
        if not incarnation or self.over or not renew:
            return head.heartbeat()
        try:
            return head.renew(self.order(incarnation), self._timing.lease_s)
        except Unavailable:
            return head.heartbeat()  # It was restarted, and is introduced anew.
        except Superseded as exc:
            self._superseded(exc)
            raise

    def answered(self, member: Member, heartbeat: ShardHeartbeat | HeadHeartbeat) -> None:
        """Take in a heartbeat; from any thread."""
        self.put(lambda: self._seen(member, heartbeat))

    def lost(self, member: Member) -> None:
        """Take in that a member has not answered; from any thread."""
        self.put(lambda: self._unseen(member))

    def show_life(self) -> None:
        """Show in the state's folder that the deployment lives, and look there who leads; from any thread."""
        trouble = ""
        try:
            self._reign.beat()
        except RingpullError as exc:
            trouble = str(exc)
        try:
            self._reign.check()
        except Superseded as exc:
            self._superseded(exc)
        except RingpullError as exc:
            trouble = str(exc)

        def note() -> None:
            self._folder_trouble = trouble

        self.put(note)

    def order(self, incarnation: str) -> Order:
        """Return the order of this term for an incarnation of a member; from any thread."""
        return self._reign.order(incarnation)

    # -- what is asked of it, on its thread ----------------------------------------------------------------------------

    def tell(self, event: Event) -> ChangeStatus:
        """Hand an event to the machine; return the status once it is saved and acted on. A change to what serves
        already is none: its status has no id.

        Raises:
            Busy, InvalidInput: See `Coordinator.take`.
            StartupError: An operator asked, and it cannot be saved; nothing has changed, and nothing will.
            Superseded: The term is over; nothing has changed.
        """
        if self.over:
            raise Superseded(self.over)
        state = self.machine.state
        if isinstance(event, Begin) and state.change is None and event.target == state.spec:
            self._reign.check()  # Only who leads may say that it is so already.
            return ChangeStatus(kind=event.kind, subject=event.subject)
        self._handle(event)
        return self.status

    def deployment_status(self) -> DeploymentStatus:
        """Return the state of the deployment that serves.

        Raises:
            Unavailable: Nothing serves yet.
        """
        state = self.machine.state
        if state.spec is None:
            raise Unavailable("nothing serves yet")
        return self._view.deployment(state.spec, state.highest_live, self.warnings())

    def member_states(self) -> tuple[MemberState, ...]:
        """Return how every member is."""
        return self.restarts.states(self.machine)

    def begin_restart(self, member: Member, incarnation: str, *, force: bool) -> bool:
        """See `Restarts.begin`."""
        return self.restarts.begin(self.machine, member, incarnation, force=force)

    def heads(self) -> dict[int, HeadHeartbeat]:
        """Return the last answer of every head."""
        return dict(self._view.heads)

    def warnings(self) -> tuple[str, ...]:
        """Return the warnings of `deployment_status`, whether or not anything serves."""
        saved = self._reign.saved
        found = "" if saved is None else saved.warning
        own = (f"coordinator: {each}" for each in (found, self._save_trouble or self._folder_trouble) if each)
        return (*own, *self._view.warnings())

    def scrape_targets(self) -> tuple[ScrapeTarget, ...]:
        """Return where every process tells its metrics."""
        return scrape_targets(self._view.heads, self._view.shards)

    def map(self, asker: Asker | None = None) -> ShardMap:
        """Return the map that heads have to route by; from any thread.

        Raises:
            Replaced: The head that asks has another process by now.
            Unavailable: There is none yet.
            Superseded: The term is over.
        """
        shard_map = self._map
        if self.over:
            raise Superseded(self.over)
        if asker is not None:
            self._successions.check(asker)
        if shard_map is None:
            raise Unavailable("there is no shard map before the first bring-up")
        return shard_map

    # -- events --------------------------------------------------------------------------------------------------------

    def _handle(self, event: Event) -> None:
        """Step once: the event in, the state saved where it matters, the commands out."""
        if self.over:
            return
        machine, asked = self.machine, isinstance(event, SAVED_FIRST)
        before = machine.state
        machine.take(event)
        if asked or not self._backoff.waits(SAVE):
            self._advance(before if asked else machine.state, asked=asked)
        else:
            self._renew_map()
            self._act()

    def _advance(self, observed: CoordinatorState, *, asked: bool) -> None:
        """Go as far as can be saved, and act on it.

        Args:
            observed: State to go back to if it cannot be saved.
            asked: Whether somebody waits for it, who is told then.
        """
        machine = self.machine
        machine.advance()
        if machine.state.must_be_saved(self.saved) or machine.state.epoch > self._reign.epochs_to:
            try:
                self._save()
            except RingpullError as exc:
                # As if nobody had asked, and no phase were through. What members are observed to be is still known.
                machine.revert(observed)
                if asked:
                    raise
                logger.warning("%s", exc)
                self._renew_map()
        elif asked:
            self._reign.check()  # Nothing is saved that would tell: only who leads may say that it is so already.
        self._act()

    def _renew_map(self) -> None:
        """Tell new addresses without a save, as long as epochs are reserved."""
        before = self.machine.state
        self.machine.renew_map()
        if self.machine.state.epoch > self._reign.epochs_to:
            self.machine.revert(before)

    def _act(self) -> None:
        """Send what is missing, unless the map has an epoch that is not reserved yet: it has to be saved first."""
        machine = self.machine
        if self.over or machine.state.epoch > self._reign.epochs_to:
            return
        self._map = machine.state.map
        for command in machine.missing_commands():
            self._view.sent(command, machine.state.change)
            # Numbered here: threads may overtake one another, and the later order is the one that holds.
            order = self.order(command.incarnation)
            self._spawn(partial(self._execute, command, order), str(member_of(command)))
        self._renew_status()

    def _renew_status(self) -> None:
        before, self.status = self.status, self._view.status(self.machine)
        if self._save_trouble and self.status.under_way:
            self.status = replace(self.status, trouble=self._save_trouble)
        log_change(before, self.status)

    def _save(self) -> None:
        """Save the machine's state.

        Raises:
            Superseded: The term is over; it was not saved.
            RingpullError: It cannot be saved now; it is tried again later.
        """
        state = self.machine.state
        try:
            leads = self._reign.save(state, beside=lambda work: self._spawn(work, "clear away"))
        except Superseded as exc:
            self.over = str(exc)
            raise
        except RingpullError as exc:
            self._backoff.failed(SAVE)
            self._save_trouble = str(exc)
            raise
        self.saved, self._save_trouble = state, ""
        self._backoff.succeeded(SAVE)
        if not leads:
            # It is saved, so whoever asked for it is told so. To act on it is the business of whoever leads now.
            self.over = f"term {self.term} is over: a higher one has begun"
            self._renew_status()

    def _superseded(self, exc: Superseded) -> None:
        """Take in that the term is over; from any thread."""

        def end(reason: str = str(exc)) -> None:
            self.over = self.over or reason

        self.put(end)

    def _look_at_the_clock(self) -> None:
        now_s = self._clock()
        for member in [member for member, due_s in self._due_s.items() if due_s <= now_s]:
            del self._due_s[member]
            self._handle(RetryDue(member))
        for event in self._successions.due():
            self._handle(event)
        state = self.machine.state
        left = state is not self.saved or state.epoch > self._reign.epochs_to or self._save_trouble
        if left and not self._backoff.waits(SAVE):
            self._save_what_is_left()

    def _save_what_is_left(self) -> None:
        """Save what repairs have left unsaved, and take the steps that waited for the disk.

        After a failure too, if nothing is left: what was refused may have come through to the disk after all.
        """
        observed = self.machine.state
        self.machine.advance()
        try:
            self._save()
        except RingpullError as exc:
            self.machine.revert(observed)
            logger.warning("%s", exc)
        self._act()

    def _seen(self, member: Member, heartbeat: ShardHeartbeat | HeadHeartbeat) -> None:
        if heartbeat.term > self.term:
            self.over = self.over or f"term {self.term} is over: {member} has heard of term {heartbeat.term}"
        if self.over:
            return
        self.restarts.answered(member)
        if isinstance(heartbeat, ShardHeartbeat):
            self._view.shard(member.id, heartbeat)
        else:
            self._view.head(member.id, heartbeat)
            self.overviews.heard(member.id, heartbeat)
        if self._introductions.of(member) != heartbeat.incarnation:
            self._introductions.begin(member, heartbeat)
        elif isinstance(heartbeat, ShardHeartbeat):
            self._handle(shard_seen(member.id, heartbeat))
        else:
            ended = self.restarts.was_told(member, self.machine.heads[member.id].incarnation)
            self._handle(self._successions.seen(member.id, heartbeat, ended=ended))

    def _unseen(self, member: Member) -> None:
        self.restarts.lost(member)
        # A head may still serve though it cannot be asked: only its lease tells. A shard that was not there before is
        # being started.
        if member.role == "shard" and member.id in self.machine.shards:
            self._handle(ShardLost(member.id))

    # -- commands; each beside all others ------------------------------------------------------------------------------

    def _execute(self, command: Command, order: Order) -> None:
        try:
            execute(
                command,
                self._members,
                order=order,
                check=self._reign.check,
                introduce=self._introductions.introduce,
                heard=self.answered,
            )
        except Superseded as exc:
            self._superseded(exc)
        except RingpullError as exc:
            error = exc
            self.put(lambda: self._failed(command, error))
        except Exception as exc:
            # A bug: but a command that never ends would hold the change for ever, and nobody would know why.
            logger.exception("%s", command)
            wrong = StartupError(f"{type(exc).__name__}: {exc}")
            self.put(lambda: self._failed(command, wrong))
        else:
            self.put(lambda: self._done(command))

    def _done(self, command: Command) -> None:
        self._backoff.succeeded(member_of(command))
        self._view.trouble = ""
        self._handle(Done(command))

    def _failed(self, command: Command, error: RingpullError) -> None:
        member = member_of(command)
        self._due_s[member] = self._backoff.failed(member)
        self._view.trouble = f"{member}: {error}"
        logger.warning("%s: %s failed: %s", member, type(command).__name__, error)
        self._handle(Failed(command, error))
