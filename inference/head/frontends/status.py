"""The cluster as one head sees it, as the proto's `ClusterStatus`: shard map, the shards' own numbers, versions.

Keys and missing keys of a table are summed over the shards that answer, calls over all heads
(`ringpull.inference.head.counts`): whole-cluster numbers, whichever head is asked.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256

from ringpull import __version__
from ringpull.inference.degrade.degrader import Degrader
from ringpull.inference.head.catalog import Catalog
from ringpull.inference.head.counts import DeploymentCounts
from ringpull.inference.head.frontends.deployment_status import (
    change_status,
    head_statuses,
    merged_warnings,
    ring_status,
)
from ringpull.inference.head.frontends.metadata import describe_served
from ringpull.inference.head.frontends.recent_status import keys_per_s, recent_statuses
from ringpull.inference.head.leadership import LeaderView
from ringpull.inference.head.metrics.call_tally import CallCounts
from ringpull.inference.model.version import LoadedVersion
from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.inference.wire.status_warnings import warnings_seen
from ringpull.ps.errors import RingpullError
from ringpull.ps.hashing import SLOTS
from ringpull.ps.ring import Ring
from ringpull.ps.spec import ALL, Replicas
from ringpull.ps.wire.messages import ShardStatistics
from ringpull.router.client import Router
from ringpull.router.control.head_counts import Growing
from ringpull.router.shard_map import ShardAddress, ShardMap

STATUS_TIMEOUT_S = 2.0
"""Time that a status waits for a shard's numbers before it calls the shard dead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadView:
    """State of a head that it knows without asking anybody."""

    address: str
    """HOST:PORT of gRPC; empty while the head does not listen."""
    uptime_s: float
    shard_map: ShardMap
    counts: CallCounts
    """Calls of this head since it was started."""
    head: int = 0
    """Its number."""
    http: str = ""
    """HOST:PORT of HTTP; empty while it does not listen."""
    admin: str = ""
    """Address of the operators' door; empty: there is none."""
    deployment: str = ""
    """What tells its deployment from any other one; empty: nobody is to lead it."""
    leader: LeaderView | None = None
    """The coordinator; None where the head was started without one."""
    warnings: tuple[str, ...] = ()
    """What an operator should know of the head itself."""
    straight_closed: str = ""
    """Why clients push to no shard themselves; empty: they may."""
    heads_because: str = ""
    """Why there are so many heads; empty: so many were asked for."""


GetClusterStatus = Callable[[], Awaitable[pb.ClusterStatus]]
"""Function that returns the cluster as a head sees it."""


def head_status(look: Callable[[], HeadView]) -> pb.ClusterStatus:
    """Return what a head knows of itself, at once."""
    view = look()
    return pb.ClusterStatus(head=view.address, admin=view.admin, deployment=view.deployment, server_version=__version__)


def name_of(deployment: str) -> str:
    """Return what tells a deployment from others, of its id; not the id, which whoever asks a shard has to know."""
    return sha256(deployment.encode()).hexdigest()[:16] if deployment else ""


async def cluster_status(
    look: Callable[[], HeadView], router: Router, catalog: Catalog, counts: DeploymentCounts
) -> pb.ClusterStatus:
    """Return the cluster as a head sees it, asking every shard and the coordinator.

    Raises:
        Unavailable: The head has no shard map yet.
    """
    deadline_s = time.monotonic() + STATUS_TIMEOUT_S
    _, statistics = await asyncio.gather(counts.renew(), router.statistics(deadline_s=deadline_s))
    view = look()
    leader = view.leader
    served = catalog.served()
    live, now_s = dict(each.key for each in catalog.live()), time.time()
    # Beside the loop: of many models this would hold up requests.
    recent = await asyncio.to_thread(counts.recent)
    recents = await asyncio.to_thread(recent_statuses, recent, live, now_s)
    counted = counts.overall()
    status = pb.ClusterStatus(
        head=view.address,
        head_number=view.head,
        epoch=view.shard_map.epoch,
        shards=shard_statuses(view.shard_map, statistics),
        tables=table_statuses(
            view.shard_map, statistics, [each.loaded for each in served], recent, now_s, counts.keys_here
        ),
        models=[describe_served(each, catalog) for each in served],
        requests=counted.requests,
        failed=counted.failed,
        uptime_s=view.uptime_s,
        device=next((each.loaded.program.device for each in served if each.loaded.program is not None), ""),
        pulls=counted.pulls,
        messages=counted.messages,
        sent_bytes=counted.sent_bytes,
        received_bytes=counted.received_bytes,
        degrade=degrade_statuses(each.degrader for each in served),
        server_version=__version__,
        leader=None if leader is None else pb.Leader(term=leader.term, leads=leader.leads, heard_s=leader.heard_s),
        admin=view.admin,
        deployment=view.deployment,
        recent=recents,
        ring=ring_status(view.shard_map.ring),
        live=live,
        straight_pushes=view.straight_closed or "on",
        heads_because=view.heads_because,
    )
    _add_overview(status, view, counts)
    status.warnings.extend(warnings_seen(status))
    return status


def _add_overview(status: pb.ClusterStatus, view: HeadView, counts: DeploymentCounts) -> None:
    """Add what the coordinator told, and what this head knows better."""
    overview, leader = counts.overview(), view.leader
    own = [*([leader.warning] if leader is not None and leader.warning else []), *view.warnings]
    status.heads.extend(head_statuses(() if overview is None else overview.heads, _own_status(view)))
    if counts.warning or overview is None:
        status.warnings.extend([*own, *([counts.warning] if counts.warning else [])])
        return
    status.warnings.extend(merged_warnings(own, overview.warnings))
    status.change.CopyFrom(change_status(overview.change))
    if overview.next_ring is not None:
        status.next_ring.CopyFrom(ring_status(overview.next_ring))


def _own_status(view: HeadView) -> pb.HeadStatus:
    return pb.HeadStatus(
        head=view.head,
        address=view.address,
        http=view.http,
        alive=True,
        requests=view.counts.requests,
        failed=view.counts.failed,
    )


def shard_statuses(
    shard_map: ShardMap, statistics: Mapping[int, ShardStatistics | RingpullError]
) -> list[pb.ShardStatus]:
    """Return one status per shard of the map; a shard that did not answer is not alive and says why."""
    return [_shard(address, shard_map.ring, statistics.get(address.shard)) for address in shard_map.shards]


def table_statuses(
    shard_map: ShardMap,
    statistics: Mapping[int, ShardStatistics | RingpullError],
    versions: Iterable[LoadedVersion],
    recent: Growing,
    now_s: float,
    keys_here: Callable[[str, int], tuple[int, int]],
) -> list[pb.TableStatus]:
    """Return one status per table of every version.

    Args:
        recent: Numbers of the last minutes, over all heads.
        now_s: Seconds since 1970.
        keys_here: Returns how many keys of a table (`MODEL/TABLE`, version) heads answered themselves, and of these
            missing ones.
    """
    keys: defaultdict[tuple[str, int, str], list[int]] = defaultdict(lambda: [0, 0])
    for answer in statistics.values():
        for table in answer.tables if isinstance(answer, ShardStatistics) else ():
            sums = keys[table.model, table.version, table.table]
            sums[0] += table.keys
            sums[1] += table.missing
    found = []
    for version in versions:
        model, number = version.manifest.model, version.manifest.version
        for entry in version.manifest.tables:
            wanted = shard_map.replicas.get((model, entry.spec.name), 1)
            looked_up, missing = keys[model, number, entry.spec.name]
            rate, missing_rate, here_rate = keys_per_s(recent, f"{model}/{entry.spec.name}", now_s)
            here, missing_here = keys_here(f"{model}/{entry.spec.name}", number)
            found.append(
                pb.TableStatus(
                    model=model,
                    version=number,
                    table=entry.spec.name,
                    rows=entry.rows,
                    bytes=entry.bytes,
                    dim=entry.spec.dim,
                    replicas_wanted=str(wanted),
                    replicas_effective=_effective(wanted, len(shard_map.shards)),
                    keys=looked_up + here,
                    missing=missing + missing_here,
                    keys_per_s=rate,
                    missing_per_s=missing_rate,
                    here_per_s=here_rate,
                )
            )
    return found


def degrade_statuses(degraders: Iterable[Degrader]) -> list[pb.DegradeStatus]:
    """Return one status per version that declared degrade steps."""
    return [
        pb.DegradeStatus(
            model=each.model,
            version=each.version,
            level=each.level,
            steps=[pb.DegradeStep(step=phrase, replies=replies) for phrase, replies in each.replies.items()],
        )
        for each in degraders
        if each.steps
    ]


def _effective(wanted: Replicas, shards: int) -> int:
    return shards if wanted == ALL else min(int(wanted), shards)


def _shard(address: ShardAddress, ring: Ring, answer: ShardStatistics | RingpullError | None) -> pb.ShardStatus:
    owned = [each.slots for each in ring.ranges if each.owners[0] == address.shard]
    status = pb.ShardStatus(
        shard=address.shard,
        address=f"{address.host}:{address.port}",
        ranges=len(owned),
        share=sum(len(slots) for slots in owned) / SLOTS,
    )
    if not isinstance(answer, ShardStatistics):
        status.error = str(answer) if answer is not None else "it did not answer"
        return status
    status.alive = True
    status.epoch, status.requests, status.pid = answer.epoch, answer.requests, answer.pid
    status.tables.extend(
        pb.ShardTable(
            model=table.model,
            version=table.version,
            table=table.table,
            rows=table.rows,
            bytes=table.bytes,
            keys=table.keys,
            missing=table.missing,
        )
        for table in answer.tables
    )
    return status
