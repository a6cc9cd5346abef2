"""Shards as a pusher sees them, in a few lines: rows by key, numbers by writer and slot, each push applied once."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from ringpull.inference.head.frontends.writer.messages import decode_push
from ringpull.inference.proto import writer_pb2 as pb
from ringpull.inference.push_answer import PushAnswer, PushStamp
from ringpull.inference.push_request import PushRequest
from ringpull.inference.wire.push_codec import SinglePush
from ringpull.ps.errors import RingpullError, StaleLineage, StaleNumber
from ringpull.ps.hashing import positions_of


class FakeShards:
    """Shards that own ranges of slots, so that each lane is on all of them. Thread-safe."""

    def __init__(self, count: int = 2) -> None:
        self._count = count
        self.rows: dict[tuple[str, int], Any] = {}
        """Row of each table's keys; None: it was taken out."""
        self.numbers: dict[tuple[int, str, int], int] = {}
        self.applied: list[tuple[str, int, bytes]] = []
        """Table, key and row of all that was applied."""
        self.lineage = "0" * 15 + "7"
        """Lineage that is live."""
        self.stamps = [0] * count
        self.down: set[int] = set()
        self._lock = threading.Lock()

    def push(self, request: PushRequest) -> PushAnswer:
        """Apply a push at each shard that is not down.

        Raises:
            StaleLineage: It is for another lineage than the live one.
            StaleNumber: At one shard its number is too low; nothing is applied there.
            RingpullError: A shard is down; it is applied at the others.
        """
        with self._lock:
            if request.lineage not in ("", self.lineage):
                raise StaleLineage(f"lineage {request.lineage} is meant, and {self.lineage} is live")
            slots = (positions_of(request.keys) >> np.uint64(48)).astype(int)
            owners = slots * self._count >> 16
            outcomes = [
                self._at(shard, request, np.flatnonzero(owners == shard), slots) for shard in range(self._count)
            ]
        for kind in (RingpullError, StaleNumber):  # what may go away by itself before what will not
            for each in outcomes:
                if type(each) is kind:
                    raise each
        return PushAnswer.of([each for each in outcomes if isinstance(each, PushAnswer)])

    def send(self, push: SinglePush, timeout_s: float | None = None) -> PushAnswer:
        return self.answer(push.message())

    def answer(self, message: pb.PushRequest) -> PushAnswer:
        """Do what `push` does, as a head does it."""
        return self.push(decode_push(message))

    def _at(self, shard: int, request: PushRequest, places: np.ndarray, slots: np.ndarray) -> Any:
        if not len(places):
            return PushAnswer()
        if shard in self.down:
            return RingpullError("the shard is down")
        names = {slot: (request.writer, request.table, slot) for slot in slots[places].tolist()}
        if any(self.numbers.get(name, 0) > request.number for name in names.values()):
            return StaleNumber("a larger number was sent since")
        known = {slot for slot, name in names.items() if self.numbers.get(name, 0) == request.number}
        new = [place for place in places.tolist() if slots[place] not in known]
        new_keys = len(
            {int(request.keys[place]) for place in new} - {key for table, key in self.rows if table == request.table}
        )
        for place in new:
            row = None if request.rows is None else request.rows[place]
            name = (request.table, int(request.keys[place]))
            self.rows[name] = row if row is None else np.array(row).tobytes()
            self.applied.append((*name, self.rows[name]))
        self.numbers.update(dict.fromkeys(names.values(), request.number))
        self.stamps[shard] += 1
        return PushAnswer(
            stamp=PushStamp({shard: self.stamps[shard]}),
            rows=len(new),
            new_keys=new_keys,
            repeated=len(places) - len(new),
            copies=1,
            lineage=self.lineage,
        )


def expected(*pushes: tuple[str, Any, Any]) -> dict[tuple[str, int], Any]:
    """What the rows are after pushes of (table, keys, rows), one after the other."""
    rows: dict[tuple[str, int], Any] = {}
    for table, keys, values in pushes:
        for place, key in enumerate(keys):
            rows[table, int(key)] = None if values is None else np.asarray(values[place], np.float32).tobytes()
    return rows
