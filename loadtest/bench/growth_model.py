"""Formulas of what more shards should cost: bytes on the wire and CPU time per sample. `growth` measures beside them.

A bag of L uniform keys meets, of N shards, on average

    sub_bags(L, N) = N x (1 - (1 - 1/N)^L)

and each sub-bag is one length there and one partial vector back. With K keys and S sub-bags in a pull of B samples, T
look-ups and vectors of D numbers,

    bytes per sample = (8 K + 4 S + 4 D S + 4 T N) / B          positions, lengths; partials, missing counts
    CPU per sample   = (pull + message N + key K + sub_bag S) / B

Frame headers (32 bytes, and about 15 per look-up) are in `message`, not in the bytes: the router counts arrays. The
four costs are solved for from four measured pulls, tiny and full, on 1 and on 2 shards; 4 and 8 shards are predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

POSITION_BYTES = 8
LENGTH_BYTES = 4
NUMBER_BYTES = 4
MISSING_BYTES = 4


@dataclass(frozen=True, slots=True)
class PullShape:
    """Size of a pull, whoever answers it."""

    keys_per_bag: int
    bags: int
    lookups: int
    samples: int

    @property
    def keys(self) -> int:
        return self.keys_per_bag * self.bags

    def sub_bags(self, shards: int) -> float:
        """Return how many sub-bags the bags become on this many shards, on average."""
        return self.bags * sub_bags(self.keys_per_bag, shards)


def sub_bags(keys_per_bag: int, shards: int) -> float:
    """Return how many of `shards` shards a bag of uniform keys meets, on average."""
    return shards * (1 - (1 - 1 / shards) ** keys_per_bag)


def wire_bytes_per_sample(shape: PullShape, shards: int, dim: int) -> float:
    """Return the bytes of arrays, there and back, per sample."""
    there = POSITION_BYTES * shape.keys + LENGTH_BYTES * shape.sub_bags(shards)
    back = NUMBER_BYTES * dim * shape.sub_bags(shards) + MISSING_BYTES * shape.lookups * shards
    return (there + back) / shape.samples


@dataclass(frozen=True, slots=True)
class CpuModel:
    """Seconds of CPU time of router and shards together."""

    pull_s: float
    message_s: float
    key_s: float
    sub_bag_s: float

    @classmethod
    def solve(cls, measured: Sequence[tuple[PullShape, int, float]]) -> CpuModel:
        """Solve for the costs.

        Args:
            measured: Four of (what was pulled, on how many shards, CPU seconds per pull) that tell the costs apart.
        """
        costs = np.linalg.solve(
            [_terms(shape, shards) for shape, shards, _ in measured], [cpu_s for _, _, cpu_s in measured]
        )
        return cls(*costs.tolist())

    def pull(self, shape: PullShape, shards: int) -> float:
        """Return the CPU seconds of one pull."""
        costs = (self.pull_s, self.message_s, self.key_s, self.sub_bag_s)
        return float(np.dot(costs, _terms(shape, shards)))


def _terms(shape: PullShape, shards: int) -> list[float]:
    return [1.0, min(shards, shape.keys), shape.keys, shape.sub_bags(shards)]
