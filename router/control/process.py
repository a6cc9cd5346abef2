"""Coordinator's process: threads around the leader, and the verbs that operators and heads call.

One thread steps the leader (`ringpull.router.control.leader`). Each command is carried out by a thread of its own, and
its answer is the next event; members are asked for heartbeats side by side
(`ringpull.router.control.heartbeat_monitor`). A member that hangs holds up its own threads only. Operators' requests
come from any thread and wait for the leader's.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, TypeVar

from ringpull.ps.elsewhere import Elsewhere
from ringpull.ps.errors import InvalidInput, RingpullError, StartupError, Superseded, Unavailable
from ringpull.ps.heartbeat import ShardHeartbeat
from ringpull.router.control.chains import due
from ringpull.router.control.change import CoordinatorState, Kind
from ringpull.router.control.changes import Place, begin_of
from ringpull.router.control.controls import Members
from ringpull.router.control.coordinator_state import state_to_dict
from ringpull.router.control.deployment_spec import DeploymentSpec, PlacedVersion
from ringpull.router.control.events import Abort, Begin, Event, Member, Pause, Resume, VersionLost
from ringpull.router.control.head_counts import Growing, HeadCounts
from ringpull.router.control.heartbeat_monitor import HeartbeatMonitor
from ringpull.router.control.leader import TIMING, Leader, Timing, Work
from ringpull.router.control.losses import Losses, LossOf
from ringpull.router.control.model_roots import ModelRoots
from ringpull.router.control.model_search import FindAmong, ModelSearch, look_nowhere
from ringpull.router.control.moves import MoveSummary, RowsBelow
from ringpull.router.control.observed import HeadHeartbeat
from ringpull.router.control.operations import (
    VERBS,
    Asker,
    ChangeRequest,
    ChangeStatus,
    Control,
    ControlChange,
    DeploymentStatus,
    GetChange,
    GetShardMap,
    GetStatus,
    LabelVersion,
    ListMembers,
    LoadModel,
    MemberState,
    Overview,
    PlanRebalance,
    Publish,
    Rebalance,
    RestartMember,
    Rollback,
    ServeModels,
    UnloadModel,
)
from ringpull.router.control.rebalancing import Rebalancing
from ringpull.router.control.scraping import ScrapeTarget
from ringpull.router.control.state_store import Owner, StateStore
from ringpull.router.control.verbs import Request
from ringpull.router.shard_map import ShardMap

logger: Final = logging.getLogger(__name__)

R = TypeVar("R")
T = TypeVar("T")

LONGEST_PLAN_S: Final = 120.0
"""Time after which a plan is given up whose caller waits for longer: ten times what a thousand shards take."""

PLAN_NICENESS: Final = 10
"""Niceness of the processes that plan: whatever else this machine does goes before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of a deployment that do not change while it serves."""

    place: Place
    """Finds on disk the version that is to be published."""
    find: FindAmong = look_nowhere
    """Finds on disk the versions of models that are to be loaded."""
    heads: int = 1
    """Number of heads."""
    keep: int = 1
    """Versions of a model that stay open behind the live one."""
    streamed: bool = False
    """Whether shards keep copies of their own, so that rows have to be streamed to them."""
    rows_in_memory: bool = False  # see `ServeConfig`
    rows_below: RowsBelow | None = None
    """Counts rows below slots, for plans, perhaps in another process; None: taken to lie evenly."""
    loss_of: LossOf | None = None
    """Tells why a version that is open cannot be opened again; None: nobody looks."""
    orphans_possible: bool = False
    """Whether a process of a member can live on where Ray takes it for dead: on a Ray of several nodes."""
    roots: ModelRoots | None = None
    """Roots that published versions lie below; None: anywhere. What a saved state has open is served in any case."""
    check_startable: Callable[[], None] = lambda: None
    """Raises `Unavailable` while no process can be started, so that nothing can be changed."""


class CoordinatorProcess:
    """Runs one `Coordinator` over the members of a deployment, from construction until `stop`.

    Args:
        store: Where the state is saved.
        members: The shards and heads.
        owner: The deployment, which must have the store, or be the first there.
        settings: What does not change while it serves.
        must_exist: The deployment's state must be there, or it is not the store that it should be.
        failed: Called when the thread has failed; whoever runs the process ends it then, to be started anew.

    Raises:
        Superseded: Another deployment has the store by now.
        CorruptData: No saved state can be read.
        StartupError: The store cannot be read or written, or holds no state.
    """

    def __init__(
        self,
        store: StateStore,
        members: Members,
        *,
        owner: Owner,
        settings: Settings,
        must_exist: bool = False,
        timing: Timing = TIMING,
        clock: Callable[[], float] = time.monotonic,
        failed: Callable[[], None] = lambda: None,
    ) -> None:
        self._members = members
        self._settings = settings
        self._timing = timing
        self._clock = clock
        self._failed_for_good = failed
        self._work = threading.Event()
        self._reign = store.claim(owner, must_exist=must_exist)
        self._beat_s = store.beat_s
        self._leader = Leader(
            self._reign,
            members,
            heads=tuple(range(settings.heads)),
            timing=timing,
            clock=clock,
            spawn=_spawn,
            wake=self._work.set,
            orphans_possible=settings.orphans_possible,
        )
        self._asked = threading.local()
        self._plans, self._rebalances = (
            Elsewhere("plan", "coordinator", niceness=PLAN_NICENESS, longest_s=LONGEST_PLAN_S) for _ in range(2)
        )
        self._ending = threading.Event()
        self._stopped = ""
        self._monitor: HeartbeatMonitor[Member] = HeartbeatMonitor(
            self._ask, self._leader.answered, self._leader.lost, every_s=timing.heartbeat_s
        )
        self._losses = Losses(settings.loss_of, self._let_go, clock)
        self._stepped_s = clock()
        self._thread = threading.Thread(target=self._run, name="coordinator", daemon=True)
        self._thread.start()
        _spawn(self._beat, "beat")
        if settings.loss_of is not None:
            _spawn(self._watch_files, "files")

    def __repr__(self) -> str:
        return f"<CoordinatorProcess {self._leader!r}>"

    # -- what operators and heads ask; from any thread. Verbs are described by their requests --------------------------

    def bring_up(self, spec: DeploymentSpec) -> ChangeStatus:
        """Begin to bring a deployment up; return the change's status as it begins.

        Raises:
            Busy: A change is under way already.
        """
        subject = ", ".join(version.name for version in spec.versions)
        return self._tell(lambda: Begin(Kind.BRING_UP, subject, spec))

    def call(self, request: Request[R], *, within_s: float | None = None) -> R:
        """Carry out a request: the method that has the name of its verb answers. See `OperatorVerbs.call`."""
        self._asked.until_s = None if within_s is None else self._clock() + within_s
        try:
            return VERBS.answer(self, request)
        finally:
            self._asked.until_s = None

    def release(self) -> None:
        """Lead no more, and let any other deployment have the folder of the state.

        Raises:
            StartupError: The folder cannot be written.
        """
        self.stop()
        self._reign.release(without_rows=self._settings.rows_in_memory)

    def publish(self, request: Publish) -> ChangeStatus:
        return self._submit(request)

    def rollback(self, request: Rollback) -> ChangeStatus:
        return self._submit(request)

    def rebalance(self, request: Rebalance) -> ChangeStatus:
        return self._submit(request)

    def plan(self, request: PlanRebalance) -> MoveSummary:
        self._check_runs()
        rebalancing = self._rebalancing(request.rebalance)
        plan = partial(rebalancing.plan, streamed=self._settings.streamed, rows_below=self._settings.rows_below)
        # Anybody may ask for plans: they have a process of their own, so that an operator's rebalance waits for none.
        return self._plans.run(plan, wait=False, within_s=self._left_s()) if rebalancing.large else plan()

    def load(self, request: LoadModel) -> ChangeStatus:
        return self._submit(request)

    def unload(self, request: UnloadModel) -> ChangeStatus:
        return self._submit(request)

    def serve(self, request: ServeModels) -> ChangeStatus:
        return self._submit(request)

    def label(self, request: LabelVersion) -> ChangeStatus:
        return self._submit(request)

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
        return self._leader.status

    def status(self, request: GetStatus) -> DeploymentStatus:
        status = self._on_thread(self._leader.deployment_status)
        versions = status.spec.versions
        return replace(status, warnings=(*self._losses.warnings(versions), *due(status.spec), *status.warnings))

    def members(self, request: ListMembers) -> tuple[MemberState, ...]:
        return self._on_thread(self._leader.member_states)

    def restart(self, request: RestartMember) -> None:
        # Without that it would go, and not come back.
        self._settings.check_startable()
        member, incarnation = request.member, request.incarnation
        if not request.force:
            self._check_comes_back(member)
        if not self._on_thread(lambda: self._leader.begin_restart(member, incarnation, force=request.force)):
            return
        logger.info("%s is restarted", member)
        control = self._members.shard(member.id) if member.role == "shard" else self._members.head(member.id)
        try:
            control.restart(self._leader.order(incarnation), request.drain_s)
        except RingpullError:
            self._on_thread(lambda: self._leader.restarts.called_off(member))
            raise

    def shard_map(self, request: GetShardMap) -> ShardMap:
        return self.map()

    def map(self, asker: Asker | None = None) -> ShardMap:
        """See `Operations.map`. None: whoever asks is no head."""
        self._check_runs()
        return self._leader.map(asker)

    def scrape_targets(self) -> tuple[ScrapeTarget, ...]:
        """See `Operations.scrape_targets`."""
        return self._on_thread(self._leader.scrape_targets)

    def overview(self, asker: Asker, counts: HeadCounts, known: Mapping[str, Growing]) -> Overview:
        """See `Operations.overview`."""
        leader = self._leader

        def tell() -> Overview:
            state = leader.machine.state
            lost = () if state.spec is None else self._losses.warnings(state.spec.versions)
            long = () if state.spec is None else due(state.spec)
            warnings = (*lost, *long, *leader.warnings())
            return leader.overviews.tell(asker, counts, known, state=state, change=leader.status, warnings=warnings)

        return self._on_thread(tell)

    def heads(self) -> dict[int, HeadHeartbeat]:
        """Return the last answer of every head."""
        return self._on_thread(self._leader.heads)

    def state(self) -> dict[str, Any]:
        """Return the state in its saved form."""
        return state_to_dict(self._leader.saved)

    def stop(self) -> None:
        """End the thread. What is under way is left to itself; the saved state stays."""
        self._ending.set()
        self._plans.stop()
        self._rebalances.stop()
        self._work.set()
        self._thread.join()
        self._monitor.watch(())

    def _submit(self, request: ChangeRequest) -> ChangeStatus:
        """Begin a change; return its status as it begins."""
        # Before it begins, so that it needs nothing that is lost.
        self._losses.look_in_time(self._leader.saved)
        begin = self._begin_of(request)
        try:
            return self._tell(lambda: begin(self._leader.machine.state))
        except InvalidInput as exc:
            gone = self._losses.let_go_of(request.model) if isinstance(request, Rollback) else ""
            raise InvalidInput(f"{exc} ({gone})") if gone else exc from exc

    def _check_comes_back(self, member: Member) -> None:
        """Check that a member that is restarted can open what is live.

        Raises:
            InvalidInput: Files that it would need are gone, or are other ones.
        """
        if member.role == "shard" and self._settings.streamed:
            return  # It has copies of its own, and of other shards.
        self._losses.look_in_time(self._leader.saved)
        if lost := "; ".join(f"{name}: {reason}" for name, reason in self._losses.of_live().items()):
            raise InvalidInput(f"{member} would not serve after a restart ({lost}); publish a new version, or --force")

    def _let_go(self, version: PlacedVersion, reason: str) -> bool:
        """Let go of a version that is lost; return whether that was done. One that has become live meanwhile stays."""
        self._tell(lambda: VersionLost(version.model, version.version, version.identity))
        state = self._leader.saved
        specs = (state.spec, None if state.change is None else state.change.target)
        return not any(spec is not None and version in spec.versions for spec in specs)

    def _begin_of(self, request: ChangeRequest) -> Callable[[CoordinatorState], Begin]:
        """Look up all that a request needs of disks and members; return what makes the event of it.

        In the caller's thread: the machine does not wait for a disk.
        """
        self._settings.check_startable()
        if isinstance(request, Rebalance):
            return self._begin_of_rebalance(self._rebalancing(request))
        spec = self._spec()
        begin = partial(begin_of, request, keep=self._settings.keep)
        if isinstance(request, Publish):
            found = self._settings.place(self._admitted(request, spec), spec)
            return partial(begin, place=lambda publish, spec: found)
        if isinstance(request, LoadModel | ServeModels):
            by_source = ModelSearch(self._settings.find, self._settings.roots).all_of(request, spec)
            return partial(begin, find=lambda source: by_source[source.name])
        return begin

    def _begin_of_rebalance(self, asked: Rebalancing) -> Callable[[CoordinatorState], Begin]:
        """As `_begin_of`; what is large is worked out before, in another process, and not by the machine's thread."""
        if not asked.large:
            return lambda state: replace(asked, spec=state.spec or asked.spec).begin()
        begun = self._rebalances.run(asked.begin, wait=True, within_s=self._left_s())

        def begin(state: CoordinatorState) -> Begin:
            if state.spec != asked.spec:
                raise Unavailable("the deployment has changed while this was planned; ask again")
            return begun

        return begin

    def _left_s(self) -> float | None:
        """Return how long the caller of this thread still waits; None: nobody knows."""
        until_s: float | None = getattr(self._asked, "until_s", None)
        return None if until_s is None else max(0.0, until_s - self._clock())

    def _rebalancing(self, request: Rebalance) -> Rebalancing:
        """Look up all that a rebalance needs of members."""
        self._settings.check_startable()
        spec, addresses = self._spec(), self._members.nodes()
        named = {address: node for node, address in addresses.items()}
        return Rebalancing(
            spec,
            replace(request, drain_node=named.get(request.drain_node, request.drain_node)),
            nodes=self._on_thread(
                lambda: {shard: observed.node for shard, observed in self._leader.machine.shards.items()}
            ),
            free_nodes=sorted(addresses),
        )

    def _spec(self) -> DeploymentSpec:
        spec = self._leader.saved.spec
        if spec is None:
            raise Unavailable("nothing serves yet; wait until the deployment is up")
        return spec

    def _admitted(self, request: Publish, spec: DeploymentSpec) -> Publish:
        """Return a request for a version that lies where versions may lie; nothing is read for that.

        Raises:
            Forbidden: It does not.
            InvalidInput: Its folder is no folder's name.
        """
        live = spec.version(request.model, spec.live.get(request.model, 0))
        if self._settings.roots is None or live is None:
            return request
        admitted = self._settings.roots.admit(request.folder or live.models_folder)
        if request.folder in ("", live.models_folder):
            return request  # As it is named in the state, links and all.
        return replace(request, folder=admitted)

    def _tell(self, event: Callable[[], Event]) -> ChangeStatus:
        """Hand an event of an operator to the machine; return the status once it is saved and acted on."""

        return self._on_thread(lambda: self._leader.tell(event()))

    def _on_thread(self, work: Callable[[], T]) -> T:
        """Have work done by the leader's thread; return its result.

        Raises:
            Unavailable: Its time ran out before it was begun, or another coordinator leads; nothing was done.
        """
        self._check_runs()
        answer: Future[T] = Future()
        until_s: float | None = getattr(self._asked, "until_s", None)

        def run() -> None:
            try:
                if until_s is not None and self._clock() >= until_s:
                    raise Unavailable("the request came too late; nothing was begun")
                answer.set_result(work())
            except Superseded as exc:
                answer.set_exception(Unavailable(f"another coordinator leads by now; ask again ({exc})"))
            except RingpullError as exc:
                answer.set_exception(exc)

        self._leader.put(run)
        while True:  # A request that is begun may take longer than it has: then it is done, and its caller must know.
            try:
                return answer.result(timeout=1.0)
            except TimeoutError:
                self._check_runs()

    def _check_runs(self) -> None:
        if self._stopped:
            raise StartupError(f"the coordinator has stopped: {self._stopped}")

    # -- the leader's thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        reason = "it was told to"
        try:
            while not self._ending.is_set():
                self._stepped_s = self._clock()
                if self._leader.over:
                    raise Superseded(self._leader.over)
                self._monitor.watch(self._leader.followed())
                if not self._leader.step():
                    self._work.wait(self._timing.heartbeat_s)
                    self._work.clear()
        except BaseException as exc:
            reason = str(exc) if isinstance(exc, Superseded) else f"{type(exc).__name__}: {exc}"
            # A machine that is half a step on must not go further; what is saved is whole.
            with suppress(Exception):
                logger.exception("the coordinator has failed")
            self._stopped = reason
            self._failed_for_good()
        else:
            self._stopped = reason

    def _beat(self) -> None:
        """Show that the deployment lives, and watch that the leader's thread does: no lease is renewed without it."""
        while not self._ending.wait(self._beat_s):
            if self._hangs():
                self._stopped = f"its thread has stood still for over {self._timing.watchdog_s:g} s"
                with suppress(Exception):
                    logger.error("the coordinator has failed: %s", self._stopped)
                self._failed_for_good()
                return
            self._leader.show_life()

    def _watch_files(self) -> None:
        """Look at the files of the versions that are open, again and again."""
        while not self._ending.wait(self._timing.files_s) and not self._stopped:
            try:
                self._losses.look(self._leader.saved)
            except Exception:  # Of a file system, or a bug: the next look may fare better, and nothing is lost by it.
                logger.exception("the files of versions cannot be looked at")

    def _hangs(self) -> bool:
        return not self._thread.is_alive() or self._clock() - self._stepped_s > self._timing.watchdog_s

    def _ask(self, member: Member) -> ShardHeartbeat | HeadHeartbeat:
        if self._hangs():
            raise Unavailable("the coordinator's thread stands still")
        return self._leader.ask(member, renew=self._clock() - self._stepped_s <= self._timing.still_s)


def _spawn(work: Work, name: str) -> None:
    threading.Thread(target=work, name=name, daemon=True).start()
