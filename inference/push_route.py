"""Push route: how rows of a model's live lineage are pushed to its shards themselves, as a head tells a client."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgpack

from ringpull.ps.errors import ProtocolError, RingpullError
from ringpull.ps.identity import number_of
from ringpull.ps.spec import TableSpec
from ringpull.router.shard_map import ShardMap


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PushRoute:
    """Route of pushes to one model's live lineage."""

    model: str
    version: int
    """Version that is live, whose tables these are."""
    lineage: str
    """Lineage that is live, 16 hex digits."""
    specs: Mapping[str, TableSpec]
    """Tables that take pushes, by name."""
    shard_map: ShardMap

    @property
    def edition(self) -> tuple[int, int, int]:
        """Term and epoch of the map, and the version: another route has another edition."""
        return (*self.shard_map.edition, self.version)

    @property
    def tables(self) -> bytes:
        """The specs as bytes, which `of` reads."""
        packed: bytes = msgpack.packb([spec.to_dict() for spec in self.specs.values()])
        return packed

    @property
    def packed_map(self) -> bytes:
        """The map as bytes, which `of` reads."""
        packed: bytes = msgpack.packb(self.shard_map.to_dict())
        return packed

    @classmethod
    def of(cls, *, model: str, version: int, lineage: str, tables: bytes, packed_map: bytes) -> PushRoute:
        """Read what a head tells.

        Raises:
            ProtocolError: It is no route, or one of another build that cannot be read.
        """
        try:
            specs = [TableSpec.from_dict(each) for each in msgpack.unpackb(tables)]
            shard_map = ShardMap.from_dict(msgpack.unpackb(packed_map))
            number_of(lineage)
        except (ValueError, TypeError, AttributeError, msgpack.UnpackException, RingpullError) as exc:
            raise ProtocolError(f"the push route of {model} cannot be read: {exc}") from exc
        by_name = {spec.name: spec for spec in specs}
        return cls(model=model, version=version, lineage=lineage, specs=by_name, shard_map=shard_map)
