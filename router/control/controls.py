"""Protocols by which the coordinator controls shards and heads: implemented over Ray in `deploy`, by fakes in tests.

Every method blocks until it is done, is idempotent, and may be called from any thread. It raises `Unavailable` when the
member is gone or restarting, `Superseded` when it obeys a higher term than that of the order, and another
`RingpullError` when the member refuses.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final, Protocol

from ringpull.ps.fence import Order
from ringpull.ps.heartbeat import ShardHeartbeat
from ringpull.ps.placement import NONE_LIVE, ServedRanges, VersionPlacement
from ringpull.router.control.deployment_spec import PlacedVersion
from ringpull.router.control.observed import HeadHeartbeat
from ringpull.router.shard_map import ShardMap

LEASE_S: Final = 10.0
"""Time after its last heartbeat for which a head is waited for, and counts on being led."""


class ShardControl(Protocol):
    """Control of one shard."""

    def heartbeat(self) -> ShardHeartbeat: ...

    def obey(self, order: Order) -> None:
        """Obey the order's term from now on, and no lower one: see `ringpull.ps.fence`."""
        ...

    def prepare(self, order: Order, placements: Sequence[VersionPlacement]) -> None:
        """Store these ranges, by opening files or by streaming; serve no new ones yet."""
        ...

    def assign(
        self,
        order: Order,
        epoch: int,
        served_ranges: Sequence[ServedRanges],
        versions: Collection[tuple[str, int]],
        pushed: Collection[tuple[str, int, str]] = (),
        live: Mapping[str, int] = NONE_LIVE,
    ) -> None:
        """Serve the union of these ranges, and close versions that are not named."""
        ...

    def throttle(self, order: Order, bytes_per_s: float | None) -> None:
        """Limit how fast rows are streamed to this shard; 0 pauses it, None removes the limit."""
        ...

    def cancel(self, order: Order) -> None:
        """Abort the `prepare` under way, which raises `Unavailable`."""
        ...

    def restart(self, order: Order, drain_s: float) -> None:
        """Drain requests in flight for at most `drain_s`, then exit to be restarted; return when that has begun."""
        ...


class HeadControl(Protocol):
    """Control of one head."""

    def heartbeat(self) -> HeadHeartbeat:
        """Return the head's state."""
        ...

    def renew(self, order: Order, lease_s: float) -> HeadHeartbeat:
        """Return the head's state, and extend its lease: it is waited for, and asks for no map, for so long."""
        ...

    def obey(self, order: Order) -> None:
        """Obey the order's term from now on, and no lower one: see `ringpull.ps.fence`."""
        ...

    def load(self, order: Order, versions: Sequence[PlacedVersion], shard_map: ShardMap) -> None:
        """Open and check those versions that are not open; go by the map if it is newer than the head's own."""
        ...

    def route(
        self,
        order: Order,
        shard_map: ShardMap,
        live: Mapping[str, int],
        versions: Collection[tuple[str, int]],
        labels: Mapping[str, Mapping[str, int]],
    ) -> None:
        """Route by this map and serve; return when no pull in flight uses an older map."""
        ...

    def restart(self, order: Order, drain_s: float) -> None:
        """Drain requests in flight for at most `drain_s`, then exit to be restarted; return when that has begun."""
        ...


class Members(Protocol):
    """Members of a deployment, and the means to start and stop shards."""

    def shard(self, shard: int) -> ShardControl: ...

    def head(self, head: int) -> HeadControl: ...

    def nodes(self) -> Mapping[str, str]:
        """Return the nodes that shards can be started on, as id -> address."""
        ...

    def start_shard(self, shard: int, node: str | None) -> None:
        """Start the shard's actor unless it exists, and return when it answers.

        Raises:
            StartupError: It is not up in time; the message says which resources are missing.
        """
        ...

    def stop_shard(self, shard: int, order: Order) -> None:
        """Stop the shard's actor, if there is one: it ends itself, or is killed where it does not answer.

        Args:
            order: Of the incarnation that is meant; of none: it does not answer.

        Raises:
            Superseded, Unavailable: It does not obey the order, and lives on.
        """
        ...
