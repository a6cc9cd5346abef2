"""A whole ringpull in one process: real shards and head on loopback TCP and gRPC, a thread each. No Ray."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

from ringpull.deploy.model_folders import place
from ringpull.inference.client.client import Client
from ringpull.inference.client.credentials import Credentials
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.head.head import HeadAddress
from ringpull.inference.head.process import HeadProcess
from ringpull.inference.model.manifest import Manifest
from ringpull.ps.hashing import SLOTS
from ringpull.ps.identity import number_of
from ringpull.ps.placement import ServedRanges, TablePlacement, VersionPlacement
from ringpull.ps.process import ShardProcess
from ringpull.ps.ring import Ring, SlotRange
from ringpull.ps.spec import ALL, Replicas
from ringpull.router.control.deployment_spec import initial_spec
from ringpull.router.control.placements import placements_of
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
    data_dir: Path | None = None,
) -> Iterator[LocalCluster]:
    """Bring up shards, then the head; stop all of it at the end, also when bring-up fails.

    Args:
        data_dir: Folder of the shards' copies and logs, as tables that take pushes need.
    """
    config = config or HeadConfig(default_timeout_s=60)
    actors = [ShardProcess(shard, verify=verify, tls=config.tls, data_dir=data_dir) for shard in range(shards)]
    head = HeadProcess(config)
    try:
        shard_map = open_versions(actors, version_dirs, replicas)
        address = head.start(shard_map, [str(folder) for folder in version_dirs])
        with confirming(actors, shard_map, version_dirs):
            yield LocalCluster(actors, head, address, shard_map)
    finally:
        head.drain(GRACE_S)
        for actor in actors:
            actor.stop(grace_s=GRACE_S)


@contextmanager
def confirming(actors: Sequence[ShardProcess], shard_map: ShardMap, version_dirs: Sequence[Path]) -> Iterator[None]:
    """Confirm the first pushes of shards, as a coordinator that has saved them would; only where a table is live."""
    manifests = [Manifest.load(folder) for folder in version_dirs]
    if not any(entry.live for manifest in manifests for entry in manifest.tables):
        yield
        return
    versions, live = {(each.model, each.version) for each in manifests}, live_lineages(manifests)
    ranges = [ServedRanges(shard_map.ring, shard_map.replicas)]
    ended = Event()

    def confirm() -> None:
        pushed: list[set[Any]] = [set() for _ in actors]
        while not ended.wait(0.01):
            for actor, known in zip(actors, pushed, strict=True):
                if wanted := set(actor.heartbeat().wants_to_push) - known:
                    known |= wanted
                    actor.assign(shard_map.epoch, ranges, versions, known, live)

    thread = Thread(target=confirm)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def live_lineages(manifests: Sequence[Manifest]) -> dict[str, int]:
    """Return the lineage of the highest version of each model, which a head has live."""
    ascending = sorted(manifests, key=lambda each: each.version)
    return {each.model: number_of(each.chain.lineage or each.identity) for each in ascending}


def open_versions(
    actors: Sequence[ShardProcess], version_dirs: Sequence[Path], replicas: Replicas, *, identified: bool = True
) -> ShardMap:
    """Open every table on every shard and give each its slots; return the map.

    Args:
        identified: Tell shards which content is meant; without, they answer for a version whatever it holds.
    """
    wanted: dict[tuple[str, str], Replicas] = {}
    placements: list[VersionPlacement] = []
    for folder in version_dirs:
        manifest = Manifest.load(folder)
        if manifest.chain.follows is not None:
            [placed] = placements_of(0, [initial_spec([0], [place(manifest, folder)])], None)
            wanted |= {(manifest.model, entry.spec.name): replicas for entry in manifest.tables}
            placements.append(placed)
            continue
        tables: Mapping[str, Path] = {
            entry.spec.name: manifest.table_folder(folder, entry.spec.name) for entry in manifest.tables
        }
        wanted |= {(manifest.model, table): replicas for table in tables}
        whole = {name: TablePlacement(str(table), (SlotRange(0, SLOTS),), ()) for name, table in tables.items()}
        placements.append(
            VersionPlacement(
                manifest.model,
                manifest.version,
                whole,
                identity=manifest.identity if identified else "",
                folder=str(folder),
                lineage=number_of(manifest.chain.lineage or manifest.identity),
                live=frozenset(entry.spec.name for entry in manifest.tables if entry.live),
            )
        )
    ring = Ring.even(range(len(actors)), 1 if replicas == ALL else replicas)
    addresses = tuple(ShardAddress(shard, *actor.address()) for shard, actor in enumerate(actors))
    for actor in actors:
        actor.prepare(placements)
        versions = {(each.model, each.version) for each in placements}
        live = live_lineages([Manifest.load(folder) for folder in version_dirs])
        actor.assign(1, [ServedRanges(ring, wanted)], versions, live=live)
    return ShardMap(epoch=1, shards=addresses, ring=ring, replicas=wanted)
