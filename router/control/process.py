"""Coordinator's process: threads, clocks and files around the state machine of `ringpull.router.control.coordinator`.

One thread runs the machine: an event in, the state saved if it has changed, commands out. So what anybody was told
is always on disk, and a coordinator that was killed goes on from there by itself. Each command is carried out by a
thread of its own, and its answer is the next event; members are asked for heartbeats side by side
(`ringpull.router.control.heartbeat_monitor`). A member that hangs holds up its own threads only.

Time lives here: a command that failed is tried again after a delay that grows, and a head that was not heard of for as
long as its lease is taken for expired.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, TypeVar

from ringpull.ps.errors import CorruptData, RingpullError, StartupError, Unavailable
from ringpull.ps.heartbeat import ShardHeartbeat
from ringpull.router.control.change import CoordinatorState, Kind
from ringpull.router.control.change_log import log_change
from ringpull.router.control.change_view import ChangeView, traffic_of
from ringpull.router.control.changes import Place, begin_of
from ringpull.router.control.controls import LEASE_S, Members
from ringpull.router.control.coordinator import Coordinator
from ringpull.router.control.coordinator_state import state_from_dict, state_to_dict
from ringpull.router.control.deployment_spec import DeploymentSpec, PlacedVersion
from ringpull.router.control.events import (
    Abort,
    Begin,
    Command,
    Done,
    Event,
    Failed,
    HeadExpired,
    HeadSeen,
    Member,
    Pause,
    Resume,
    RetryDue,
    ShardLost,
    ShardSeen,
    member_of,
)
from ringpull.router.control.execution import execute
from ringpull.router.control.heartbeat_monitor import HEARTBEAT_S, HeartbeatMonitor
from ringpull.router.control.moves import MovePlan, RowsIn, move_plan
from ringpull.router.control.observed import HeadHeartbeat
from ringpull.router.control.operations import (
    VERBS,
    ChangeRequest,
    ChangeStatus,
    Control,
    ControlChange,
    DeploymentStatus,
    GetChange,
    GetStatus,
    ListMembers,
    MemberState,
    PlanRebalance,
    Publish,
    Rebalance,
    RestartMember,
    Rollback,
)
from ringpull.router.control.restarts import Restarts
from ringpull.router.control.scraping import ScrapeTarget, scrape_targets
from ringpull.router.control.state_file import StateFile
from ringpull.router.control.verbs import Request
from ringpull.router.shard_map import ShardAddress, ShardMap

logger: Final = logging.getLogger(__name__)

R = TypeVar("R")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Durations of the coordinator's process, in seconds."""

    heartbeat_s: float = HEARTBEAT_S
    lease_s: float = LEASE_S
    first_retry_s: float = 0.2
    """Delay after the first failure of a member; doubled with each further one, until a success."""
    longest_retry_s: float = 5.0
    """Upper bound on that delay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of a deployment that do not change while it serves."""

    place: Place
    """Finds on disk the version that is to be published."""
    heads: int = 1
    """Number of heads."""
    keep: int = 1
    """Versions of a model that stay open behind the live one."""
    streamed: bool = False
    """Whether shards keep copies of their own, so that rows have to be streamed to them."""
    rows_in: RowsIn | None = None
    """Counts the rows of a range, for plans; None: taken to lie evenly."""
    check_startable: Callable[[], None] = lambda: None
    """Raises `Unavailable` while no process can be started, so that nothing can be changed."""


class CoordinatorProcess:
    """Runs one `Coordinator` over the members of a deployment, from construction until `stop`.

    Args:
        state_file: Where the state is saved. What is found there is carried on when it is of the same deployment; of
            another one only the epoch is kept, so that none is used twice.
        members: The shards and heads.
        deployment: Tells this deployment from all others that ever saved their state there.
        settings: What does not change while it serves.
        failed: Called when the thread has failed; whoever runs the process ends it then, to be started anew.

    Raises:
        CorruptData: The saved state cannot be read.
        StartupError: The state's folder cannot be read or written.
    """

    def __init__(
        self,
        state_file: StateFile,
        members: Members,
        *,
        deployment: str,
        settings: Settings,
        timing: Timing = Timing(),
        clock: Callable[[], float] = time.monotonic,
        failed: Callable[[], None] = lambda: None,
    ) -> None:
        self._file = state_file
        self._members = members
        self._deployment = deployment
        self._settings = settings
        self._timing = timing
        self._clock = clock
        self._failed_for_good = failed
        self._machine = Coordinator(self._restored(tuple(range(settings.heads))))
        self._saved = self._machine.state
        self._view = ChangeView()
        self._status = self._view.status(self._machine)
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._failures: dict[Member, int] = {}
        self._due_s: dict[Member, float] = {}
        self._heard_s = dict.fromkeys(self._saved.heads, clock())
        self._expired: set[int] = set()
        self._restarts = Restarts(clock)
        self._ending = threading.Event()
        self._stopped = ""
        self._monitor: HeartbeatMonitor[Member] = HeartbeatMonitor(
            self._ask, self._answered, self._lost, every_s=timing.heartbeat_s
        )
        self._thread = threading.Thread(target=self._run, name="coordinator", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<CoordinatorProcess {self._machine!r} {self._file!r}>"

    # -- what operators and heads ask; from any thread. Verbs are described by their requests --------------------------

    def bring_up(self, spec: DeploymentSpec) -> ChangeStatus:
        """Begin to bring a deployment up; return the change's status as it begins.

        Raises:
            InvalidInput: A change is under way already.
        """
        subject = ", ".join(version.name for version in spec.versions)
        return self._tell(lambda: Begin(Kind.BRING_UP, subject, spec))

    def call(self, request: Request[R]) -> R:
        """Carry out a request: the method that has the name of its verb answers. See `OperatorVerbs.call`."""
        return VERBS.answer(self, request)

    def publish(self, request: Publish) -> ChangeStatus:
        return self._submit(request)

    def rollback(self, request: Rollback) -> ChangeStatus:
        return self._submit(request)

    def rebalance(self, request: Rebalance) -> ChangeStatus:
        return self._submit(request)

    def plan(self, request: PlanRebalance) -> MovePlan:
        self._check_runs()
        state = self._saved
        target = self._begin_of(request.rebalance)(state).target
        assert state.spec is not None  # Nothing is planned before: see `begin_of`.
        return move_plan(state.spec, target, streamed=self._settings.streamed, rows_in=self._settings.rows_in)

    def control(self, request: ControlChange) -> ChangeStatus:
        match request.control:
            case Control.PAUSE:
                event: Event = Pause()
            case Control.RESUME:
                event = Resume()
            case Control.ABORT:
                event = Abort("an operator aborted it")
        return self._tell(lambda: event)

    def change(self, request: GetChange) -> ChangeStatus:
        self._check_runs()
        return self._status

    def status(self, request: GetStatus) -> DeploymentStatus:
        return self._on_thread(self._deployment_status)

    def members(self, request: ListMembers) -> tuple[MemberState, ...]:
        return self._on_thread(lambda: self._restarts.states(self._machine))

    def restart(self, request: RestartMember) -> None:
        # Without that it would go, and not come back.
        self._settings.check_startable()
        member, incarnation = request.member, request.incarnation
        if not self._on_thread(lambda: self._restarts.begin(self._machine, member, incarnation, force=request.force)):
            return
        logger.info("%s is restarted", member)
        control = self._members.shard(member.id) if member.role == "shard" else self._members.head(member.id)
        try:
            control.restart(request.drain_s)
        except RingpullError:
            self._on_thread(lambda: self._restarts.called_off(member))
            raise

    def map(self) -> ShardMap:
        """See `Operations.map`."""
        self._check_runs()
        shard_map = self._saved.map
        if shard_map is None:
            raise Unavailable("there is no shard map before the first bring-up")
        return shard_map

    def scrape_targets(self) -> tuple[ScrapeTarget, ...]:
        """See `Operations.scrape_targets`."""
        return self._on_thread(lambda: scrape_targets(self._view.heads, self._view.shards))

    def heads(self) -> dict[int, HeadHeartbeat]:
        """Return the last answer of every head."""
        return self._on_thread(lambda: dict(self._view.heads))

    def state(self) -> dict[str, Any]:
        """Return the state in its saved form."""
        return state_to_dict(self._saved)

    def stop(self) -> None:
        """End the thread. What is under way is left to itself; the saved state stays."""
        self._ending.set()
        self._thread.join()
        self._monitor.watch(())

    def _submit(self, request: ChangeRequest) -> ChangeStatus:
        """Begin a change; return its status as it begins."""
        begin = self._begin_of(request)
        return self._tell(lambda: begin(self._machine.state))

    def _begin_of(self, request: ChangeRequest) -> Callable[[CoordinatorState], Begin]:
        """Look up all that a request needs of disks and members; return what makes the event of it.

        In the caller's thread: the machine does not wait for a disk.
        """
        self._settings.check_startable()
        spec = self._saved.spec
        if spec is None:
            raise Unavailable("nothing serves yet; wait until the deployment is up")
        found = self._settings.place(request, spec) if isinstance(request, Publish) else None
        addresses = self._members.nodes()
        if isinstance(request, Rebalance):
            named = {address: node for node, address in addresses.items()}
            request = replace(request, drain_node=named.get(request.drain_node, request.drain_node))

        def place(publish: Publish, spec: DeploymentSpec) -> PlacedVersion:
            assert found is not None
            return found

        return partial(
            begin_of,
            request,
            place=place,
            keep=self._settings.keep,
            nodes=self._on_thread(lambda: {shard: observed.node for shard, observed in self._machine.shards.items()}),
            free_nodes=sorted(addresses),
        )

    def _tell(self, event: Callable[[], Event]) -> ChangeStatus:
        """Hand an event of an operator to the machine; return the status once it is saved and acted on."""

        def take() -> ChangeStatus:
            self._handle(event())
            return self._status

        return self._on_thread(take)

    def _on_thread(self, work: Callable[[], T]) -> T:
        self._check_runs()
        answer: Future[T] = Future()

        def run() -> None:
            try:
                answer.set_result(work())
            except RingpullError as exc:
                answer.set_exception(exc)

        self._inbox.put(run)
        while True:
            try:
                return answer.result(timeout=1.0)
            except TimeoutError:
                self._check_runs()

    def _check_runs(self) -> None:
        if self._stopped:
            raise StartupError(f"the coordinator has stopped: {self._stopped}")

    # -- the machine's thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._follow_members()
            while not self._ending.is_set():
                with suppress(queue.Empty):
                    self._inbox.get(timeout=self._timing.heartbeat_s)()
                self._look_at_the_clock()
            self._stopped = "it was told to"
        except BaseException as exc:
            # A machine that is half a step on must not go further; what is saved is whole.
            logger.exception("the coordinator has failed")
            self._stopped = f"{type(exc).__name__}: {exc}"
            self._failed_for_good()

    def _handle(self, event: Event) -> None:
        """Step once: the event in, the state saved, the commands out.

        Raises:
            InvalidInput: See `Coordinator.handle`.
        """
        commands = self._machine.handle(event)
        self._save()
        for command in commands:
            self._view.sent(command, self._machine.state.change)
            threading.Thread(target=self._execute, args=(command,), name=str(member_of(command)), daemon=True).start()
        self._follow_members()
        before, self._status = self._status, self._view.status(self._machine)
        log_change(before, self._status)

    def _save(self) -> None:
        """Save the state if it has changed; nothing goes on before that."""
        state = self._machine.state
        failures = 0
        while state is not self._saved:
            try:
                self._file.save({"deployment": self._deployment, "state": state_to_dict(state)})
                self._saved = state
            except StartupError as exc:
                # A full disk, a bucket out of reach. Predictions go on; so does this, once it can.
                failures += 1
                logger.warning("%s", exc)
                self._status = replace(self._status, trouble=str(exc))
                if self._ending.wait(self._delay_s(failures)):
                    raise

    def _restored(self, heads: tuple[int, ...]) -> CoordinatorState:
        fields = self._file.load()
        if fields is None:
            return CoordinatorState(heads=heads)
        if not isinstance(fields.get("state"), dict):
            raise CorruptData(f"{self._file!r} does not hold a state that this build reads")
        state = state_from_dict(fields["state"])
        if fields.get("deployment") != self._deployment:
            return CoordinatorState(heads=heads, epoch=state.epoch)
        return state

    def _follow_members(self) -> None:
        """Ask the members that there should be for heartbeats, and those that should leave."""
        state = self._machine.state
        shards = set(self._machine.shards)
        if state.spec is not None:
            shards |= set(state.spec.shards)
        if state.change is not None:
            shards |= set(state.change.target.shards)
        self._monitor.watch(
            [Member("shard", shard) for shard in shards] + [Member("head", head) for head in state.heads]
        )
        for gone in self._view.shards.keys() - shards:
            del self._view.shards[gone]

    def _look_at_the_clock(self) -> None:
        now_s = self._clock()
        for member in [member for member, due_s in self._due_s.items() if due_s <= now_s]:
            del self._due_s[member]
            self._handle(RetryDue(member))
        for head, heard_s in self._heard_s.items():
            if now_s - heard_s > self._timing.lease_s and head not in self._expired:
                self._expired.add(head)
                self._handle(HeadExpired(head))

    def _deployment_status(self) -> DeploymentStatus:
        spec = self._machine.state.spec
        if spec is None:
            raise Unavailable("nothing serves yet")
        return DeploymentStatus(
            spec=spec,
            resident_bytes={shard: heartbeat.resident_bytes for shard, heartbeat in self._view.shards.items()},
            nodes={shard: heartbeat.node for shard, heartbeat in self._view.shards.items()},
            requests=sum(heartbeat.requests for heartbeat in self._view.heads.values()),
            traffic=traffic_of(self._view.heads.values()),
            warnings=self._view.warnings(),
        )

    # -- heartbeats ----------------------------------------------------------------------------------------------------

    def _ask(self, member: Member) -> ShardHeartbeat | HeadHeartbeat:
        if member.role == "shard":
            return self._members.shard(member.id).heartbeat()
        return self._members.head(member.id).heartbeat(self._timing.lease_s)

    def _answered(self, member: Member, heartbeat: ShardHeartbeat | HeadHeartbeat) -> None:
        self._inbox.put(lambda: self._seen(member, heartbeat))

    def _lost(self, member: Member) -> None:
        self._inbox.put(lambda: self._unseen(member))

    def _seen(self, member: Member, heartbeat: ShardHeartbeat | HeadHeartbeat) -> None:
        self._restarts.answered(member)
        if isinstance(heartbeat, ShardHeartbeat):
            self._view.shard(member.id, heartbeat)
            address = ShardAddress(member.id, heartbeat.host, heartbeat.port, heartbeat.incarnation)
            self._handle(ShardSeen(member.id, heartbeat.incarnation, address, heartbeat.node, heartbeat.epoch))
        else:
            self._view.head(member.id, heartbeat)
            self._heard_s[member.id] = self._clock()
            self._expired.discard(member.id)
            self._handle(HeadSeen(member.id, heartbeat.incarnation))

    def _unseen(self, member: Member) -> None:
        self._restarts.lost(member)
        # A head may still serve though it cannot be asked: only its lease tells. A shard that was not there before is
        # being started.
        if member.role == "shard" and member.id in self._machine.shards:
            self._handle(ShardLost(member.id))

    # -- commands; each in a thread of its own -------------------------------------------------------------------------

    def _execute(self, command: Command) -> None:
        try:
            execute(command, self._members, self._answered)
        except RingpullError as exc:
            error = exc
            self._inbox.put(lambda: self._failed(command, error))
        except Exception as exc:
            # A bug: but a command that never ends would hold the change for ever, and nobody would know why.
            logger.exception("%s", command)
            wrong = StartupError(f"{type(exc).__name__}: {exc}")
            self._inbox.put(lambda: self._failed(command, wrong))
        else:
            self._inbox.put(lambda: self._done(command))

    def _done(self, command: Command) -> None:
        self._failures.pop(member_of(command), None)
        self._view.trouble = ""
        self._handle(Done(command))

    def _failed(self, command: Command, error: RingpullError) -> None:
        member = member_of(command)
        failures = self._failures[member] = self._failures.get(member, 0) + 1
        self._due_s[member] = self._clock() + self._delay_s(failures)
        self._view.trouble = f"{member}: {error}"
        logger.warning("%s: %s failed: %s", member, type(command).__name__, error)
        self._handle(Failed(command, error))

    def _delay_s(self, failures: int) -> float:
        return min(self._timing.longest_retry_s, self._timing.first_retry_s * 2.0 ** min(failures - 1, 32))
