"""Operators' verbs: what is asked of a deployment, and what is told; the requests, the replies and the table of verbs.

The coordinator answers; every head hands requests on (`OperatorVerbs`), so an operator needs to know where a head is
and no more. Adding a verb takes its request here with a line in `VERBS`, a method of `CoordinatorProcess` that has the
verb's name, and a command that calls it (`ringpull.deploy.commands`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import NoneType
from typing import Annotated, Final, Literal, Protocol, TypeVar

from ringpull.ps.errors import InvalidInput
from ringpull.ps.ring import Ring
from ringpull.ps.settings import at_least, within
from ringpull.ps.text.version_number import MAX_VERSION, RANGE
from ringpull.router.control.change import Kind, Phase
from ringpull.router.control.deployment_spec import DeploymentSpec
from ringpull.router.control.events import Member
from ringpull.router.control.head_counts import GatheredCounts, Growing, HeadCounts
from ringpull.router.control.moves import MoveSummary
from ringpull.router.control.observed import TableTraffic
from ringpull.router.control.scraping import ScrapeTarget
from ringpull.router.control.verbs import Request, Role, Verb, VerbTable
from ringpull.router.shard_map import ShardMap

R = TypeVar("R")

MAX_COPIES: Final = 999_999
"""Upper bound on the number of copies that a request may name; far above any deployment."""

MAX_DRAIN_S: Final = 3600.0
"""Longest drain of a restarted process: one that has stopped taking requests must not linger."""

LABEL: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
"""What labels of versions look like."""

# -- what is told ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Latency:
    """Latency of recent Predicts, in milliseconds, on the slowest head; 0 when there were none."""

    p50_ms: float = 0.0
    p99_ms: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeStatus:
    """State of the change under way, or else how the last one ended."""

    id: int = 0
    """Number of the change, ever growing; 0: there never was one."""
    kind: Kind = Kind.BRING_UP
    subject: str = ""
    """Subject of the change, for people: `ranker/7`, `shards 4 -> 8`."""
    phase: Phase | None = None
    """Phase that it is in; None: it is over."""
    paused: bool = False
    members_done: int = 0
    """Shards or heads that have done what the phase asks of them."""
    members: int = 0
    """Shards or heads that the phase asks something of."""
    copied_bytes: int = 0
    """Bytes that all shards together have streamed for this change so far."""
    bytes_to_copy: int = 0
    """Bytes to stream in all; known once the shards have begun."""
    checked_bytes: int = 0
    """Bytes of rows that all shards together have held against their checksums so far."""
    bytes_to_check: int = 0
    """Bytes of rows to check in all; known once the shards have begun, and 0 when none are."""
    before: Latency = Latency()
    """Latency when the change began."""
    now: Latency = Latency()
    trouble: str = ""
    """Failure that is being retried; empty when all goes well."""
    error: str = ""
    """Reason why it was given up; empty while it runs and when it was carried through."""

    @property
    def under_way(self) -> bool:
        """Whether it still runs."""
        return self.phase is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentStatus:
    """State of the deployment as it is now; plans are made from it."""

    spec: DeploymentSpec
    """Spec that serves."""
    resident_bytes: Mapping[int, int]
    """Shard -> resident memory of its process, for those that answer."""
    nodes: Mapping[int, str]
    """Shard -> id of its node, for those that answer."""
    requests: int
    """Number of Predicts that all heads have answered since they started."""
    traffic: Mapping[str, TableTraffic]
    """`MODEL/TABLE` -> look-ups of all heads since they started."""
    warnings: tuple[str, ...] = ()
    """What an operator should know now, a sentence each that begins with the member it is about."""
    highest_live: Mapping[str, int] = field(default_factory=dict)
    """Highest version of each model that is open or ever went live, also where an operator has gone back since."""


@dataclass(frozen=True, slots=True)
class MemberState:
    """Health of one shard or head, as the coordinator knows it."""

    member: Member
    incarnation: str
    """Incarnation of its process; empty while none answers."""
    missing: str
    """Reason why it is not healthy, for people; empty when it has all that it should have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadState:
    """State of one head, as the coordinator has heard it last."""

    head: int
    host: str
    grpc_port: int
    """Port of gRPC; 0 before it serves."""
    http_port: int
    requests: int
    """Predicts since it started."""
    failed: int
    heard_s: float
    """Time since it was heard, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """All that the coordinator tells a head for whoever looks at the deployment."""

    change: ChangeStatus
    heads: tuple[HeadState, ...] = ()
    """Heads that were heard of, by number."""
    warnings: tuple[str, ...] = ()
    """As those of `DeploymentStatus`."""
    next_ring: Ring | None = None
    """Ring that the change under way leads to; None: it stays as it is."""
    counts: GatheredCounts = field(default_factory=GatheredCounts)


# -- what is asked -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish(Request[ChangeStatus]):
    """Open a version everywhere, check it, and make it the live one. Answered as the change begins."""

    model: str
    version: Annotated[int, at_least(0)] = 0
    """Version to publish; 0: the highest complete one, and those that appear later are published by whoever watches."""
    folder: str = ""
    """Folder of the model, with `VERSION/` in it, as the actors see it; empty: where the live version's is."""
    keep: int | None = None
    """Versions that stay open behind the live one; None: what the deployment was started with."""
    trust_files: bool = False
    """Whether rows go live without being read and held against their checksums."""

    def __post_init__(self) -> None:
        _check_model(self.model)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollback(Request[ChangeStatus]):
    """Make an open version the live one again. Answered as the change begins."""

    model: str
    version: Annotated[int, at_least(0)] = 0
    """Version to go back to; 0: the newest open one below the live one."""

    def __post_init__(self) -> None:
        _check_model(self.model)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebalance(Request[ChangeStatus]):
    """Cut the tables over other shards, in other numbers of copies. Answered as the change begins."""

    shards: int | None = None
    """Number of shards; None: as many as now."""
    replicas: Mapping[str, Annotated[int, within(0, MAX_COPIES)] | Literal["all"]] = field(default_factory=dict)
    """`TABLE` or `MODEL/TABLE` -> copies; a table not named keeps its own."""
    drain_node: str = ""
    """Id or address of a node whose shards go elsewhere."""
    bytes_per_s: float | None = None
    """Upper bound on what a shard streams; None: as fast as it goes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """Model as it is to be served: from which folder, and which of its versions.

    Raises:
        InvalidInput: Versions are named twice, or are no numbers of versions, or a label names none.
    """

    name: str
    """Name of the model; of one that is served already, `folder` may be left out."""
    folder: str = ""
    """Folder of the model, with `VERSION/` in it, as the actors see it, or its URL. Text without a slash is the name of
    a folder below the roots of models. Empty: where the live version's is."""
    versions: tuple[Annotated[int, at_least(1)], ...] = ()
    """Versions to have open; empty: the `latest` highest complete ones. The highest is live. If they are named, the
    model stays with them: see `DeploymentSpec.pinned`."""
    latest: Annotated[int, at_least(0)] = 1
    """Number of the highest complete versions to have open; 0: all."""
    labels: Mapping[str, int] | None = None
    """All labels of the model; None: those it has."""

    def __post_init__(self) -> None:
        if len(set(self.versions)) < len(self.versions):
            raise InvalidInput(f"versions of {self.name} are {self.versions}; each may be named once")
        check_labels(self.labels or {})


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadModel(Request[ChangeStatus]):
    """Serve another model, beside those that are served. Answered as the change begins, or at once where it is served
    so already: with the status of no change (id 0)."""

    folder: str
    """Folder of the model, as in `ModelSource`."""
    version: Annotated[int, at_least(0)] = 0
    """Version to serve; 0: the highest complete one."""
    model: str = ""
    """Name that the model must have; empty: any. Only with it may the model be served already: then what is newer than
    its live version is published, from where that lies; nothing is if nothing is newer."""
    pinned: bool = False
    """Whether it is to stay with this version: see `DeploymentSpec.pinned`."""
    replicas: Mapping[str, Annotated[int, within(1, MAX_COPIES)] | Literal["all"]] = field(default_factory=dict)
    """`TABLE` or `MODEL/TABLE` -> copies; a table not named gets the number that it was exported with."""
    trust_files: bool = False
    """Whether rows go live without being read and held against their checksums."""

    def __post_init__(self) -> None:
        if not self.folder:
            raise InvalidInput("folder is empty; it must be the folder of a model")


@dataclass(frozen=True, slots=True, kw_only=True)
class UnloadModel(Request[ChangeStatus]):
    """Serve a model no more, with all its versions. Requests in flight are answered. Answered as the change begins."""

    model: str
    gone_from: str = ""
    """Folder that the model has been removed from, by whoever watches it: it is unloaded only if it is served from
    there, and forgotten, so that whatever lies there later is new. Empty: it is an operator who wants it."""

    def __post_init__(self) -> None:
        _check_model(self.model)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeModels(Request[ChangeStatus]):
    """Serve these models and no others, in one change. Answered as `LoadModel`.

    A version that has a label stays open, also where it is not asked for; and where versions of a model are not named,
    so do those behind the live one that a publish would keep.
    """

    models: tuple[ModelSource, ...]
    trust_files: bool = False
    """Whether rows go live without being read and held against their checksums."""

    def __post_init__(self) -> None:
        names = [each.name for each in self.models]
        for name in names:
            _check_model(name)
            if names.count(name) > 1:
                raise InvalidInput(f"models names {name} twice; each may be named once")


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelVersion(Request[ChangeStatus]):
    """Have labels name versions of a model that are open, or no version any more. Answered as `LoadModel`.

    A version stays open while it has a label.
    """

    model: str
    labels: Mapping[str, int] = field(default_factory=dict)
    """Label -> version that it names from now on."""
    remove: tuple[str, ...] = ()
    """Labels that are to go."""

    def __post_init__(self) -> None:
        _check_model(self.model)
        check_labels(self.labels)
        if not self.labels and not self.remove:
            raise InvalidInput("there is no label to set or to remove")
        if both := sorted(self.labels.keys() & set(self.remove)):
            raise InvalidInput(f"label {both[0]!r} is to be set and removed; it can be one of both")


ModelsRequest = LoadModel | UnloadModel | ServeModels | LabelVersion
"""What changes the list of models, or the labels of their versions."""

ChangeRequest = Publish | Rollback | Rebalance | ModelsRequest


@dataclass(frozen=True, slots=True)
class GetChange(Request[ChangeStatus]):
    """Tell the change under way, or how the last one ended."""


class Control(StrEnum):
    """Control of a change under way."""

    PAUSE = "pause"
    RESUME = "resume"
    ABORT = "abort"


@dataclass(frozen=True, slots=True)
class ControlChange(Request[ChangeStatus]):
    """Hold the change under way, go on with it, or give it up."""

    control: Control


@dataclass(frozen=True, slots=True)
class PlanRebalance(Request[MoveSummary]):
    """Tell what a rebalance would move. Nothing moves."""

    rebalance: Rebalance


@dataclass(frozen=True, slots=True)
class GetStatus(Request[DeploymentStatus]):
    """Tell what plans are made from."""


@dataclass(frozen=True, slots=True)
class GetShardMap(Request[ShardMap]):
    """Tell where the shards are, and which slots each has: for who reads rows from them, as compaction does."""


@dataclass(frozen=True, slots=True)
class ListMembers(Request[tuple[MemberState, ...]]):
    """Tell how every shard and head of the deployment that serves is: shards first, by number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartMember(Request[None]):
    """Have one process answer what it has in flight and end; it is started anew, and told again what to have.

    Answered when it has been told. Again, for a process that has been told or is gone, it does nothing. While another
    member of its kind is not healthy it is `Unavailable`.
    """

    member: Member
    incarnation: str
    """Incarnation of the process that is meant."""
    drain_s: Annotated[float, within(0, MAX_DRAIN_S)]
    """Time allowed for answering what is in flight, in seconds."""
    force: bool = False
    """Whether it goes even while other members of its kind are not healthy."""


def _check_model(name: str) -> None:
    if not name:
        raise InvalidInput("model is empty; it must be the name of a served model")


def check_labels(labels: Mapping[str, int]) -> None:
    """Check labels of versions.

    Raises:
        InvalidInput: One is no word that paths and command lines can hold, or names what is no version.
    """
    for label, version in labels.items():
        if LABEL.fullmatch(label) is None:
            raise InvalidInput(f"label is {label!r:.80}; it must be letters, digits, '_', '.' and '-', at most 64")
        if not 1 <= version <= MAX_VERSION:
            raise InvalidInput(f"label {label} names version {version}; it must be {RANGE}")


VERBS: Final = VerbTable(
    Verb("publish", Publish, ChangeStatus, Role.OPERATE),
    Verb("rollback", Rollback, ChangeStatus, Role.OPERATE),
    Verb("rebalance", Rebalance, ChangeStatus, Role.OPERATE),
    Verb("load", LoadModel, ChangeStatus, Role.OPERATE),
    Verb("unload", UnloadModel, ChangeStatus, Role.OPERATE),
    Verb("serve", ServeModels, ChangeStatus, Role.OPERATE),
    Verb("label", LabelVersion, ChangeStatus, Role.OPERATE),
    Verb("control", ControlChange, ChangeStatus, Role.OPERATE),
    Verb("restart", RestartMember, NoneType, Role.OPERATE),
    Verb("change", GetChange, ChangeStatus, Role.READ),
    Verb("plan", PlanRebalance, MoveSummary, Role.READ),
    Verb("status", GetStatus, DeploymentStatus, Role.READ),
    Verb("shard_map", GetShardMap, ShardMap, Role.OPERATE),
    Verb("members", ListMembers, tuple[MemberState, ...], Role.READ),
)


@dataclass(frozen=True, slots=True)
class Asker:
    """The head that asks, and which life of it."""

    head: int
    incarnation: str


# -- who is asked ------------------------------------------------------------------------------------------------------


class OperatorVerbs(Protocol):
    """The way from an operator to the coordinator."""

    def call(self, request: Request[R], *, within_s: float | None = None) -> R:
        """Have the coordinator carry out a request; return its reply. Blocks; callable from many threads.

        Args:
            within_s: Time after which nobody waits for the reply: what is not begun by then is not begun at all.

        Raises:
            InvalidInput, NotFound: It cannot be carried out, or another change is under way; nothing has changed.
            Unavailable: The coordinator cannot be reached; it is restarted.
        """
        ...


class Operations(OperatorVerbs, Protocol):
    """The way from a head to the coordinator: for operators, and for the head itself."""

    def map(self, asker: Asker) -> ShardMap:
        """Return the map to route by: what a head asks for that nobody leads, or whose map shards refuse.

        Raises:
            Replaced: The head has another process by now, so this one has to stop.
            RingpullError: There is no map, or nobody answers.
        """
        ...

    def scrape_targets(self) -> tuple[ScrapeTarget, ...]:
        """Return where every process tells its metrics."""
        ...

    def overview(self, asker: Asker, counts: HeadCounts, known: Mapping[str, Growing]) -> Overview:
        """Take in what a head counts, and return what there is to be seen of the deployment.

        Args:
            counts: Counts of the head that asks.
            known: Totals of all lives of heads that it has heard of, by incarnation.

        Raises:
            RingpullError: Nobody answers.
        """
        ...
