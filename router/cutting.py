"""From keys to parts with somebody to ask: by which map, whom to spare, and what it means when nobody is left."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ringpull.ps.errors import RingpullError, Unavailable
from ringpull.ps.spec import OnUnavailable, TableSpec
from ringpull.router.batch import Batch
from ringpull.router.health import Health
from ringpull.router.partition import Part, partition
from ringpull.router.replicas import Loads, Placement, least_loaded
from ringpull.router.routes import Routes
from ringpull.router.shard_map import ShardAddress

Causes = Mapping[ShardAddress, RingpullError]
"""Shards that are not asked, and why."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Keys as parts, by the map of one moment."""

    epoch: int
    parts: Sequence[tuple[Placement, Part]]
    """Each with the map it goes by: this one, or the one before it."""
    nobody: Sequence[Part]
    """Parts without anybody to ask."""
    causes: Causes


class Cutter:
    """Cuts what one pull asks for.

    Args:
        specs: The table of each look-up.
    """

    def __init__(self, routes: Routes, health: Health, loads: Loads, model: str, specs: Sequence[TableSpec]) -> None:
        self._routes = routes
        self._health = health
        self._loads = loads
        self._model = model
        self._specs = specs

    def cut(self, batches: Sequence[Batch], causes: Causes, *, spare_ejected: bool = False) -> Cut:
        """Cut batches into parts for others than the shards in `causes`.

        Ejected shards are asked only for what nobody else has; if `spare_ejected`, not even for that.

        Raises:
            Unavailable: There is no map.
        """
        current, ejected = self._routes.current(), self._health.ejected
        parts, nobody = self._owned(batches, current, {**causes, **ejected} if ejected else causes)
        if nobody and ejected and not spare_ejected:
            causes = {**causes, **self._health.given_up}
            more, nobody = self._owned([part.again() for part in nobody], current, causes)
            parts += more
        return Cut(current.epoch, parts, nobody, causes)

    def refusing(self, parts: Sequence[Part]) -> list[str]:
        """Return the tables that have keys in these parts and do not allow them to be lost."""
        return sorted(
            {
                self._specs[index].name
                for part in parts
                for index in part.asked()
                if self._specs[index].on_unavailable is OnUnavailable.ERROR
            }
        )

    def check_may_be_lost(self, parts: Sequence[Part], causes: Causes) -> None:
        """Check that the policies of their tables allow to lose these parts.

        Raises:
            Unavailable: They do not; names the tables and the causes.
        """
        refusing = self.refusing(parts)
        if refusing:
            why = "; ".join(f"shard {address.shard}: {error}" for address, error in causes.items())
            raise Unavailable(f"no live shard could answer for keys of {', '.join(refusing)} ({why})")

    def _owned(
        self, batches: Sequence[Batch], current: Placement, spared: Collection[ShardAddress]
    ) -> tuple[list[tuple[Placement, Part]], list[Part]]:
        """Give keys to owners by this map, else to those by the map before it; return what nobody has, too."""
        parts: list[tuple[Placement, Part]] = []
        nobody: list[Part] = []
        placement: Placement | None = current
        while batches and placement is not None:
            replicas = placement.replicas(self._model, batches[0].tables)
            waiting = self._loads.waiting(placement, spared)
            whole = least_loaded(waiting)
            nobody = []
            for batch in batches:
                for part in partition(batch, replicas, whole, placement.owners, waiting):
                    if part.shard is None:
                        nobody.append(part)
                    else:
                        parts.append((placement, part))
            batches, placement = [part.again() for part in nobody], placement.previous
        return parts, nobody
