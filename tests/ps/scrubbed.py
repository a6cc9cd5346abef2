"""A shard with its scrub, for tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from ringpull.ps.checked_rows import CheckedRows
from ringpull.ps.damage import Damage
from ringpull.ps.errors import Unavailable
from ringpull.ps.placement import ServedRanges
from ringpull.ps.ring import Ring
from ringpull.ps.scrub import Scrubber
from ringpull.ps.shard import Shard
from ringpull.ps.store import format as fmt
from ringpull.ps.store.base import Base
from ringpull.ps.transfer.job import Job
from tests.clock import Clock
from tests.ps.opened import ONE_SHARD, VERSIONS
from tests.ps.tables import MODEL, VERSION, WrittenTable, pulled, rows_request

KEY = (MODEL, VERSION, "users")


class Scrubbed:
    """A shard that has a table open in place, and its scrub; a restart forgets what is only in memory."""

    def __init__(
        self,
        table: WrittenTable,
        memory: Path,
        within: Path | None = None,
        *,
        ring: Ring = ONE_SHARD,
        bytes_per_s: float | None = None,
        **replicas: int,
    ) -> None:
        self.table, self.within, self.bytes_per_s = table, within, bytes_per_s
        self.ring, self.replicas = ring, replicas
        self.memory = memory
        self.clock = Clock(100.0)
        self.busy = False
        self.start()

    def start(self) -> None:
        memory = CheckedRows(self.memory)
        self.damage = Damage(memory, clock=self.clock)
        self.shard = Shard(0, self.damage.known)
        self.scrub = Scrubber(
            self.shard,
            self.damage,
            memory,
            bytes_per_s=self.bytes_per_s,
            busy=lambda: self.busy,
            clock=self.clock,
        )
        self.shard.open(MODEL, VERSION, {"users": self.table.folder}, within=self.within)
        self.shard.assign(1, [ServedRanges(self.ring, {(MODEL, "users"): self.replicas.get("users", 1)})], VERSIONS)
        self.base = self.served()

    def served(self) -> Base:
        base = self.shard.base(KEY)
        assert base is not None
        return base

    def round(self) -> None:
        self.scrub.round(Job())

    def answered(self) -> np.ndarray:
        """Return which keys are answered, each asked for alone, and that those are answered right: bool (N,)."""
        answered = np.zeros(len(self.table.keys), bool)
        for i in range(len(self.table.keys)):
            try:
                reply = self.shard.pull(rows_request("users", self.table.keys[i : i + 1]))
            except Unavailable:
                continue
            assert pulled(reply) == self.table.row_bytes(i)
            answered[i] = True
        return answered


def without_position_blocks(folder: Path) -> None:
    """Make a table what an earlier build would have written."""
    header = fmt.Header.from_bytes((folder / "header").read_bytes(), folder)
    sections = {name: each for name, each in header.sections.items() if name != fmt.POSITION_BLOCKS}
    (folder / "header").write_bytes(replace(header, sections=sections).to_bytes())
    (folder / fmt.POSITION_BLOCKS).unlink()
