"""Keys that are answered here, in the router's own process, from files that shards of this machine serve.

A router is given `FilesHere`, and knows no files itself: it asks it which slots of which tables can be answered, and
pulls through connections that are like any other. To routing, what is here is one more owner, which is free of charge
and looked at before shards are: keys of all tables that one *layer* has form one part, whatever shards own them, so a
bag whose keys are all in it is pooled whole, once. There is one layer where the tables' whole files are here; where a
table lies here in several files, each with some of its slots, there are more.

Only tables without newer rows are here, and rows of a base never change, so who owns a slot does not matter to the
answer: tables that take pushes, or have deltas, are asked of shards. What goes wrong here goes wrong as at a shard: its
keys are asked of shards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ringpull.router.connections import ShardConnection
from ringpull.router.shard_map import ShardAddress

Int64Array = NDArray[np.int64]

MAX_LAYERS: Final = 8
"""Layers at most. Slots that lie in further files are asked of shards."""

_FIRST: Final = -2
"""Id of the first layer among those of shards; those after it go down. -1 is `ANY_SHARD` on the wire."""

NOWHERE: Final = 0
"""What a mask says of a slot that is not here. Any other number is that of its layer, from 1 on."""


def layer_id(layer: int) -> int:
    """Return the id that stands for a layer where a shard's would."""
    return _FIRST - layer


def is_here(shard: int | None) -> bool:
    """Return whether an id is that of a layer."""
    return shard is not None and shard <= _FIRST


def named(shard: int) -> str:
    """Return a shard, or what is here, as errors call it."""
    return "local files" if is_here(shard) else f"shard {shard}"


LAYERS: Final = tuple(ShardAddress(layer_id(layer), "here", layer) for layer in range(MAX_LAYERS))
"""Addresses of the layers; the port is the number of the layer."""


@dataclass(frozen=True, slots=True)
class Here:
    """Slots of the tables of some look-ups that can be answered here."""

    whole: Int64Array
    """(L,): layer that has all slots of a look-up's table; -1: none has."""
    rows: Int64Array
    """(L,): row of `masks` for a look-up's table; -1: no slot of it is here, or all are."""
    masks: NDArray[np.uint8]
    """(M, SLOTS): layer of each slot, from 1 on; `NOWHERE`."""
    layers: int
    """Number of layers."""


class FilesHere(Protocol):
    """Files of this machine, as a router needs them; `LocalFiles` of the head is one."""

    def here(self, model: str, version: int, identity: int, tables: Sequence[str]) -> Here | None:
        """Return the slots of these tables of a version that can be answered here now; None: there are none.

        Args:
            identity: Identity of the version; what is here of another content is not meant. 0: not known.
        """
        ...

    def connection(self, layer: int) -> ShardConnection:
        """Return a connection to a layer. What it cannot answer, or no longer, it refuses as `Unavailable`."""
        ...
