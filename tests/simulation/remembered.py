"""Pure functions of rings, remembered: a history asks the same of them again and again, and masks have 65,536 slots.

Nothing but speed. Values are frozen, so what they are keyed by is the identity of their parts, which are kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any
from unittest.mock import patch

import numpy as np
import xxhash

from ringpull.ps.hashing import SLOTS
from ringpull.ps.placement import VersionPlacement
from ringpull.ps.ring import Ring, SlotRange
from ringpull.ps.slot_mask import SlotMask, mask_of, runs
from ringpull.ps.spec import ALL, Replicas
from ringpull.router.control import coordinator, placements, reign, state_store
from ringpull.router.control.deployment_spec import DeploymentSpec
from ringpull.router.control.placements import StreamSources, placements_of

MAX_REMEMBERED = 20_000

_kept: dict[Any, tuple[Any, Any]] = {}
"""Key -> what the key names by identity, so that nothing else gets its identity; and the value."""


@contextmanager
def remembered() -> Iterator[None]:
    """Have them remember while this lasts."""
    shards = Ring.shards.fget
    assert shards is not None

    with (
        patch.object(Ring, "shards", property(partial(_shards, shards, {}))),
        patch.object(
            Ring,
            "owned_mask",
            lambda ring, shard, replicas: by_identity(
                ("mask", shard, replicas), ring, lambda: _mask(ring, shard, replicas)
            ),
        ),
        patch.object(Ring, "with_shards", _with_shards),
        patch.object(Ring, "with_ranks", _with_ranks),
        patch.object(coordinator, "placements_of", _placements_of),
        patch.object(placements, "np", _Union),
        patch.object(placements, "runs", _runs),
        patch.object(reign, "encode", _encode),
        patch.object(state_store, "encode", _encode),
    ):
        yield


def _shards(
    plain: Callable[[Ring], tuple[int, ...]], known: dict[int, tuple[Any, tuple[int, ...]]], ring: Ring
) -> tuple[int, ...]:
    found = known.get(id(ring.ranges))
    if found is None:
        found = known[id(ring.ranges)] = (ring.ranges, plain(ring))
    return found[1]


def _mask(ring: Ring, shard: int, replicas: Replicas) -> SlotMask:
    """What `Ring.owned_mask` returns, range by range, and read only."""
    if replicas == ALL:
        mask = np.full(SLOTS, shard in ring.shards, np.uint8)
    else:
        mask = mask_of(each.slots for each in ring.ranges if shard in each.owners[:replicas])
    mask.flags.writeable = False
    return mask


def _encode(fields: Mapping[str, Any]) -> bytes:
    """What `saved_files.encode` writes, in one go and without indents."""
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return f'{{"checksum":"{xxhash.xxh3_64_hexdigest(text.encode())}","saved":{text}}}'.encode()


def by_identity(key: tuple[Any, ...], ring: Ring, make: Callable[[], Any]) -> Any:
    """Return what `make` returned the first time for this key and these ranges."""
    full = (id(ring.ranges), *key)
    found = _kept.get(full)
    if found is None:
        if len(_kept) > MAX_REMEMBERED:
            _kept.clear()
        found = _kept[full] = (ring.ranges, make())
    return found[1]


_plain_with_shards, _plain_with_ranks = Ring.with_shards, Ring.with_ranks


@lru_cache(2048)
def _ring_with_shards(ring: Ring, shards: tuple[int, ...]) -> Ring:
    return _plain_with_shards(ring, shards)


def _with_shards(ring: Ring, shards: Sequence[int]) -> Ring:
    return _ring_with_shards(ring, tuple(shards))


@lru_cache(2048)
def _with_ranks(ring: Ring, ranks: int) -> Ring:
    return _plain_with_ranks(ring, ranks)


def _placements_of(
    shard: int,
    specs: Sequence[DeploymentSpec],
    sources: StreamSources | None,
    *,
    publishes: Mapping[tuple[str, int], int],
    **options: Hashable,
) -> tuple[VersionPlacement, ...]:
    live = None if sources is None else (_part(sources.spec), tuple(sources.live.items()))
    key = ("placements", shard, tuple(map(_part, specs)), live, tuple(publishes.items()), tuple(options.items()))
    found = _kept.get(key)
    if found is None:
        found = _kept[key] = (None, placements_of(shard, specs, sources, publishes=publishes, **options))
    return found[1]  # type: ignore[no-any-return]


class _Union:
    """`np.bitwise_or.reduce` of masks that are remembered themselves."""

    class bitwise_or:
        @staticmethod
        def reduce(masks: Sequence[SlotMask]) -> SlotMask:
            different = {id(mask): mask for mask in masks}
            if len(different) == 1:
                return masks[0]
            key = ("union", *sorted(different))
            found = _kept.get(key)
            if found is None:
                found = _kept[key] = (different, np.bitwise_or.reduce(list(different.values())))
            return found[1]  # type: ignore[no-any-return]


def _runs(mask: SlotMask) -> list[SlotRange]:
    found = _kept.get(("runs", id(mask)))
    if found is None:
        found = _kept["runs", id(mask)] = (mask, runs(mask))
    return found[1]  # type: ignore[no-any-return]


def _part(spec: DeploymentSpec) -> Any:
    """Return all of a spec that placements depend on, as something that can be a key."""
    return by_identity(("part", id(spec.replicas), id(spec.versions)), spec.ring, lambda: _Part(spec)).key


class _Part:
    def __init__(self, spec: DeploymentSpec) -> None:
        self.kept = (spec.replicas, spec.versions)
        versions = tuple((each.model, each.version, each.folder) for each in spec.versions)
        self.key = (spec.ring, tuple(spec.replicas.items()), versions)
