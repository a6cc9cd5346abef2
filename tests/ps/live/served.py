"""A shard over one table, and its pushes, without a server."""

from __future__ import annotations

import queue
from dataclasses import replace
from pathlib import Path

import numpy as np

from ringpull.ps.checked_rows import CheckedRows
from ringpull.ps.live.live_shard import LiveShard
from ringpull.ps.live.settings import LiveSettings
from ringpull.ps.shard import Shard
from ringpull.ps.wire.push_messages import PushReply, PushRequest
from tests.ps.live.pushing import EPOCH, RING, placed
from tests.ps.tables import MODEL, VERSION, WrittenTable, rows_request
from tests.ps.wire.fake_shard import soon

DIM = 4


class Served:
    """Shard over one table, and its pushes."""

    def __init__(
        self,
        table: WrittenTable,
        folder: Path | None,
        options: LiveSettings | None = None,
        memory: CheckedRows | None = None,
    ) -> None:
        self.table = table
        self.shard = Shard(0)
        self.live = LiveShard(self.shard, folder, "", options, memory)
        self.open(placed(table.folder))
        self.live.confirm(self.live.pushed)
        self.shard.assign(EPOCH, [RING], [(MODEL, VERSION)])

    def open(self, placement: object) -> None:
        self.shard.open(MODEL, VERSION, {"users": self.table.folder}, placed=placement)  # type: ignore[arg-type]

    def asked(self, push: PushRequest, deadline_s: float | None = None) -> queue.SimpleQueue[PushReply | Exception]:
        answers: queue.SimpleQueue[PushReply | Exception] = queue.SimpleQueue()
        self.live.pushes.push(push, soon() if deadline_s is None else deadline_s, answers.put)
        return answers

    def push(self, push: PushRequest) -> PushReply:
        """Push, as a coordinator that confirms all."""
        answers = self.asked(push)
        while True:
            try:
                answer = answers.get(timeout=0.001)
            except queue.Empty:
                if self.live.wanted:
                    self.live.confirm(self.live.pushed | self.live.wanted)
                continue
            if isinstance(answer, Exception):
                raise answer
            return answer

    def rows(self, keys: list[int], *, as_exported: bool = False) -> np.ndarray:
        request = rows_request("users", np.array(keys, np.uint64))
        return self.shard.pull(replace(request, as_exported=as_exported)).values.reshape(len(keys), DIM)


def row(number: float) -> np.ndarray:
    return np.full((1, DIM), number, np.float32)
