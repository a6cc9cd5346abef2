"""How the coordinator reaches the members of a deployment: three protocols, filled over Ray by `deploy`, faked in
tests.

Every verb blocks until done, can be carried out twice, and may be called from many threads. It raises `Unavailable`
when the member is gone or being restarted, and another `RingpullError` when it will not do what it is told.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final, Protocol

from ringpull.ps.heartbeat import ShardHeartbeat
from ringpull.ps.placement import ServedRanges, VersionPlacement
from ringpull.router.control.deployment_spec import PlacedVersion
from ringpull.router.control.observed import HeadHeartbeat
from ringpull.router.shard_map import ShardMap

LEASE_S: Final = 10.0
"""How long a head serves without having been heard of."""


class ShardControl(Protocol):
    """One shard."""

    def heartbeat(self) -> ShardHeartbeat: ...

    def prepare(self, placements: Sequence[VersionPlacement]) -> None:
        """Hold all this, opened or streamed; answer for nothing new yet."""
        ...

    def assign(self, epoch: int, served_ranges: Sequence[ServedRanges], versions: Collection[tuple[str, int]]) -> None:
        """Answer for the union of these, and let go of versions that are not named."""
        ...

    def throttle(self, bytes_per_s: float | None) -> None:
        """Stream no faster than this; 0 holds it, None lets it go."""
        ...

    def cancel(self) -> None:
        """Give up the `prepare` under way, which raises `Unavailable`."""
        ...

    def restart(self, drain_s: float) -> None:
        """Answer what is in flight, for so long at most, and end, to be started anew; return when it has begun."""
        ...


class HeadControl(Protocol):
    """One head."""

    def heartbeat(self, lease_s: float) -> HeadHeartbeat:
        """Answer, and serve for `lease_s` more seconds without asking."""
        ...

    def load(self, versions: Sequence[PlacedVersion], shard_map: ShardMap) -> None:
        """Open and check what is not open; take the map only when there is none yet."""
        ...

    def route(self, shard_map: ShardMap, live: Mapping[str, int], versions: Collection[tuple[str, int]]) -> None:
        """Route by this map and serve; return when no pull in flight uses an older one."""
        ...

    def restart(self, drain_s: float) -> None:
        """Answer what is in flight, for so long at most, and end, to be started anew; return when it has begun."""
        ...


class Members(Protocol):
    """All of them, and how shards come and go."""

    def shard(self, shard: int) -> ShardControl: ...

    def head(self, head: int) -> HeadControl: ...

    def nodes(self) -> Mapping[str, str]:
        """Return the nodes that shards can be started on: id -> address."""
        ...

    def start_shard(self, shard: int, node: str | None) -> None:
        """Have the shard's actor, and return when it answers; one that is there is as good.

        Raises:
            StartupError: It is not up in time; the message says what is lacking.
        """
        ...

    def stop_shard(self, shard: int) -> None:
        """End the shard's actor; none is as good."""
        ...
