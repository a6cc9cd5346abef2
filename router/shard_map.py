"""The shard map: which shard owns which slots, and where it listens. Frozen; a new epoch is a new map.

Heads route with it, shards guard with the ring inside it. Routing reads one array:
`ring.owner_table(r)[position >> 48]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from ringpull.ps.errors import InvalidInput
from ringpull.ps.ring import Ring
from ringpull.ps.spec import ALL, Replicas


@dataclass(frozen=True, slots=True)
class ShardAddress:
    """Address of a shard's data plane. Another process of the shard, on whatever port, is another address."""

    shard: int
    host: str
    port: int
    incarnation: str = ""
    """Id of the process that is meant; empty: any."""


class MapEdition(NamedTuple):
    """Edition of a map: of two maps, that of the later edition is newer."""

    term: int
    epoch: int


NO_MAP: Final = MapEdition(-1, 0)
"""Edition that every map's is larger than."""


@dataclass(frozen=True, slots=True)
class ShardMap:
    """Owners of every slot and addresses of the shards, as of one epoch."""

    epoch: int
    shards: tuple[ShardAddress, ...]
    """Addresses ascending by shard id: the fixed order in which partials are merged."""
    ring: Ring
    replicas: Mapping[tuple[str, str], Replicas]
    """Wanted copies by (model, table); a table not named has one."""
    previous: ShardMap | None = None
    """Map before this one, while a move drains: its owners still store their ranges, and answer where the new ones do
    not. It has no `previous` of its own."""
    deployment: str = ""
    """Id of the deployment whose shards these are; empty: any."""
    term: int = 0
    """Term of the coordinator that made it."""

    def __post_init__(self) -> None:
        ids = tuple(address.shard for address in self.shards)
        if ids != self.ring.shards:
            raise InvalidInput(
                f"shard map {self.epoch}: addresses of shards {ids}, a ring of shards {self.ring.shards}"
            )
        if self.previous is not None and (self.previous.previous is not None or self.previous.epoch >= self.epoch):
            raise InvalidInput(f"shard map {self.epoch}: the map before it must be older, and the only one it carries")
        for (model, table), replicas in self.replicas.items():
            if replicas != ALL and (type(replicas) is not int or replicas < 1):
                raise InvalidInput(
                    f"shard map {self.epoch}: {model}/{table} has {replicas!r} replicas: 1 or more, or 'all'"
                )

    @property
    def edition(self) -> MapEdition:
        """What tells it from older and newer maps."""
        return MapEdition(self.term, self.epoch)

    def wanted_replicas(self, model: str, table: str) -> Replicas:
        """Return how many copies the table should have."""
        return self.replicas.get((model, table), 1)

    def effective_replicas(self, model: str, table: str) -> int:
        """Return how many copies the table has: as many as wanted, while there are owners enough."""
        wanted = self.wanted_replicas(model, table)
        return len(self.shards) if wanted == ALL else min(wanted, self.ring.ranks)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON/msgpack values; `from_dict` reads them back. What may be any is left out."""
        known = {"deployment": self.deployment, "term": self.term}
        return {
            "epoch": self.epoch,
            "shards": [_row(address) for address in self.shards],
            "ring": self.ring.to_dict(),
            "replicas": [[model, table, replicas] for (model, table), replicas in self.replicas.items()],
            "previous": None if self.previous is None else self.previous.to_dict(),
            **{name: value for name, value in known.items() if value},
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> ShardMap:
        """Read what `to_dict` wrote, in this build or an earlier one.

        Raises:
            InvalidInput: A field is missing or of the wrong type, or addresses and ring name different shards.
        """
        try:
            return cls(
                epoch=int(fields["epoch"]),
                shards=tuple(_address(*each) for each in fields["shards"]),
                ring=Ring.from_dict(fields["ring"]),
                replicas={(str(model), str(table)): replicas for model, table, replicas in fields["replicas"]},
                previous=None if fields["previous"] is None else cls.from_dict(fields["previous"]),
                deployment=str(fields.get("deployment", "")),
                term=int(fields.get("term", 0)),
            )
        except KeyError as exc:
            raise InvalidInput(f"shard map: field {exc} is missing") from exc
        except (TypeError, ValueError) as exc:
            raise InvalidInput(f"shard map: {exc}") from exc


def _row(address: ShardAddress) -> list[int | str]:
    row: list[int | str] = [address.shard, address.host, address.port]
    return [*row, address.incarnation] if address.incarnation else row


def _address(shard: Any, host: Any, port: Any, incarnation: Any = "") -> ShardAddress:
    return ShardAddress(int(shard), str(host), int(port), str(incarnation))
