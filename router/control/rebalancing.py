"""Rebalance as it was asked for: all that its plan and its beginning are made of, as one value that another process can
be given. Pure.

A ring of a thousand shards takes seconds of Python to make, and what it moves as long to count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ringpull.router.control.changes import rebalance_of
from ringpull.router.control.deployment_spec import DeploymentSpec
from ringpull.router.control.events import Begin
from ringpull.router.control.moves import MoveSummary, RowsBelow, move_plan
from ringpull.router.control.operations import Rebalance

SMALL_SHARDS: Final = 16
SMALL_TABLES: Final = 256
"""Number of shards, and of tables on all of them, up to which a plan takes less time than a process to make it in."""


@dataclass(frozen=True, slots=True)
class Rebalancing:
    """Rebalance of a deployment."""

    spec: DeploymentSpec
    request: Rebalance
    nodes: Mapping[int, str]
    """Node of each shard."""
    free_nodes: Sequence[str]
    """All nodes that shards may be started on."""

    @property
    def large(self) -> bool:
        """Whether it is to be worked out in another process."""
        shards = max(len(self.spec.shards), self.request.shards or 0)
        tables = sum(len(version.tables) for version in self.spec.versions)
        return shards > SMALL_SHARDS or shards * tables > SMALL_TABLES

    def begin(self) -> Begin:
        """Return the event that begins it. Raises what `rebalanced` does."""
        return rebalance_of(self.spec, self.request, nodes=self.nodes, free_nodes=self.free_nodes)

    def plan(self, *, streamed: bool, rows_below: RowsBelow | None) -> MoveSummary:
        """Return what it moves, in short: see `move_plan`. Raises what `rebalanced` does."""
        return move_plan(self.spec, self.begin().target, streamed=streamed, rows_below=rows_below).summary()
