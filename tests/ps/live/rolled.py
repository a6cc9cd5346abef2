"""Shard whose versions have deltas and take pushes, opened and assigned as a coordinator does it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.hashing import SLOTS
from ringpull.ps.live.live_shard import LiveShard
from ringpull.ps.live.settings import LiveSettings
from ringpull.ps.placement import TablePlacement, VersionPlacement
from ringpull.ps.ring import SlotRange
from ringpull.ps.shard import Shard
from ringpull.ps.spec import RowType, TableSpec
from ringpull.ps.store.writer import TableWriter
from tests.ps.live.pushing import EPOCH, LINEAGE, RING, push_of
from tests.ps.live.served import Served
from tests.ps.tables import MODEL, rows_request

KEYS = list(range(40))
BASE = dict.fromkeys(range(20), 1.0)


@dataclass(frozen=True)
class Delta:
    """Delta, and the truth of it."""

    rows: Mapping[int, float]
    gone: tuple[int, ...]
    includes: int | None
    """Stamp that the version says; None: it says none."""
    meant: int | None = None
    """Pushes, by how many there were, that it goes before; None: those until its version was first opened."""


class Rolled(Served):
    """Shard over a base and deltas of it."""

    def __init__(self, folder: Path, settings: LiveSettings) -> None:  # not Served's: nothing is open yet
        self.folder, self.settings, self.epoch = folder, settings, EPOCH
        self.placed: dict[int, VersionPlacement] = {}
        self.begin()

    def begin(self) -> None:
        self.shard = Shard(0)
        self.live = LiveShard(self.shard, self.folder / "shard-0.live", "", self.settings)

    def open(self, version: int, publish: int = 0) -> None:  # type: ignore[override]
        """Open a version, for a publish of this number; 0: it should be open already."""
        placed = replace(self.placed[version], publish=publish)
        folders = {name: Path(each.folder) for name, each in placed.tables.items()}
        self.shard.open(MODEL, version, folders, identity=placed.identity, placed=placed)
        self.shard.bring(placed)

    def assign(self, versions: list[int]) -> None:
        self.live.confirm(self.live.pushed | self.live.wanted)
        self.epoch += 1
        identities = {(MODEL, version): self.placed[version].identity for version in versions}
        self.shard.assign(self.epoch, [RING], identities)
        self.shard.forget_closed()

    def place(self, version: int, deltas: Mapping[int, Delta], identity: str) -> None:
        parts = {"users": self.written("users", BASE)}
        includes = {}
        for number, delta in deltas.items():
            parts[f"users+{number}"] = self.written("users", delta.rows)
            if delta.gone:
                parts[f"users+{number}+gone"] = self._gone(delta.gone)
            if delta.includes is not None:
                includes[f"users+{number}"] = {0: delta.includes}
        tables = {name: TablePlacement(str(folder), (SlotRange(0, SLOTS),), ()) for name, folder in parts.items()}
        self.placed[version] = VersionPlacement(
            MODEL, version, tables, identity, lineage=LINEAGE, live=frozenset(["users"]), includes=includes
        )

    def shown(self, version: int) -> dict[int, float]:
        request = replace(rows_request("users", np.array(KEYS, np.uint64)), version=version)
        rows = self.shard.pull(request).values.reshape(len(KEYS), -1)
        return {key: float(row[0]) for key, row in zip(KEYS, rows, strict=True) if row[0]}

    def written(self, name: str, rows: Mapping[int, float]) -> Path:
        folder = self.folder / "written" / f"{sorted(rows.items())!r}".encode().hex()[-200:]
        if not folder.exists():
            with TableWriter(folder, TableSpec(name=name, dim=1)) as writer:
                values = np.array(list(rows.values()), np.float32).reshape(-1, 1)
                writer.add(np.array(list(rows), np.uint64), values)
                writer.finish()
        return folder

    def _gone(self, keys: tuple[int, ...]) -> Path:
        folder = self.folder / "gone" / "-".join(map(str, keys))
        if not folder.exists():
            with TableWriter(folder, TableSpec(name="users", dim=0, row_type=RowType.BYTES)) as writer:
                writer.add_bytes(np.array(keys, np.uint64), BytesRows.of([b""] * len(keys)))
                writer.finish()
        return folder


def identity(version: int) -> str:
    return f"{version:016x}"


def pushed_once(folder: Path) -> Rolled:
    rolled = Rolled(folder, LiveSettings())
    rolled.place(1, {}, identity(1))
    rolled.open(1)
    rolled.assign([1])
    rolled.push(push_of([7], np.full((1, 1), 3, np.float32))._replace(epoch=rolled.epoch))
    return rolled
