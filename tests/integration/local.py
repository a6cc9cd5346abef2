"""A whole ringpull in one process: real shards and head on loopback TCP and gRPC, a thread each. No Ray."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ringpull.inference.client.client import Client
from ringpull.inference.client.credentials import Credentials
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.head.head import HeadAddress
from ringpull.inference.head.process import HeadProcess
from ringpull.inference.model.manifest import Manifest
from ringpull.ps.hashing import SLOTS
from ringpull.ps.placement import ServedRanges, TablePlacement, VersionPlacement
from ringpull.ps.process import ShardProcess
from ringpull.ps.ring import Ring, SlotRange
from ringpull.ps.spec import ALL, Replicas
from ringpull.router.shard_map import ShardAddress, ShardMap

GRACE_S = 5.0


@dataclass
class LocalCluster:
    """Running shards and a head."""

    shards: list[ShardProcess]
    head: HeadProcess
    address: HeadAddress
    shard_map: ShardMap

    @property
    def target(self) -> str:
        return f"{self.address.host}:{self.address.grpc_port}"

    def client(self, credentials: Credentials | None = None) -> Client:
        return Client(self.target, timeout_s=60, retries=0, credentials=credentials)


@contextmanager
def local_cluster(
    version_dirs: Sequence[Path],
    *,
    shards: int = 2,
    replicas: Replicas = 1,
    config: HeadConfig | None = None,
    verify: bool = False,
) -> Iterator[LocalCluster]:
    """Bring up shards, then the head; stop all of it at the end, also when bring-up fails."""
    config = config or HeadConfig(default_timeout_s=60)
    actors = [ShardProcess(shard, verify=verify, tls=config.tls) for shard in range(shards)]
    head = HeadProcess(config)
    try:
        shard_map = open_versions(actors, version_dirs, replicas)
        address = head.start(shard_map, [str(folder) for folder in version_dirs])
        yield LocalCluster(actors, head, address, shard_map)
    finally:
        head.drain(GRACE_S)
        for actor in actors:
            actor.stop(grace_s=GRACE_S)


def open_versions(actors: Sequence[ShardProcess], version_dirs: Sequence[Path], replicas: Replicas) -> ShardMap:
    """Open every table on every shard and give each its slots; return the map."""
    wanted: dict[tuple[str, str], Replicas] = {}
    placements: list[VersionPlacement] = []
    for folder in version_dirs:
        manifest = Manifest.load(folder)
        tables: Mapping[str, Path] = {
            entry.spec.name: manifest.table_folder(folder, entry.spec.name) for entry in manifest.tables
        }
        wanted |= {(manifest.model, table): replicas for table in tables}
        whole = {name: TablePlacement(str(table), (SlotRange(0, SLOTS),), ()) for name, table in tables.items()}
        placements.append(VersionPlacement(manifest.model, manifest.version, whole))
    ring = Ring.even(range(len(actors)), 1 if replicas == ALL else replicas)
    addresses = tuple(ShardAddress(shard, *actor.address()) for shard, actor in enumerate(actors))
    for actor in actors:
        actor.prepare(placements)
        actor.assign(1, [ServedRanges(ring, wanted)], {(each.model, each.version) for each in placements})
    return ShardMap(epoch=1, shards=addresses, ring=ring, replicas=wanted)
