"""The next deployment spec for what an operator asks, or the reason why it is refused.

Pure functions. Every check is made here, before anything is changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from ringpull.ps.errors import AlreadyLive, InvalidInput
from ringpull.ps.ring import MAX_SHARD
from ringpull.ps.spec import ALL, Replicas
from ringpull.router.control.chains import check_chain
from ringpull.router.control.change import CoordinatorState, Kind
from ringpull.router.control.deployment_spec import (
    MAX_SHARDS,
    DeploymentSpec,
    PlacedVersion,
    max_replicas,
)
from ringpull.router.control.events import Begin
from ringpull.router.control.full_names import check_full_names
from ringpull.router.control.model_changes import (
    FindVersions,
    begin_of_models,
    check_kind,
    check_served,
    kept_open,
    source_of,
    with_live,
)
from ringpull.router.control.operations import ChangeRequest, LoadModel, ModelSource, Publish, Rebalance, Rollback

Place = Callable[[Publish, DeploymentSpec], PlacedVersion]
"""Function that finds the version to publish on disk; raises `InvalidInput` or `CorruptData` when it is missing or
incomplete."""


def unplaced(request: Publish, spec: DeploymentSpec) -> PlacedVersion:
    """Find nothing: a `Place` of whoever publishes nothing.

    Raises:
        InvalidInput: Always.
    """
    raise InvalidInput(f"{request.model}: this coordinator looks for no versions")


def nowhere(source: ModelSource) -> tuple[PlacedVersion, ...]:
    """Find nothing: a `FindVersions` of a coordinator that looks at no folders.

    Raises:
        InvalidInput: Always.
    """
    raise InvalidInput(f"{source.folder or source.name}: this coordinator looks for no models")


def begin_of(
    request: ChangeRequest,
    state: CoordinatorState,
    *,
    place: Place = unplaced,
    find: FindVersions = nowhere,
    keep: int = 1,
    nodes: Mapping[int, str] | None = None,
    free_nodes: Sequence[str] = (),
) -> Begin:
    """Return the event that begins the change an operator requests.

    Args:
        place: See `Place`; only called for a `Publish`.
        find: See `FindVersions`; only called for `LoadModel` and `ServeModels`.
        keep: Versions kept open behind the live one when the request does not say.
        nodes: Shard -> the node it runs on.
        free_nodes: All nodes that shards may be started on.

    Raises:
        InvalidInput: The request is refused; the message names the field and what would be accepted.
        OtherContent: A version is to be published whose number is open with another content.
    """
    spec = state.spec
    if spec is None:
        raise InvalidInput("nothing serves yet; wait until the deployment is up")
    match request:
        case Publish():
            found = place(request, spec)
            target = published(spec, found, keep=keep if request.keep is None else request.keep)
            # Under a number a model stays with its numbers.
            target = target if request.version else _unpinned(target, request.model)
            return Begin(Kind.PUBLISH, found.name, target, trust_files=request.trust_files)
        case LoadModel(model=model) if model in spec.live:
            [found] = find(source_of(request))
            if (opened := spec.version(model, found.version)) is not None:
                opened.check_same(found)
            if found.version <= spec.live[model]:
                return Begin(Kind.LOAD, f"{model}/{spec.live[model]}", spec)
            target = _unpinned(published(spec, found, keep=keep), model)
            return Begin(Kind.PUBLISH, found.name, target, trust_files=request.trust_files)
        case Rollback():
            target = rolled_back(spec, request)
            return Begin(Kind.ROLLBACK, f"{request.model}/{target.live[request.model]}", target)
        case Rebalance():
            return rebalance_of(spec, request, nodes=nodes or {}, free_nodes=free_nodes)
        case _:
            return begin_of_models(request, spec, find, keep=keep)


def published(spec: DeploymentSpec, version: PlacedVersion, *, keep: int) -> DeploymentSpec:
    """Return the spec in which `version` is live, and `keep` older versions of its model stay open, and those that
    have labels.

    A table keeps its present number of copies, which an operator may have chosen; a new table gets the number it was
    exported with.

    Raises:
        AlreadyLive: The version is live already.
        NotFound: Its model is not served here.
        InvalidInput: `keep` is negative, or it has tables only where the live version predicts, or the other way round;
            or it follows what the live version does not.
        OtherContent: Its number is open already, with another content.
    """
    model = version.model
    if keep < 0:
        raise InvalidInput(f"keep is {keep}; it must be 0 or more")
    check_served(spec, model)
    if (opened := spec.version(model, version.version)) is not None:
        opened.check_same(version)
    if spec.live[model] == version.version:
        raise AlreadyLive(f"{version.name} is live already")
    check_kind(spec, version)
    check_chain(spec, version)
    version = with_live(spec, version)
    before = [each for each in spec.versions if each.model == model and each.version != version.version]
    kept = kept_open(spec, before, spec.labels.get(model, {}), keep=keep)
    versions = [*(each for each in spec.versions if each.model != model), *kept, version]
    check_full_names(versions, spec.versions)
    return spec.with_models(versions, {**spec.live, model: version.version}, spec.labels)


def _unpinned(spec: DeploymentSpec, model: str) -> DeploymentSpec:
    return replace(spec, pinned=tuple(each for each in spec.pinned if each != model))


def rolled_back(spec: DeploymentSpec, request: Rollback) -> DeploymentSpec:
    """Return the spec in which an older open version is live again; the one that was live stays open.

    Raises:
        NotFound: The model is not served here.
        InvalidInput: No older version is open, or the one requested is not open, or is live already.
    """
    model = request.model
    check_served(spec, model)
    there = [each.version for each in spec.versions if each.model == model]
    live = spec.live[model]
    if not request.version:
        older = [number for number in there if number < live]
        if not older:
            raise InvalidInput(f"{model} has nothing to roll back to: {live} is live, and no older version is open")
        return replace(spec, live={**spec.live, model: max(older)})
    if request.version == live:
        raise InvalidInput(f"{model}/{live} is live already")
    if request.version not in there:
        raise InvalidInput(
            f"{model}/{request.version} is not open; these are: {', '.join(map(str, there))}. To open it, publish it"
        )
    return replace(spec, live={**spec.live, model: request.version})


def rebalanced(
    spec: DeploymentSpec, request: Rebalance, *, nodes: Mapping[int, str], free_nodes: Sequence[str]
) -> tuple[DeploymentSpec, dict[int, str]]:
    """Return the spec with other shards or copies, and the node of each new shard.

    Raises:
        InvalidInput: No shards, too many, an unknown table or node, more copies than shards, or nothing to change.
    """
    wanted = len(spec.shards) if request.shards is None else request.shards
    if not 1 <= wanted <= MAX_SHARDS:
        raise InvalidInput(f"shards is {wanted}; it must be from 1 to {MAX_SHARDS}")
    if request.bytes_per_s is not None and not request.bytes_per_s > 0:
        raise InvalidInput(f"the limit of streaming is {request.bytes_per_s} bytes/s; it must be over 0")
    replicas = {**spec.replicas, **_named_tables(spec, request.replicas, wanted)}
    leaving, open_nodes = _drained(request.drain_node, spec, nodes, free_nodes)
    shards = _shards_after(spec.shards, wanted, leaving)
    ring = spec.ring.with_shards(shards).with_ranks(max_replicas(replicas))
    target = replace(spec, ring=ring, replicas=replicas)
    if target == spec:
        raise InvalidInput("there is nothing to change: the deployment has these shards and copies already")
    new = [shard for shard in shards if shard not in spec.shards]
    staying = [nodes[shard] for shard in shards if shard in spec.shards and shard in nodes]
    return target, _spread(new, staying, open_nodes)


def rebalance_of(
    spec: DeploymentSpec, request: Rebalance, *, nodes: Mapping[int, str], free_nodes: Sequence[str]
) -> Begin:
    """Return the event that begins a rebalance. Raises what `rebalanced` does."""
    target, moved = rebalanced(spec, request, nodes=nodes, free_nodes=free_nodes)
    subject = _subject(spec, target, request)
    return Begin(Kind.REBALANCE, subject, target, bytes_per_s=request.bytes_per_s, nodes=moved)


def _named_tables(spec: DeploymentSpec, asked: Mapping[str, Replicas], shards: int) -> dict[tuple[str, str], Replicas]:
    found: dict[tuple[str, str], Replicas] = {}
    for name, count in asked.items():
        places = [(model, table) for model, table in spec.replicas if name in (table, f"{model}/{table}")]
        if not places:
            known = ", ".join(sorted(f"{model}/{table}" for model, table in spec.replicas))
            raise InvalidInput(f"replicas of {name}: there is no such table; there is {known}")
        if len(places) > 1:
            models = " and ".join(f"{model}/{table}" for model, table in places)
            raise InvalidInput(f"replicas of {name}: it could be {models}; write MODEL/TABLE")
        if count != ALL and not 1 <= count <= shards:
            raise InvalidInput(
                f"replicas of {name} is {count}; with {shards} shards it must be from 1 to {shards}, or all"
            )
        found[places[0]] = count
    return found


def _drained(
    node: str, spec: DeploymentSpec, nodes: Mapping[int, str], free_nodes: Sequence[str]
) -> tuple[list[int], list[str]]:
    """Return the shards on the node to be drained, if any, and the nodes that new shards may go to."""
    if not node:
        return [], list(free_nodes)
    known = sorted({*nodes.values(), *free_nodes})
    if node not in known:
        raise InvalidInput(f"there is no node {node}; there is {', '.join(known)}")
    leaving = [shard for shard in spec.shards if nodes.get(shard) == node]
    if not leaving:
        raise InvalidInput(f"there is no shard on node {node}")
    elsewhere = [each for each in free_nodes if each != node]
    if not elsewhere:
        raise InvalidInput(f"node {node} cannot be emptied: there is no other node")
    return leaving, elsewhere


def _spread(new: Sequence[int], staying: Sequence[str], open_nodes: Sequence[str]) -> dict[int, str]:
    """Return a node for each new shard: always the one with the fewest shards so far, the first of equals."""
    placed: dict[int, str] = {}
    for shard in new if open_nodes else ():
        filled = Counter([*staying, *placed.values()])
        placed[shard] = min(open_nodes, key=lambda node: filled[node])
    return placed


def _shards_after(now: Sequence[int], wanted: int, leaving: Sequence[int]) -> list[int]:
    """Return the ids of `wanted` shards: the lowest of those that may stay, then new ids above all present ones."""
    staying = [shard for shard in now if shard not in leaving][:wanted]
    first = max(now) + 1 if leaving else 0
    new = (shard for shard in range(first, MAX_SHARD) if shard not in now)
    return sorted([*staying, *(next(new) for _ in range(wanted - len(staying)))])


def _subject(spec: DeploymentSpec, target: DeploymentSpec, request: Rebalance) -> str:
    words = []
    if len(spec.shards) != len(target.shards):
        words.append(f"shards {len(spec.shards)} -> {len(target.shards)}")
    words += [f"{name}={count}" for name, count in request.replicas.items()]
    if request.drain_node:
        words.append(f"drain {request.drain_node}")
    return ", ".join(words)
