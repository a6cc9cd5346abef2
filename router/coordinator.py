"""The coordinator: what has to happen, in which order, before a model version goes live. A pure state machine.

Events go in, commands come out; nothing here does I/O, waits or knows a clock. `router.actor` carries the commands
out and reports back with events. The coordinator owns the shard map and its epoch; everybody else holds copies.

    IDLE --BringUp--> OPENING --every shard has opened and holds its ranges--> STARTING --head serves--> LIVE
                         any Failed --> FAILED

Invariants:
* An epoch is used once: a bring-up takes the next one, also after a restart from a saved state.
* All or none: the head is started only when every shard has every version open and holds its ranges.
* What is not expected any more (an answer to an older epoch, anything after a failure) changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from ps.errors import CorruptData, InvalidInput, RingpullError
from ps.ring import Ring
from ps.spec import ALL, Replicas
from router.shard_map import ShardAddress, ShardMap

FORMAT = 1
"""Of the saved state."""


@dataclass(frozen=True, slots=True)
class PlacedTable:
    """Where a table's base lies, and how many copies of it are wanted."""

    folder: str
    replicas: Replicas


@dataclass(frozen=True, slots=True)
class PlacedVersion:
    """One complete version of a model on disk, with the deployment's choices."""

    model: str
    version: int
    folder: str
    tables: Mapping[str, PlacedTable]


class Phase(StrEnum):
    """How far a bring-up has come."""

    IDLE = "idle"
    OPENING = "opening"
    STARTING = "starting"
    LIVE = "live"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class CoordinatorState:
    """All the coordinator must remember; saved before any command that follows from it is carried out."""

    epoch: int = 0
    phase: Phase = Phase.IDLE
    shards: tuple[ShardAddress, ...] = ()
    ring: Ring | None = None
    versions: tuple[PlacedVersion, ...] = ()
    error: str = ""
    """Why the phase is FAILED."""


# -- events: what happened ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BringUp:
    """These shards listen, and these versions are to go live on them."""

    shards: tuple[ShardAddress, ...]
    versions: tuple[PlacedVersion, ...]


@dataclass(frozen=True, slots=True)
class Opened:
    """A shard has the tables of one version open."""

    shard: int
    model: str
    version: int


@dataclass(frozen=True, slots=True)
class Assigned:
    """A shard guards its ranges with this epoch."""

    shard: int
    epoch: int


@dataclass(frozen=True, slots=True)
class HeadServes:
    """The head answers predictions with this epoch."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Failed:
    """A command could not be carried out."""

    command: Command
    error: RingpullError


Event = BringUp | Opened | Assigned | HeadServes | Failed


# -- commands: what to do ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Open:
    """Have a shard open the tables of a version; answer with `Opened`."""

    shard: int
    version: PlacedVersion


@dataclass(frozen=True, slots=True)
class Assign:
    """Have a shard take its ranges of a map; answer with `Assigned`."""

    shard: int
    shard_map: ShardMap


@dataclass(frozen=True, slots=True)
class StartHead:
    """Have the head load the versions and serve; answer with `HeadServes`."""

    shard_map: ShardMap
    versions: tuple[PlacedVersion, ...]


Command = Open | Assign | StartHead


# -- the machine -------------------------------------------------------------------------------------------------------


class Coordinator:
    """The state machine. Mutated only through `handle`."""

    def __init__(self, state: CoordinatorState | None = None) -> None:
        self._state = CoordinatorState() if state is None else state
        self._to_open: set[tuple[int, str, int]] = set()
        self._to_assign: set[int] = set()

    def __repr__(self) -> str:
        state = self._state
        shards, versions = len(state.shards), len(state.versions)
        return f"<Coordinator {state.phase.value} epoch={state.epoch} shards={shards} versions={versions}>"

    @property
    def state(self) -> CoordinatorState:
        return self._state

    def shard_map(self) -> ShardMap:
        """Return the current map.

        Raises:
            InvalidInput: There is none before the first bring-up.
        """
        state = self._state
        if state.ring is None:
            raise InvalidInput("there is no shard map before the first bring-up")
        return ShardMap(state.epoch, state.shards, state.ring, wanted_replicas(state.versions))

    def handle(self, event: Event) -> list[Command]:
        """Take one event in, and return the commands that follow, in order.

        Raises:
            InvalidInput: A `BringUp` names no shard, one shard twice, or one version twice.
        """
        match event:
            case BringUp():
                return self._begin(event)
            case Opened(shard, model, version):
                return self._opened(shard, model, version)
            case Assigned(shard, epoch):
                return self._assigned(shard, epoch)
            case HeadServes(epoch):
                if self._state.phase is Phase.STARTING and epoch == self._state.epoch:
                    self._state = replace(self._state, phase=Phase.LIVE)
                return []
            case Failed(_, error):
                if self._state.phase in (Phase.OPENING, Phase.STARTING):
                    self._state = replace(self._state, phase=Phase.FAILED, error=str(error))
                return []

    def _begin(self, event: BringUp) -> list[Command]:
        ids = [address.shard for address in event.shards]
        names = [(version.model, version.version) for version in event.versions]
        if not ids or len(set(ids)) != len(ids):
            raise InvalidInput(f"a bring-up needs one or more different shards; got {ids}")
        if len(set(names)) != len(names):
            raise InvalidInput(f"a bring-up names every version once; got {names}")
        shards = tuple(sorted(event.shards, key=lambda address: address.shard))
        self._state = CoordinatorState(
            epoch=self._state.epoch + 1,
            phase=Phase.OPENING,
            shards=shards,
            ring=Ring.even(ids, most_replicas(event.versions)),
            versions=event.versions,
        )
        self._to_open = {(shard, *name) for shard in ids for name in names}
        self._to_assign = set(ids)
        # Version by version, so that the first commands already keep every shard busy.
        opens: list[Command] = [Open(address.shard, version) for version in event.versions for address in shards]
        # A shard with nothing to open can take its ranges at once.
        return opens or [Assign(address.shard, self.shard_map()) for address in shards]

    def _opened(self, shard: int, model: str, version: int) -> list[Command]:
        if self._state.phase is not Phase.OPENING or (shard, model, version) not in self._to_open:
            return []
        self._to_open.remove((shard, model, version))
        if any(waiting == shard for waiting, _, _ in self._to_open):
            return []
        return [Assign(shard, self.shard_map())]

    def _assigned(self, shard: int, epoch: int) -> list[Command]:
        if self._state.phase is not Phase.OPENING or epoch != self._state.epoch:
            return []
        self._to_assign.discard(shard)
        if self._to_assign:
            return []
        self._state = replace(self._state, phase=Phase.STARTING)
        return [StartHead(self.shard_map(), self._state.versions)]


def wanted_replicas(versions: Sequence[PlacedVersion]) -> dict[tuple[str, str], Replicas]:
    """Return how many copies each (model, table) is wanted in."""
    return {(version.model, name): table.replicas for version in versions for name, table in version.tables.items()}


def most_replicas(versions: Sequence[PlacedVersion]) -> int:
    """Return how many owners each range should have: the largest number of copies wanted of any table.

    `all` needs none: such a table is on every shard, whoever owns the range. The ring lists fewer while it has fewer
    shards.
    """
    counts = [wanted for wanted in wanted_replicas(versions).values() if wanted != ALL]
    return max(counts, default=1)


# -- the saved form ----------------------------------------------------------------------------------------------------


def state_to_dict(state: CoordinatorState) -> dict[str, Any]:
    """Return plain JSON values; `state_from_dict` reads them back."""
    return {
        "format": FORMAT,
        "epoch": state.epoch,
        "phase": state.phase.value,
        "shards": [[address.shard, address.host, address.port] for address in state.shards],
        "ring": None if state.ring is None else state.ring.to_dict(),
        "versions": [
            {
                "model": version.model,
                "version": version.version,
                "folder": version.folder,
                "tables": {name: [table.folder, table.replicas] for name, table in version.tables.items()},
            }
            for version in state.versions
        ],
        "error": state.error,
    }


def state_from_dict(fields: Mapping[str, Any]) -> CoordinatorState:
    """Read what `state_to_dict` wrote.

    Raises:
        CorruptData: A field is missing or wrong, or another format wrote it.
    """
    try:
        if fields["format"] != FORMAT:
            raise CorruptData(f"coordinator state has format {fields['format']!r}; this build reads {FORMAT}")
        return CoordinatorState(
            epoch=int(fields["epoch"]),
            phase=Phase(fields["phase"]),
            shards=tuple(ShardAddress(int(shard), str(host), int(port)) for shard, host, port in fields["shards"]),
            ring=None if fields["ring"] is None else Ring.from_dict(fields["ring"]),
            versions=tuple(
                PlacedVersion(
                    str(version["model"]),
                    int(version["version"]),
                    str(version["folder"]),
                    {name: PlacedTable(folder, replicas) for name, (folder, replicas) in version["tables"].items()},
                )
                for version in fields["versions"]
            ),
            error=str(fields["error"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, InvalidInput) as exc:
        raise CorruptData(f"coordinator state cannot be read: {type(exc).__name__}: {exc}") from exc
