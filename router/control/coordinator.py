"""Coordinator: a pure state machine that leads a deployment from one spec to the next. Events in, commands out.

    PREPARING -> CATCHING_UP -> DUAL_OWNERSHIP -> LOADING -> ROUTING -> DRAINING -> CLEANUP -> the next spec serves
        `-- aborted: the old spec serves on --'

It does no I/O, reads no clock and never waits. After every event it compares the observed state of the members
(`ringpull.router.control.observed`) with what the phase requires, and returns the commands that are missing and not
under way; when nothing is missing the next phase begins. A crash only removes observed state: a member that comes back
is sent everything again, and after a restart of the coordinator so is every member. Nothing is undone step by step.

Invariants:
* One change at a time. Until ROUTING the old spec serves alone and the change can be aborted; from then on it cannot.
* A head routes to an owner only after that owner stores and serves the slots; an owner drops slots only after no head
  routes to it: every head has acknowledged the map without it, or its lease has run out. A process that it has replaced
  counts until it has stopped.
* A version is live on a head only after it is loaded there and stored by every shard.
* Every map with new content has a new epoch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ringpull.ps.errors import Busy, InvalidInput, RingpullError
from ringpull.router.control.brought_versions import brought_versions
from ringpull.router.control.change import PHASES, Change, CoordinatorState, Kind, Outcome, Phase
from ringpull.router.control.checked_versions import unchecked
from ringpull.router.control.deployment_spec import DeploymentSpec
from ringpull.router.control.events import (
    Abort,
    Assign,
    Begin,
    Cancel,
    Command,
    Done,
    Event,
    Failed,
    HeadAlone,
    HeadExpired,
    HeadSeen,
    Load,
    Member,
    Pause,
    Prepare,
    Resume,
    RetryDue,
    Route,
    ShardLost,
    ShardSeen,
    StartShard,
    StopShard,
    Throttle,
    VersionLost,
    member_of,
)
from ringpull.router.control.head_steps import UNSEEN, for_head
from ringpull.router.control.live_before import not_gone_on_with, pinned_as_before
from ringpull.router.control.map_renewal import with_renewed_map
from ringpull.router.control.missing_versions import (
    asked_for,
    departed,
    has_lost,
    is_hopeless,
    note_assigned,
    note_loaded,
    note_missing,
    note_routed,
    rows_stay_away,
    version_names,
    without,
)
from ringpull.router.control.observed import UNKNOWN, ObservedHead, ObservedShard, SpecIds
from ringpull.router.control.placements import StreamSources, placements_of
from ringpull.router.control.pushed_tables import as_before, check_may_begin, live_lineages, noted, told, without_closed

# -- the machine -------------------------------------------------------------------------------------------------------


class Coordinator:
    """State machine of one deployment. Mutated only through `handle`, or the steps that it is made of.

    Args:
        state: State to go on from.
        deployment: Id of the deployment.
        term: Number of this coordinator's term: both are in every map.
    """

    def __init__(self, state: CoordinatorState | None = None, *, deployment: str = "", term: int = 0) -> None:
        self._deployment, self._term = deployment, term
        self._state = CoordinatorState() if state is None else state
        self.shards: dict[int, ObservedShard] = {}
        """Live shards by id. Read only for others."""
        # Until it is seen, or its lease has run out, a head may be serving by any map that was ever handed out.
        self.heads = {head: ObservedHead(UNSEEN) for head in self._state.heads}
        """Heads by number, as of their last heartbeat. Read only for others."""
        self._busy: dict[Member, Command] = {}
        """Command under way of each member that has one."""
        self._resting: set[Member] = set()
        """Members whose last command failed, until their `RetryDue`."""
        self._broken = (0, "")
        """Change that cannot be done, by its id, and why."""
        self._cancelled: list[Prepare] = []
        """Prepares under way that their shards were told to cancel."""

    def __repr__(self) -> str:
        state, change = self._state, self._state.change
        doing = "at rest" if change is None else f"{change.kind.value} {change.phase.value}"
        return f"<Coordinator {doing} epoch={state.epoch} shards={len(self.shards)} heads={len(self.heads)}>"

    @property
    def state(self) -> CoordinatorState:
        """State to be saved before the commands of the last event are executed."""
        return self._state

    def handle(self, event: Event) -> list[Command]:
        """Take in one event, advance, and return the commands that follow, in order.

        Raises:
            Busy, InvalidInput: See `take`.
        """
        self.take(event)
        self.advance()
        return self.missing_commands()

    def advance(self) -> None:
        """Go as far as what is observed allows: renew the map, begin phases, give up what cannot be done."""
        while self._advance():
            pass

    def revert(self, state: CoordinatorState) -> None:
        """Go back to an earlier state, since the later one could not be saved; what is observed stays."""
        self._state = state

    def take(self, event: Event) -> None:
        """Take in one event: what an operator asks, or what a member is observed to be.

        Raises:
            Busy, InvalidInput: What an operator asks does not fit what is under way; nothing has changed.
        """
        match event:
            case Begin():
                self._begin(event)
            case Pause() | Resume():
                self._set_paused(isinstance(event, Pause))
            case Abort(reason):
                self._give_up(self._reversible("abort"), reason)
            case ShardSeen(shard, incarnation, address, node, epoch, damaged):
                known = self.shards.get(shard)
                if known is None or known.incarnation != incarnation:
                    self._forget(Member("shard", shard))
                    self.shards[shard] = ObservedShard(incarnation, address, node, fresh=epoch == 0)
                self.shards[shard].damaged = damaged
                self._state = noted(self._state, shard, has=event.pushed, wants=event.wants_to_push)
            case ShardLost(shard):
                self.shards.pop(shard, None)
                self._forget(Member("shard", shard))
            case HeadSeen(head, incarnation, alone):
                if self.heads[head].incarnation != incarnation:
                    self._forget(Member("head", head))
                    self.heads[head] = ObservedHead(incarnation)
                self.heads[head].expired, self.heads[head].alone = False, alone
            case HeadExpired(head):
                self.heads[head].expired = True
            case HeadAlone(head):
                self.heads[head].alone = True
            case Done(command):
                self._done(command)
            case Failed(command, error):
                self._failed(command, error)
            case VersionLost(model, version, identity):
                self._state = without(self._state, (model, version), identity)
            case RetryDue(member):
                self._resting.discard(member)
                observed = (self.shards if member.role == "shard" else self.heads).get(member.id)
                if observed is not None:
                    observed.tries_again = bool(observed.missing)

    # -- events of operators -------------------------------------------------------------------------------------------

    def _begin(self, event: Begin) -> None:
        state = self._state
        if state.change is not None:
            under_way = f"{state.change.kind.value} {state.change.subject}"
            raise Busy(f"{under_way} is under way ({state.change.phase.value}); wait for it, or abort it")
        if state.spec is None and event.kind is not Kind.BRING_UP:
            raise InvalidInput(f"nothing serves yet; {event.kind.value} needs a deployment that is up")
        check_may_begin(state, event.target)
        change = Change(
            id=state.last_id + 1,
            kind=event.kind,
            subject=event.subject,
            target=pinned_as_before(state, as_before(state, event.target)),
            bytes_per_s=event.bytes_per_s,
            nodes=dict(event.nodes or {}),
            trust_files=event.trust_files,
            forgets=(*event.forgets, *not_gone_on_with(state, event.target)),
        )
        # A shard of the target that is being stopped is started again once it has stopped.
        leaving = state.leaving - set(change.target.shards)
        self._state = replace(state, change=change, leaving=leaving, last_id=change.id)

    def _set_paused(self, paused: bool) -> None:
        change = self._reversible("pause" if paused else "resume")
        self._state = replace(self._state, change=replace(change, paused=paused))

    def _reversible(self, verb: str) -> Change:
        change = self._state.change
        if change is None:
            raise InvalidInput(f"there is no change under way to {verb}")
        if not change.phase.reversible:
            raise InvalidInput(f"{change.kind.value} {change.subject} is {change.phase.value}: too late to {verb} it")
        return change

    # -- events of members ---------------------------------------------------------------------------------------------

    def _forget(self, member: Member) -> None:
        self._busy.pop(member, None)
        self._resting.discard(member)

    def _ended(self, command: Command) -> bool:
        """Note that a command is over; return whether its result concerns the present incarnation of its member.

        A command sent to an earlier incarnation was dropped from `_busy` when the next one was seen.
        """
        if isinstance(command, Throttle):
            shard = self.shards.get(command.shard)
            if shard is None or shard.incarnation != command.incarnation:
                return False
            shard.throttling = False
            return True
        member = member_of(command)
        if self._busy.get(member) is not command:
            return False
        del self._busy[member]
        return True

    def _done(self, command: Command) -> None:
        if not self._ended(command):
            return
        match command:
            case Prepare(shard=shard, specs=specs):
                self.shards[shard].stored |= specs
                self.shards[shard].damaged = False
                self.shards[shard].missing -= asked_for(command)
            case Assign(shard=shard, specs=specs, versions=versions):
                # An assignment makes the shard drop every other spec.
                note_assigned(self.shards[shard], specs, frozenset(versions))
                self.shards[shard].told = command.pushed
            case StopShard(shard=shard):
                self.shards.pop(shard, None)
                if shard in self._state.leaving:
                    self._state = replace(self._state, leaving=self._state.leaving - {shard})
            case Throttle(shard=shard, bytes_per_s=bytes_per_s):
                self.shards[shard].throttle = bytes_per_s
            case Load(head=head, versions=versions):
                note_loaded(self.heads[head], version_names(versions))
            case Route(head=head, shard_map=shard_map, versions=names):
                note_routed(self.heads[head], shard_map.epoch, names)

    def _failed(self, command: Command, error: RingpullError) -> None:
        if not self._ended(command):
            return
        self._resting.add(member_of(command))
        if isinstance(command, Throttle):
            self.shards[command.shard].throttle = UNKNOWN
            return
        change, old = self._state.change, note_missing(self._state, self.shards, self.heads, command, error)
        if change is None:
            return
        away = rows_stay_away(self._state, self.heads, command, error, all_serve=self._all_serve(change))
        if not away and not is_hopeless(command, error, old):
            return
        # While nothing serves yet there is no spec to go back to, and no change that must be finished.
        if self._state.spec is None or (change.phase.reversible and self._is_of(command, change)):
            self._broken = (change.id, f"{member_of(command)}: {error}")

    def _is_of(self, command: Command, change: Change) -> bool:
        """Whether a command belongs to the change, rather than to the repair of the spec that serves."""
        match command:
            case Prepare(specs=specs) | Assign(specs=specs):
                return change.id in specs
            case Load():
                return change.phase is Phase.LOADING
            case StartShard(shard=shard):
                return self._state.spec is None or shard not in self._state.spec.shards
        return False

    def _give_up(self, change: Change, reason: str) -> None:
        """Abort the change; the old spec's assignments and map are sent again, so that nothing of it remains."""
        state = self._state
        outcome = Outcome(change.id, change.kind, change.subject, reason)
        leaving = state.leaving | departed(change.target, state.spec)
        self._state = replace(state, change=None, leaving=leaving, outcome=outcome)
        if state.map is not None:
            epoch = state.epoch + 1
            self._state = replace(self._state, epoch=epoch, map=replace(state.map, epoch=epoch))

    # -- from phase to phase -------------------------------------------------------------------------------------------

    def _advance(self) -> bool:
        """Renew the map, and begin the next phase if this one is complete; return whether anything changed."""
        if self.renew_map():
            return True
        change = self._state.change
        if change is not None and (change.phase.reversible or self._state.spec is None):
            broken, reason = self._broken
            if broken == change.id:
                self._give_up(change, reason)
                return True
        if change is None or change.paused or not self._phase_is_through(change):
            return False
        if change.phase is Phase.CLEANUP:
            self._state = replace(
                self._state,
                spec=change.target,
                spec_id=change.id,
                before=None,
                change=None,
                outcome=Outcome(change.id, change.kind, change.subject),
            )
            highest = {model: live for model, live in self._state.highest_live.items() if model not in change.forgets}
            self._state = without_closed(replace(self._state, went_live=tuple(sorted(highest.items()))))
            return True
        phase = PHASES[PHASES.index(change.phase) + 1]
        self._state = replace(self._state, change=replace(change, phase=phase))
        if phase is Phase.CLEANUP:
            self._state = replace(self._state, leaving=self._state.leaving | departed(self._state.spec, change.target))
        return True

    def _phase_is_through(self, change: Change) -> bool:
        target = change.target
        match change.phase:
            case Phase.PREPARING:
                return all(shard in self.shards and change.id in self.shards[shard].stored for shard in target.shards)
            case Phase.CATCHING_UP:
                return True
            case Phase.DUAL_OWNERSHIP:
                return self._all_serve(change)
            case Phase.LOADING:
                # Shards are checked once more: ROUTING begins with a map of those that serve, and one may have died.
                return self._all_loaded(change) and self._all_serve(change)
            case Phase.ROUTING:
                return self._all_routed()
            case Phase.DRAINING:
                return self._all_routed()
            case Phase.CLEANUP:
                # A shard of the next spec that is out of reach does not hold up the end, since its machine may be gone
                # for good. When it is seen again, it is assigned what it should serve, and drops the rest.
                only = frozenset({change.id})
                return not self._state.leaving and all(
                    shard in target.shards and observed.served == observed.stored == only
                    for shard, observed in self.shards.items()
                )

    def _all_serve(self, change: Change) -> bool:
        return all(shard in self.shards and change.id in self.shards[shard].served for shard in change.target.shards)

    def _all_loaded(self, change: Change) -> bool:
        """Whether every serving head has loaded the next spec's versions; a new version needs at least one head."""
        state, wanted = self._state, version_names(change.target.versions)
        if state.spec is None:
            # At bring-up no head serves yet, and all of them are waited for.
            return all(wanted <= head.loaded for head in self.heads.values())
        loaded = [wanted <= head.loaded | head.missing for head in self._serving_heads()]
        return all(loaded) and (bool(loaded) or wanted <= version_names(state.spec.versions))

    def _serving_heads(self) -> Iterable[ObservedHead]:
        return (head for head in self.heads.values() if not head.expired)

    def _all_routed(self) -> bool:
        """Whether no head can have a pull in flight by an older map: each has acknowledged this one or has no lease,
        and no process serves on that a head has replaced."""
        acknowledged = all(head.routed >= self._state.epoch for head in self._serving_heads())
        return acknowledged and all(head.alone for head in self.heads.values())

    def renew_map(self) -> bool:
        """Make a map of the next epoch if its content has changed; return whether it has."""
        before = self._state
        self._state = with_renewed_map(before, self.shards, deployment=self._deployment, term=self._term)
        return self._state is not before

    # -- missing commands ----------------------------------------------------------------------------------------------

    def missing_commands(self) -> list[Command]:
        """Return the next command of every idle member that is behind what the phase requires; they are under way then.

        What a shard prepares for a change that was given up is cancelled, once.
        """
        known = self._specs().keys() | {self._state.spec_id}
        given_up = [
            command
            for command in self._busy.values()
            if isinstance(command, Prepare) and not command.specs <= known and command not in self._cancelled
        ]
        self._cancelled = [command for command in self._cancelled if command in self._busy.values()] + given_up
        commands: list[Command] = [Cancel(command.shard, command.incarnation) for command in given_up]
        wanted = {shard for spec in self._specs().values() for shard in spec.shards}
        for shard in sorted(wanted | self.shards.keys() | self._state.leaving):
            commands += self._throttle(shard)
            if self._free(Member("shard", shard)) and (command := self._for_shard(shard)) is not None:
                self._busy[Member("shard", shard)] = command
                commands.append(command)
        for head in sorted(self.heads):
            if (
                self._free(Member("head", head))
                and (command := for_head(self._state, head, self.heads[head])) is not None
            ):
                self._busy[Member("head", head)] = command
                commands.append(command)
        return commands

    def _free(self, member: Member) -> bool:
        return member not in self._busy and member not in self._resting

    def _for_shard(self, shard: int) -> Command | None:
        change, observed = self._state.change, self.shards.get(shard)
        wanted = self._wanted_specs(shard)
        if not wanted:
            return StopShard(shard, "" if observed is None else observed.incarnation)
        if observed is None:
            return StartShard(shard, None if change is None else change.nodes.get(shard))
        if change is not None and change.phase.reversible and observed.fresh:
            # A shard that was just started serves the present spec before it prepares the next, which may take long.
            serving = wanted - {change.id}
            if not serving <= observed.stored:
                return self._prepare(observed, shard, serving)
            if not serving <= observed.served:
                return self._assign(observed, shard, serving)
        if not wanted <= observed.stored:
            return self._prepare(observed, shard, wanted)
        news = has_lost(observed, self._specs(), wanted) or observed.told != told(self._state, shard)
        if wanted != observed.served or wanted != observed.stored or news:
            return self._assign(observed, shard, wanted)
        if observed.tries_again or (observed.damaged and change is None):
            observed.tries_again = False
            return self._prepare(observed, shard, wanted)
        return None

    def _prepare(self, observed: ObservedShard, shard: int, specs: SpecIds) -> Prepare:
        wanted = [spec for spec_id, spec in self._specs().items() if spec_id in specs]
        checks, publishes = unchecked(self._state), brought_versions(self._state, self._deployment)
        sources = self._stream_sources(shard)
        placements = placements_of(shard, wanted, sources, unchecked=checks, publishes=publishes)
        return Prepare(shard, observed.incarnation, specs, placements)

    def _assign(self, observed: ObservedShard, shard: int, specs: SpecIds) -> Assign:
        wanted = [spec for spec_id, spec in self._specs().items() if spec_id in specs]
        versions = {(each.model, each.version): each.identity for spec in wanted for each in spec.versions}
        served_ranges = tuple(spec.served_ranges for spec in wanted)
        # The epoch of the coming map, if there will be one: heads that are refused with it fetch that map.
        to_come = self._state.change is not None and self._state.change.phase.reversible
        epoch, pushed = self._state.epoch + to_come, told(self._state, shard)
        return Assign(shard, observed.incarnation, specs, epoch, served_ranges, versions, pushed, live_lineages(wanted))

    def _stream_sources(self, but: int) -> StreamSources | None:
        """Return the shards that ranges can be streamed from: those that serve the present spec."""
        state, change = self._state, self._state.change
        spec, spec_id = state.spec, state.spec_id
        if change is not None and change.phase is Phase.CLEANUP:
            spec, spec_id = change.target, change.id
        if spec is None:
            return None
        live = {
            shard: observed.address
            for shard, observed in self.shards.items()
            if shard != but and spec_id in observed.served
        }
        return StreamSources(spec, live)

    def _throttle(self, shard: int) -> list[Command]:
        observed, change = self.shards.get(shard), self._state.change
        if observed is None or observed.throttling or Member("shard", shard) in self._resting:
            return []
        wanted = None if change is None else 0.0 if change.paused else change.bytes_per_s
        if observed.fresh and self._state.spec_id not in observed.served and shard in self._shards_that_serve():
            wanted = None  # It was just started and repairs the present spec, whatever becomes of the change.
        if observed.throttle == wanted:
            return []
        observed.throttling = True
        return [Throttle(shard, observed.incarnation, wanted)]

    # -- requirements of the phase -------------------------------------------------------------------------------------

    def _specs(self) -> dict[int, DeploymentSpec]:
        """Return the specs that shards have to serve, by id: the present one, until CLEANUP, and the next."""
        state, change = self._state, self._state.change
        specs = {} if state.spec is None else {state.spec_id: state.spec}
        if change is None:
            return specs
        return {change.id: change.target} if change.phase is Phase.CLEANUP else specs | {change.id: change.target}

    def _shards_that_serve(self) -> tuple[int, ...]:
        return () if self._state.spec is None else self._state.spec.shards

    def _wanted_specs(self, shard: int) -> SpecIds:
        """Return the specs whose ranges a shard should store and serve; none when the shard should stop."""
        return frozenset(spec_id for spec_id, spec in self._specs().items() if shard in spec.shards)
