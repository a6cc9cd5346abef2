"""Renewal of the shard map: what heads have to route by, given the coordinator's state and the shards that live."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ringpull.router.control.change import CoordinatorState, Phase
from ringpull.router.control.deployment_spec import DeploymentSpec
from ringpull.router.control.observed import ObservedShard
from ringpull.router.shard_map import ShardAddress


def with_renewed_map(
    state: CoordinatorState, shards: Mapping[int, ObservedShard], *, deployment: str, term: int
) -> CoordinatorState:
    """Return the state with a map of the next epoch if the map's content has changed, and else the state as it is.

    Args:
        shards: Live shards.
        deployment, term: See `ShardMap`.
    """
    change = state.change
    spec, spec_id = state.spec, state.spec_id
    if change is not None and (not change.phase.reversible or (spec is None and change.phase is Phase.LOADING)):
        spec, spec_id = change.target, change.id
    if spec is None:
        return state
    addresses = _addresses(state, shards, spec, spec_id)
    if not addresses.keys() >= set(spec.shards):
        return state
    before = None
    if change is not None and change.phase is Phase.ROUTING and state.spec is not None and state.map is not None:
        old = state.map.previous or state.map
        known = _addresses(state, shards, state.spec, state.spec_id)
        before = state.spec.shard_map(old.epoch, known, deployment=deployment, term=term)
    content = spec.shard_map(state.epoch + 1, addresses, before, deployment=deployment, term=term)
    if state.map is not None and content == replace(state.map, epoch=content.epoch):
        return state
    return replace(state, epoch=content.epoch, map=content)


def _addresses(
    state: CoordinatorState, shards: Mapping[int, ObservedShard], spec: DeploymentSpec, spec_id: int
) -> dict[int, ShardAddress]:
    """Return the addresses of a spec's shards; a restarted shard gets its new one once it serves again."""
    known: dict[int, ShardAddress] = {}
    current = state.map
    if current is not None:
        maps = [current] if current.previous is None else [current.previous, current]
        known = {address.shard: address for each in maps for address in each.shards if address.shard in spec.shards}
    ready = {shard: observed.address for shard, observed in shards.items() if spec_id in observed.served}
    return known | {shard: address for shard, address in ready.items() if shard in spec.shards}
