"""Shards of one model on loopback TCP, published to, rolled back and restarted without a coordinator's process.

Versions are placed from their folders, and shards told what to have, as a coordinator does; and first pushes are
confirmed. Of the operators' verbs those are answered that compaction asks.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from ringpull.deploy.model_folders import find_version, newest_version
from ringpull.deploy.shard_access import asking_shards
from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.hashing import SLOT_SHIFT, positions_of
from ringpull.ps.identity import number_of
from ringpull.ps.live.settings import LiveSettings
from ringpull.ps.process import ShardProcess
from ringpull.ps.pull_messages import Op, PullReply, PullRequest, SubLookup
from ringpull.ps.store.row_codec import encode
from ringpull.ps.tls import NO_TLS, TlsFiles
from ringpull.ps.wire.push_messages import PushReply, PushRequest
from ringpull.router.control.change import Kind
from ringpull.router.control.deployment_spec import DeploymentSpec, initial_spec
from ringpull.router.control.operations import (
    VERBS,
    ChangeStatus,
    DeploymentStatus,
    GetChange,
    GetShardMap,
    GetStatus,
    Publish,
)
from ringpull.router.control.placements import placements_of
from ringpull.router.control.pushed_tables import live_lineages
from ringpull.router.shard_map import ShardAddress, ShardMap

GRACE_S = 5.0
NOTHING = np.empty(0, np.uint32)


class Deployed:
    """Shards that serve one model."""

    def __init__(
        self, model_dir: Path, data_dir: Path | None, shards: int = 2, *, keep: int = 1, tls: TlsFiles = NO_TLS
    ) -> None:
        self.model_dir, self.data_dir, self.keep, self.tls = model_dir, data_dir, keep, tls
        if data_dir is not None:
            data_dir.mkdir(exist_ok=True)
        self.epoch, self.pushed = 0, [set[Any]() for _ in range(shards)]
        self.actors = [self._actor(shard) for shard in range(shards)]
        self.spec: DeploymentSpec = initial_spec(range(shards), [newest_version(model_dir)])
        self.published: list[Publish] = []
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._confirm, daemon=True)

    def __enter__(self) -> Self:
        self._tell()
        self._thread.start()
        self._asking = asking_shards("")
        self.ask = self._asking.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._asking.__exit__(None, None, None)
        self._ended.set()
        self._thread.join()
        for actor in self.actors:
            actor.stop(grace_s=GRACE_S)

    def restart(self, shard: int) -> None:
        """End a shard and start it again, at another port."""
        with self._lock:
            self.actors[shard].stop(grace_s=GRACE_S)
            self.actors[shard] = self._actor(shard)
            self._tell()

    # -- what an operator asks ----------------------------------------------------------------------------------------

    def call(self, request: Any, *, within_s: float | None = None) -> Any:
        return VERBS.answer(self, request)

    def status(self, request: GetStatus) -> DeploymentStatus:
        return DeploymentStatus(spec=self.spec, resident_bytes={}, nodes={}, requests=0, traffic={})

    def shard_map(self, request: GetShardMap | None = None) -> ShardMap:
        addresses = {shard: ShardAddress(shard, *actor.address()) for shard, actor in enumerate(self.actors)}
        return self.spec.shard_map(self.epoch, addresses)

    def publish(self, request: Publish) -> ChangeStatus:
        self.published.append(request)
        placed = find_version(request, self.spec)
        before = self.spec.live[placed.model]
        versions = [each for each in self.spec.versions if each.version != placed.version]
        older = [each for each in versions if each.version <= before]
        kept = older[len(older) - self.keep :]
        with self._lock:
            # All open the new version before anyone serves by the new spec, as in a change.
            both = self.spec.with_models([*versions, placed], {placed.model: before}, {})
            for shard, actor in enumerate(self.actors):
                actor.prepare(placements_of(shard, [both], None))
            self.spec = self.spec.with_models([*kept, placed], {placed.model: placed.version}, {})
            self._tell()
        return ChangeStatus(id=1, kind=Kind.PUBLISH, subject=placed.name)

    def change(self, request: GetChange) -> ChangeStatus:
        return ChangeStatus(id=1)

    # -- what clients ask ---------------------------------------------------------------------------------------------

    def push(self, table: str, keys: Sequence[int], rows: np.ndarray | Sequence[bytes] | None) -> None:
        """Put rows, or remove keys."""
        [live] = [each for each in self.spec.versions if each.version == self.spec.live[each.model]]
        spec = newest_spec(live.folder, table)
        positions = positions_of(np.asarray(keys, np.uint64))
        for shard, which in self._by_owner(positions).items():
            if rows is None:
                data, lengths = np.empty(0, np.uint8), NOTHING
            elif spec.is_bytes:
                raw = BytesRows.of([rows[place] for place in which])
                data, lengths = raw.data, np.diff(raw.offsets).astype(np.uint32)
            else:
                stored = encode(np.ascontiguousarray(rows, np.float32)[which], spec)  # type: ignore[arg-type]
                data, lengths = stored.reshape(-1), NOTHING
            request = PushRequest(
                live.model, table, self.epoch, number_of(live.lineage), 0, 0, rows is None, positions[which], data,
                lengths,
            )  # fmt: skip
            assert isinstance(self._ask(shard, request), PushReply)

    def rows(
        self, table: str, keys: Sequence[int], version: int | None = None, *, as_exported: bool = False
    ) -> tuple[list[bytes], np.ndarray]:
        """Return the row of each key, float32 or bytes, and which the table has."""
        model = self.spec.versions[0].model
        positions = positions_of(np.asarray(keys, np.uint64))
        rows, found = [b""] * len(positions), np.zeros(len(positions), bool)
        for shard, which in self._by_owner(positions).items():
            request = PullRequest(
                model,
                version or self.spec.live[model],
                self.epoch,
                (SubLookup(table, Op.ROWS, len(which), 0, False),),
                positions[which],
                NOTHING,
                np.empty(0, np.float32),
                as_exported=as_exported,
            )
            reply = self._ask(shard, request)
            assert isinstance(reply, PullReply), reply
            values = reply.values.reshape(len(which), -1)
            ends = np.cumsum(reply.lengths)
            for at, place in enumerate(which.tolist()):
                rows[place] = (
                    reply.data[ends[at] - reply.lengths[at] : ends[at]].tobytes()
                    if reply.lengths.size
                    else values[at].tobytes()
                )
            found[which] = reply.found.astype(bool)
        return rows, found

    @property
    def newer_rows(self) -> int:
        return sum(actor.heartbeat().newer_rows for actor in self.actors)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _actor(self, shard: int) -> ShardProcess:
        return ShardProcess(shard, data_dir=self.data_dir, metrics=False, live=LiveSettings(), tls=self.tls)

    def _ask(self, shard: int, request: Any) -> Any:
        return self.ask(ShardAddress(shard, *self.actors[shard].address()), request)

    def _by_owner(self, positions: np.ndarray) -> Mapping[int, np.ndarray]:
        owners = self.spec.ring.owner_table(1)[(positions >> np.uint64(SLOT_SHIFT)).astype(np.int64)].reshape(-1)
        return {shard: np.flatnonzero(owners == shard) for shard in np.unique(owners).tolist()}

    def _tell(self) -> None:
        self.epoch += 1
        for shard, actor in enumerate(self.actors):
            actor.prepare(placements_of(shard, [self.spec], None))
            self._assign(shard)

    def _assign(self, shard: int) -> None:
        versions = {(each.model, each.version): each.identity for each in self.spec.versions}
        self.actors[shard].assign(
            self.epoch,
            [self.spec.served_ranges],
            versions,
            frozenset(self.pushed[shard]),
            live_lineages([self.spec]),
        )

    def _confirm(self) -> None:
        while not self._ended.wait(0.01):
            with self._lock:
                for shard, actor in enumerate(self.actors):
                    if wanted := set(actor.heartbeat().wants_to_push) - self.pushed[shard]:
                        self.pushed[shard] |= wanted
                        self._assign(shard)


def newest_spec(folder: str, table: str) -> Any:
    from ringpull.inference.model.manifest import Manifest

    return replace(Manifest.load(Path(folder), check_name=False).table(table).spec)
