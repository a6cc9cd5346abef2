"""Versions, pushes and restarts of one shard against a slow truth: which of push and delta a version shows.

Drawn: deltas of rows, of keys that went alone, and of the very rows of an earlier one; that name no stamp, one of a
push here, or one of another deployment; versions that are rolled back and published again, or given up before they
were served; restarts after which a version is open later than the others, and amid a publish that goes on.
"""

from __future__ import annotations

import queue
import random
import time
from pathlib import Path

import numpy as np
import pytest

from ringpull.ps.live.live_shard import LiveShard
from ringpull.ps.live.log import Log
from ringpull.ps.live.record import LiveName, Record, RecordKind
from ringpull.ps.live.settings import Durability, LiveSettings
from ringpull.ps.live.stamp import EPOCH_SHIFT, GivenStamps
from ringpull.ps.store.base import Base
from ringpull.ps.wire.push_messages import PushReply
from tests.ps.live.pushing import LINEAGE, push_of
from tests.ps.live.rolled import BASE, KEYS, Delta, Rolled, identity, pushed_once
from tests.ps.tables import MODEL


class History:
    """What happens to one shard, drawn, and what it must show."""

    def __init__(self, folder: Path, seed: int, settings: LiveSettings) -> None:
        self.drawn = random.Random(seed)
        self.keeps_first = seed % 2 == 0
        """Whether the first version stays open, which shows all pushes: else those are dropped that none shows, and no
        version is published again that was closed."""
        self.rolled = Rolled(folder, settings)
        self.rolled.place(1, {}, identity(1))
        self.chains: dict[int, dict[int, Delta]] = {1: {}}
        self.stamps: list[int] = []
        """Of each push."""
        self.newest: dict[int, tuple[int, float]] = {}
        """Of each key which push was the last, from 1 on, and its row; 0: it was removed."""
        self.first: dict[int, int] = {}
        """How many pushes there were when each version was first opened, of those that were not given up then."""
        self.numbers = self.publishes = 1
        self.open(1)
        self.assigned = [1]
        self.rolled.assign(self.assigned)

    def open(self, version: int, publish: int = 0) -> None:
        self.rolled.open(version, publish)
        for number in self.chains[version]:
            self.first.setdefault(number, len(self.stamps))

    def push(self) -> None:
        keys, remove = self.drawn.sample(KEYS, 4), self.drawn.random() < 0.3
        value = 100.0 + len(self.stamps)
        rows = None if remove else np.full((4, 1), value, np.float32)
        request = push_of(keys, rows)._replace(epoch=self.rolled.epoch)
        self.stamps.append(self.rolled.push(request).stamp)
        self.newest |= dict.fromkeys(keys, (len(self.stamps), 0.0 if remove else value))

    def exported(self) -> int:
        """Export a delta of a version that is open; return its number."""
        before = self.drawn.choice(self.assigned)
        earlier = [delta for chain in self.chains.values() for delta in chain.values()]
        self.numbers += 1
        rows = {key: 1000.0 * self.numbers + key for key in self.drawn.sample(KEYS, 5)}
        gone = tuple(sorted(set(self.drawn.sample(KEYS, 4)) - rows.keys()))
        match self.drawn.randrange(4):
            case 0:
                rows = {}
            case 1 if earlier:
                again = self.drawn.choice(earlier)
                rows, gone = dict(again.rows), again.gone
        delta = Delta(rows, gone, None)
        match self.drawn.randrange(4):
            case 0 if self.stamps:
                at = self.drawn.randrange(len(self.stamps))
                delta = Delta(rows, gone, self.stamps[at], at + 1)
            case 1:
                other = GivenStamps().next(0, self.drawn.randint(1, self.rolled.epoch + 3))
                foreign = [other, other >> EPOCH_SHIFT << EPOCH_SHIFT | 7, 2**64 - 1, 0]
                delta = Delta(rows, gone, self.drawn.choice(foreign), 0)
        self.chains[self.numbers] = {**self.chains[before], self.numbers: delta}
        self.rolled.place(self.numbers, self.chains[self.numbers], identity(self.numbers))
        return self.numbers

    def new_publish(self, version: int) -> int:
        """Return the number of another publish of a version; 0: it is served already."""
        self.publishes += 1
        return 0 if version in self.assigned else self.publishes

    def publish(self, version: int, *, killed: bool = False) -> None:
        """Have a version served.

        Args:
            killed: Whether the shard begins anew once it has opened it, and opens it once more.
        """
        publish = self.new_publish(version)
        self.open(version, publish)
        if killed:
            self.restart()
            self.open(version, publish)
        kept = [each for each in self.assigned if each != version]
        self.assigned = list(dict.fromkeys([*([1] if self.keeps_first else []), *kept[-2:], version]))
        self.rolled.assign(self.assigned)

    def give_up(self, version: int, restarts: bool) -> None:
        """Open a version, and close it before it is served, or have the shard begin anew then."""
        known = set(self.first)
        self.open(version, self.new_publish(version))
        if restarts and self.drawn.random() < 0.5:
            self.restart()
        else:
            self.rolled.assign(self.assigned)
        for number in self.first.keys() - known:
            del self.first[number]

    def restart(self) -> None:
        """Begin anew; one version is open only after a push."""
        self.rolled.live.close()
        self.rolled.begin()
        *others, late = self.drawn.sample(self.assigned, len(self.assigned))
        for version in others:
            self.rolled.open(version)
        self.rolled.assign(self.assigned)
        if others:
            self.push()
        self.rolled.open(late)

    def check(self) -> None:
        for version in self.assigned:
            truth, bounds = dict(BASE), dict[int, int]()
            for number, delta in self.chains[version].items():
                truth |= {**delta.rows, **dict.fromkeys(delta.gone, 0.0)}
                for key in [*delta.rows, *delta.gone]:
                    meant = self.first[number] if delta.meant is None else delta.meant
                    bounds[key] = max(meant, bounds.get(key, 0))
            truth |= {key: row for key, (push, row) in self.newest.items() if push > bounds.get(key, 0)}
            assert self.rolled.shown(version) == {key: row for key, row in truth.items() if row}, version

    def step(self, restarts: bool) -> None:
        match self.drawn.randrange(12):
            case 0 | 1:
                self.publish(self.exported(), killed=restarts and self.drawn.random() < 0.3)
            case 2:
                self.publish(self.drawn.choice([*self.chains] if self.keeps_first else self.assigned))
            case 3:
                version = self.exported()
                self.give_up(version, restarts)
                self.push()
                if self.drawn.random() < 0.5:
                    self.publish(version)
            case 4 if restarts:
                self.restart()
            case 5 if restarts:
                self.rolled.live.tables.wants_new_log = True  # which is due soon
            case _:
                self.push()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.medium
def test_a_version_shows_the_later_of_delta_and_push(tmp_path: Path, seed: int) -> None:
    history = History(tmp_path, seed, LiveSettings())
    for _ in range(40):
        history.step(restarts=True)
        history.check()
    history.rolled.live.close()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.medium
def test_so_it_does_where_pushes_are_in_memory(tmp_path: Path, seed: int) -> None:
    history = History(tmp_path, seed, LiveSettings(durability=Durability.MEMORY))
    for _ in range(40):
        history.step(restarts=False)
        history.check()
    assert not history.rolled.live.tables.has_unlogged, "nobody reads it"
    history.rolled.live.close()


def test_a_version_that_was_open_before_a_crash_was_so_also_where_nothing_was_pushed_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LiveShard, "_aside", lambda self: None)  # which notes it too, a little later
    rolled = pushed_once(tmp_path)
    rolled.place(2, {2: Delta({7: 2.0}, (), None)}, identity(2))
    rolled.open(2)
    rolled.assign([1, 2])
    for folder in [path for path in (tmp_path / "shard-0.live").iterdir() if path.name == "lock"]:
        folder.unlink()  # as if the process had ended: the log is left as it is
    other = Rolled(tmp_path, LiveSettings())
    other.placed, other.epoch = rolled.placed, rolled.epoch
    other.open(1)
    other.assign([1, 2])
    other.push(push_of([7], np.full((1, 1), 5, np.float32))._replace(epoch=other.epoch))
    other.open(2)
    assert other.shown(2)[7] == 5
    for each in (other, rolled):
        each.live.close()


def test_a_delta_of_the_log_does_not_say_that_pushed_rows_are_there(tmp_path: Path) -> None:
    rolled = Rolled(tmp_path, LiveSettings())
    name = LiveName(MODEL, LINEAGE, "users")
    rolled.place(2, {2: Delta({7: 2.0}, (), None)}, identity(2))
    rolled.open(2)
    rolled.live.close()
    rolled.begin()
    rolled.live.confirm([name])
    assert rolled.live.tables.missing == {name}, "they were lost with the log before this one"
    rolled.live.close()


@pytest.mark.parametrize("is_gone", [False, True])
def test_the_log_of_an_earlier_build_says_when_its_deltas_were_opened(tmp_path: Path, is_gone: bool) -> None:
    """It says so by the rows of the delta alone, which are the same of all that have none."""
    name, stamp = LiveName(MODEL, LINEAGE, "users"), 3 << EPOCH_SHIFT
    rows: dict[int, float] = {} if is_gone else {7: 2.0}
    delta = Delta(rows, (7,) if is_gone else (), None)
    rolled = Rolled(tmp_path, LiveSettings())
    rolled.live.close()
    log = Log.open(tmp_path / "shard-0.live", shard=0, deployment="", replay=lambda *_: None)
    pushed = [push_of([7], np.full((1, 1), value, np.float32)) for value in (4, 5)]
    log.append([Record(RecordKind.NUMBERS, name, 4, 0)])
    for at, opened in enumerate((True, False)):
        request = pushed[at]
        log.append([Record(RecordKind.ROWS, name, 4, stamp + at, 0, 0, request.positions, request.rows)])
        if opened:
            content = Base.open(rolled.written("users", rows)).identity
            log.append([Record(RecordKind.DELTA, name, 4, stamp, content)])
    log.close()
    rolled.begin()
    rolled.place(2, {2: delta}, identity(2))
    rolled.place(3, {3: delta}, identity(3))
    rolled.place(4, {4: Delta(rows, delta.gone, stamp + 1)}, identity(4))
    rolled.place(5, {5: Delta(rows, delta.gone, 4 << EPOCH_SHIFT)}, identity(5))
    rolled.epoch = 3
    rolled.open(2)
    rolled.assign([2])
    assert rolled.shown(2)[7] == 5, "which came after it"
    rolled.open(3)
    rolled.assign([2, 3])
    assert rolled.shown(3).get(7) == (None if is_gone else 5)
    for version, shown in ((4, rows.get(7)), (5, 5)):
        rolled.open(version)
        rolled.assign([2, version])
        assert rolled.shown(version).get(7) == shown, "4 names its last stamp, and 5 none of its own"
    rolled.push(push_of([8], np.full((1, 1), 6, np.float32))._replace(epoch=rolled.epoch))
    rolled.live.close()
    rolled.begin()
    for version in (2, 5):
        rolled.open(version)
    rolled.assign([2, 5])
    assert [rolled.shown(each)[7] for each in (2, 5)] == [5, 5]
    rolled.live.close()


def test_a_push_while_a_part_is_exchanged_is_seen_once_it_is_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rolled = pushed_once(tmp_path)
    rolled.place(2, {2: Delta({9: 2.0}, (), None)}, identity(2))
    rolled.open(2)
    rolled.assign([1, 2])
    part = rolled.shard.base((MODEL, 2, "users+2"))
    assert part is not None
    put, seen = rolled.shard._put, list[bool]()

    def put_late(*args: object, **more: object) -> bool:
        answers = rolled.asked(push_of([9], np.full((1, 1), 8, np.float32))._replace(epoch=rolled.epoch))
        deadline = time.monotonic() + 0.3
        while answers.empty() and time.monotonic() < deadline:
            time.sleep(0.01)
        seen.append(answers.empty() or rolled.shown(2)[9] == 8)
        waiting.append(answers)
        return put(*args, **more)  # type: ignore[arg-type]

    waiting: list[queue.SimpleQueue[object]] = []
    with monkeypatch.context() as patched:
        patched.setattr(rolled.shard, "_put", put_late)
        assert rolled.shard.exchange((MODEL, 2, "users+2"), part, Base.open(part.folder))
    assert isinstance(waiting[0].get(timeout=20), PushReply)
    assert set(seen) == {True}  # put once more where another change came between
    assert rolled.shown(2)[9] == 8
    rolled.live.close()
