"""The shard map as arrays, and the load that this router has put on every shard: what the choice of an owner reads.

A `Placement` is made once per epoch. `Loads` counts the keys in flight. Which shards one pull leaves out of the choice
is decided in `scatter_gather`, and which ones all pulls leave out in `health`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.rank_fill import OwnerTable, run_starts
from ringpull.ps.spec import ALL
from ringpull.router.here import LAYERS, layer_id
from ringpull.router.shard_map import ShardAddress, ShardMap

_KINDS_KEPT: Final = 64
"""Lists of tables whose numbers of owners are remembered: as many as there are kinds of requests, mostly."""

DOWN: Final = 1 << 60
"""Number of keys in flight that means: this shard cannot be asked."""


class Placement:
    """Shard map as routing reads it."""

    def __init__(self, shard_map: ShardMap) -> None:
        self.shard_map = shard_map
        self.epoch = shard_map.epoch
        self.previous = None if shard_map.previous is None else Placement(shard_map.previous)
        """Map before this one, while a move drains."""
        self.addresses: Mapping[int, ShardAddress] = {address.shard: address for address in shard_map.shards}
        self._askable = {**self.addresses, **{layer_id(layer): address for layer, address in enumerate(LAYERS)}}
        self.owners: OwnerTable = shard_map.ring.owner_table(shard_map.ring.ranks)
        self.run_starts: NDArray[np.int64] = run_starts(self.owners)
        """(R,): first slot of each run of slots that have the same owners."""
        self.idle = np.full(shard_map.shards[-1].shard + 2, DOWN, np.int64)
        """(S+1,): what `Loads.waiting` returns while no key is in flight."""
        self.idle[list(self.addresses)] = 0
        self._known: dict[tuple[str, tuple[str, ...]], NDArray[np.int64]] = {}
        self._replicas = {
            name: 0 if wanted == ALL else shard_map.effective_replicas(*name)
            for name, wanted in shard_map.replicas.items()
        }

    def address(self, shard: int) -> ShardAddress:
        """Return the address of a shard, or of a layer of what is here."""
        return self._askable[shard]

    def replicas(self, model: str, tables: tuple[str, ...]) -> NDArray[np.int64]:
        """Return how many owners each table of a model uses; 0 for one that every shard has. Not to be written."""
        found = self._known.get((model, tables))
        if found is None:
            if len(self._known) >= _KINDS_KEPT:
                self._known.clear()
            found = np.array([self._replicas.get((model, table), 1) for table in tables], np.int64)
            self._known[model, tables] = found
        return found


class Loads:
    """Keys in flight at each shard, by id."""

    def __init__(self) -> None:
        self._keys: dict[int, int] = {}

    def __repr__(self) -> str:
        return f"<Loads {self._keys}>"

    def add(self, shard: int, keys: int) -> None:
        """Count keys in flight; a negative number when they are answered, or given up."""
        left = self._keys.get(shard, 0) + keys
        if left:
            self._keys[shard] = left
        else:
            del self._keys[shard]

    def waiting(self, placement: Placement, down: Collection[ShardAddress]) -> NDArray[np.int64]:
        """Return keys in flight by shard id: int64 (S+1,), new, as `partition` wants it, the last one `DOWN`."""
        waiting = placement.idle.copy()
        addresses = placement.addresses
        for shard, keys in self._keys.items():
            if shard in addresses:
                waiting[shard] = keys
        for address in down:
            if addresses.get(address.shard) == address:
                waiting[address.shard] = DOWN
        return waiting


def least_loaded(waiting: NDArray[np.int64]) -> int:
    """Return the shard with the fewest keys in flight, the lowest id of equals; the last id when all are down."""
    shard = int(waiting.argmin())
    return shard if waiting[shard] < DOWN else waiting.size - 1
