"""Operators, and the ledger of what they were answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ringpull.ps.errors import InvalidInput, RingpullError
from ringpull.router.control.change import CoordinatorState
from ringpull.router.control.changes import begin_of
from ringpull.router.control.deployment_spec import DeploymentSpec
from ringpull.router.control.events import Abort, Begin, Event, Pause, Resume
from ringpull.router.control.leader import Leader
from ringpull.router.control.operations import (
    ChangeRequest,
    ChangeStatus,
    Control,
    LabelVersion,
    LoadModel,
    ModelSource,
    Publish,
    Rebalance,
    Rollback,
    ServeModels,
    UnloadModel,
)
from tests.simulation.kernel import Process

if TYPE_CHECKING:
    from tests.simulation.leaders import SimLeader
    from tests.simulation.world import World

MODEL = "m"
OTHERS = ("n", "o")
"""Models that come and go beside it."""
LABELS = ("stable", "canary")


@dataclass(eq=False, slots=True)
class Asked:
    """One request of an operator, and what became of it."""

    request: ChangeRequest | Control
    id: int = 0
    """Change that it began, or is about; 0: not known."""
    subject: str = ""
    target: DeploymentSpec | None = None
    """Spec that the change leads to."""
    answer: str = "none yet"
    """`accepted`, `so already`, `refused`, or `unknown` when nobody could say."""


class Operators:
    """People who ask for things at any time, of whichever coordinator they reach."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.process = Process("operator")

    def ask(self, request: ChangeRequest | Control) -> None:
        """Ask for something; the answer goes into the ledger."""
        asked = Asked(request)
        self.world.ledger.asked.append(asked)
        self.world.kernel.spawn(self.process, lambda: self._ask(asked))

    @property
    def busy(self) -> bool:
        """Whether somebody waits for an answer."""
        return any(asked.answer == "none yet" for asked in self.world.ledger.asked)

    def anything(self) -> ChangeRequest | Control:
        """Return any request, more or less sensible."""
        random = self.world.random
        if self.world.models_come_and_go and random.random() < 0.6:
            return self._of_models()
        match random.randrange(8):
            case 0 | 1:
                self.world.versions += 1
                return Publish(model=MODEL, version=self.world.versions, keep=random.choice([0, 1, 1]))
            case 2:
                return Rollback(model=MODEL)
            case 3 | 4:
                return Rebalance(shards=random.randint(1, 4))
            case 5:
                return Rebalance(replicas={"two": random.choice([1, 2, 2, 3])})
            case _:
                return random.choice([Control.PAUSE, Control.RESUME, Control.RESUME, Control.ABORT])

    def _of_models(self) -> ChangeRequest:
        """Return a request about the list of models or about labels."""
        random, newest = self.world.random, self.world.versions
        model, label = random.choice((MODEL, *OTHERS)), random.choice(LABELS)
        match random.randrange(9):
            case 0 | 1 | 2:
                return LoadModel(folder=f"/{model}", version=random.choice([0, 1]))
            case 3 | 4:
                return UnloadModel(model=model, gone_from=random.choice(["", f"/{model}"]))
            case 5:
                names = random.sample((MODEL, *OTHERS), random.randint(0, 3))
                labels = random.choice([None, {label: newest}])
                latest = random.choice([1, 1, 2])
                return ServeModels(models=tuple(ModelSource(name=each, latest=latest, labels=labels) for each in names))
            case 6 | 7:
                return LabelVersion(model=model, labels={label: random.choice([1, newest])})
            case _:
                return LabelVersion(model=model, remove=(label,))

    def _ask(self, asked: Asked) -> None:
        world = self.world

        def work(coordinator: SimLeader) -> ChangeStatus:
            return coordinator.ask(lambda leader: self._told(leader, coordinator, asked))

        try:
            status = world.network.call(self.process, "coordinator", world.any_coordinator, work, once=True)
        except RingpullError as exc:
            if asked.answer == "none yet":
                asked.answer = "unknown"
            world.told(f"operator: {asked.request} of change {asked.id}: {asked.answer}: {exc}")
        else:
            asked.answer = "accepted" if status.id else "so already"
            world.told(f"operator: {asked.request} is accepted, change {status.id}")

    def _told(self, leader: Leader, coordinator: SimLeader, asked: Asked) -> ChangeStatus:
        """Hand a request to the leader; what it raises is a refusal, which is as good as an answer."""
        state = leader.machine.state
        try:
            event = self._event(leader, asked.request)
            asked.target = event.target if isinstance(event, Begin) else None
            asked.id = state.last_id if isinstance(asked.request, Control) else state.last_id + 1
            self.world.ledger.paused.discard(asked.id)
            status = leader.tell(event)
            if asked.request is Control.PAUSE and not leader.over:
                self.world.ledger.paused.add(asked.id)
            asked.subject = status.subject
            return status
        except RingpullError as exc:
            asked.answer = "unknown" if "it is not certain" in str(exc) else "refused"
            raise

    def _event(self, leader: Leader, request: ChangeRequest | Control) -> Event:
        match request:
            case Control.PAUSE:
                return Pause()
            case Control.RESUME:
                return Resume()
            case Control.ABORT:
                return Abort("an operator aborted it")
        return begin_of(
            request,
            leader.machine.state,
            place=lambda publish, _: self.world.place(publish.version),
            find=self.world.find,
        )


class Ledger:
    """What was asked and answered, held against what becomes of it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.asked: list[Asked] = []
        self.outcomes: dict[int, str] = {}
        """Change -> reason why it was given up, or empty when it was carried through."""
        self._last: dict[int, CoordinatorState] = {}
        self.paused: set[int] = set()
        """Changes that were paused, and that nobody has tried to resume since."""

    def saved(self, leader: SimLeader, state: CoordinatorState) -> None:
        """Take note of a state that was saved."""
        if state.outcome is not None:
            known = self.outcomes.setdefault(state.outcome.id, state.outcome.error)
            if known != state.outcome.error and not self.world.checks.lost:
                self.world.checks.violated(
                    f"change {state.outcome.id} ended twice: {known or 'done'}, {state.outcome.error or 'done'}"
                )

    def acts(self, leader: SimLeader, state: CoordinatorState) -> None:
        """Hold a state that somebody acts on against what was asked for."""
        change = state.change
        if change is None or self._last.get(leader.number) is state:
            return
        self._last[leader.number] = state
        if change.kind.value == "bring-up":
            return
        askers = [
            asked
            for asked in self.asked
            if asked.id == change.id and asked.answer != "refused" and not isinstance(asked.request, Control)
        ]
        if not askers:
            self.world.checks.violated(
                f"{leader} carries out change {change.id}, {change.subject}, that nobody asked for"
            )
        if change.id in self.paused and not change.paused and not self.world.checks.lost:
            self.world.checks.violated(f"{leader} goes on with change {change.id}, which is paused")

    def ended(self) -> None:
        """Hold everything that was answered against how it ended, once nothing goes on any more."""
        for asked in self.asked:
            if asked.answer != "accepted":
                continue
            if asked.id not in self.outcomes and not self.world.checks.lost:
                self.world.checks.violated(f"{asked.request} was accepted as change {asked.id}, which never ended")
            if asked.request is Control.ABORT and not self.outcomes.get(asked.id, "lost"):
                self.world.checks.violated(f"change {asked.id} was aborted, and carried out all the same")
        self._serves_what_was_asked()

    def _serves_what_was_asked(self) -> None:
        """Hold what serves against what the last change that was carried through was to lead to."""
        done = [number for number, error in self.outcomes.items() if not error]
        targets = [
            asked.target
            for asked in self.asked
            if done and asked.id == max(done) and asked.answer in ("accepted", "unknown") and asked.target is not None
        ]
        seat = self.world.seat
        assert seat is not None
        assert seat.leader is not None
        if targets and seat.leader.saved.spec not in targets and not self.world.checks.lost:
            self.world.checks.violated(f"what serves is not what change {max(done)} was accepted for")


__all__ = ["MODEL", "Asked", "InvalidInput", "Ledger", "Operators"]
