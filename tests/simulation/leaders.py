"""Coordinators: each a process that runs the product's `Leader` as `ringpull.router.control.process` does, on one task.

Several may live at once: one that was stopped wakes up, one whose node was lost goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from ringpull.deploy.cluster.late_process import FIRST_RETRY_S, LONGEST_RETRY_S
from ringpull.ps.errors import RingpullError, Unavailable
from ringpull.ps.fence import Order
from ringpull.router.control.change import CoordinatorState
from ringpull.router.control.events import Member
from ringpull.router.control.leader import Leader
from ringpull.router.control.operations import Asker
from ringpull.router.control.state_store import Owner, StateStore
from ringpull.router.shard_map import ShardMap
from tests.simulation.checks import progress
from tests.simulation.folder import SimFiles
from tests.simulation.kernel import Process, Waiting

if TYPE_CHECKING:
    from tests.simulation.world import World

T = TypeVar("T")


AT_ONCE = frozenset({"heartbeat", "renew", "obey", "assign", "throttle", "cancel"})
"""Methods of members that do not block."""


class Remote:
    """A member as its leader reaches it: any of its methods, over the network."""

    def __init__(self, leader: SimLeader, name: str, find: Callable[[], Any]) -> None:
        self._leader, self._name, self._find = leader, name, find

    def __getattr__(self, method: str) -> Callable[..., Any]:
        return partial(self._call, method)

    def _call(self, method: str, *args: Any) -> Any:
        leader = self._leader
        return leader.world.network.call(
            leader.process,
            self._name,
            self._find,
            lambda target: getattr(target, method)(*args),
            at_once=method in AT_ONCE,
        )


class SimLeader:
    """One life of a coordinator's process."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.process = Process("coordinator")
        self.number = number
        self.term = 0
        self.leader: Leader | None = None
        self._work = Waiting()
        self._members: list[Member] = []
        """Members that are asked for heartbeats, and no others."""
        self._asking: set[Member] = set()
        self._saved: CoordinatorState | None = None
        world.kernel.spawn(self.process, self._run)

    def __repr__(self) -> str:
        return f"coordinator {self.number} (term {self.term})"

    # -- `ringpull.router.control.controls.Members` --------------------------------------------------------------------

    def shard(self, shard: int) -> Remote:
        return Remote(self, f"shard {shard}", partial(self.world.shard, shard))

    def head(self, head: int) -> Remote:
        return Remote(self, f"head {head}", partial(self.world.head, head))

    def nodes(self) -> dict[str, str]:
        return {"node": "host"}

    def start_shard(self, shard: int, node: str | None) -> None:
        self.world.start_shard(shard)

    def stop_shard(self, shard: int, order: Order) -> None:
        self.world.end_shard(shard, self)

    # -- what operators and heads ask ----------------------------------------------------------------------------------

    def ask(self, work: Callable[[Leader], T]) -> T:
        """Have the leader's task do something, and return what it says; from another task of this process."""
        kernel, done = self.world.kernel, Waiting()
        answer: list[Any] = []
        leader = self.leader
        if leader is None:
            raise Unavailable("the coordinator is not up yet")

        def run() -> None:
            try:
                answer.append((work(leader), None))
            except RingpullError as exc:
                answer.append((None, exc))
            kernel.open(done)

        leader.put(run)
        kernel.wait(done)
        value, error = answer[0]
        if error is not None:
            raise error
        return value  # type: ignore[no-any-return]

    def map(self, asker: Asker) -> ShardMap:
        """Return the newest map that this one knows."""
        if self.leader is None:
            raise Unavailable("the coordinator is not up yet")
        return self.leader.map(asker)

    # -- the process ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        """Lead until the term is over: see `ringpull.router.control.process.CoordinatorProcess`."""
        kernel = self.world.kernel
        leader = self.leader = self._new_leader()
        self._tick()
        kernel.spawn(self.process, self._beat)
        followed = None
        while not leader.over:
            if leader.machine.state is not followed:
                followed = leader.machine.state
                self._members = leader.followed()
                for member in self._members:
                    if member not in self._asking:
                        self._asking.add(member)
                        kernel.spawn(self.process, partial(self._heartbeats, leader, member))
            worked = leader.step()
            if leader.saved is not self._saved:
                self._saved = leader.saved
                self.world.was_led = True
                self.world.ledger.saved(self, leader.saved)
            if not worked:
                self._work = Waiting()
                kernel.wait(self._work)
        self.world.told(f"{self} ends: {leader.over}")
        self.world.coordinator_ended(self)

    def _new_leader(self) -> Leader:
        """Begin a term, as soon as the folder lets it."""
        world = self.world
        store = StateStore(SimFiles(world.folder, self.process, partial(world.moment, self)))
        delay_s = FIRST_RETRY_S  # As `ringpull.deploy.cluster.late_process` tries again.
        while True:
            try:
                reign = store.claim(Owner(world.deployment), must_exist=world.was_led)
                break
            except RingpullError as exc:
                world.told(f"{self} cannot lead: {exc}")
                world.kernel.sleep(delay_s)
                delay_s = min(2 * delay_s, LONGEST_RETRY_S)
        self.term = reign.term
        leader = Leader(
            reign,
            self,
            heads=tuple(world.heads),
            orphans_possible=world.several_nodes,
            timing=world.timing,
            clock=lambda: world.kernel.now_s,
            spawn=self._spawn,
            wake=lambda: world.kernel.open(self._work),
        )
        state = leader.machine.state
        world.told(f"{self} leads from {progress(state)} epoch {state.epoch}")
        world.checks.leads(self.term, state)
        return leader

    def _tick(self) -> None:
        self.world.kernel.open(self._work)
        self.world.kernel.later(self.world.timing.heartbeat_s, self._tick, self.process)

    def _beat(self) -> None:
        assert self.leader is not None
        while True:
            self.world.kernel.sleep(SimFiles.beat_s)
            self.leader.show_life()

    def _spawn(self, work: Callable[[], None], name: str) -> None:
        if not name.startswith(("introduce", "clear")):
            assert self.leader is not None
            self.world.checks.acts(self.term, self.leader.machine.state)
            self.world.ledger.acts(self, self.leader.machine.state)
        self.world.kernel.spawn(self.process, work)
        self.world.moment(self, "command")

    def _heartbeats(self, leader: Leader, member: Member) -> None:
        """Ask a member for its heartbeats: see `ringpull.router.control.heartbeat_monitor`."""
        world = self.world
        while member in self._members:
            try:
                answer = leader.ask(member)
            except RingpullError:
                leader.lost(member)
            else:
                if member.role == "head":
                    world.leads(self, member.id, answer.incarnation)
                leader.answered(member, answer)
            world.kernel.sleep(world.timing.heartbeat_s)
        self._asking.discard(member)
