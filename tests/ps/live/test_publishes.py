"""Publishes of deltas while rows are pushed: which count where a shard is killed amid them, or they are given up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ringpull.ps.live.live_shard import LiveShard
from ringpull.ps.live.log import Log
from ringpull.ps.live.record import NOT_OPENED, OF_VERSION, UNSERVED, LiveName, Record, RecordKind
from ringpull.ps.live.settings import LiveSettings
from ringpull.ps.live.stamp import EPOCH_SHIFT
from ringpull.ps.process import ShardProcess
from ringpull.ps.refusals import NotOpened
from ringpull.ps.store.base import Base
from tests.ps.live.pushing import EPOCH, LINEAGE, RING, placed, push_of
from tests.ps.live.rolled import Delta, Rolled, identity, pushed_once
from tests.ps.tables import MODEL, VERSION, write_table


def test_a_publish_that_was_given_up_stays_so_where_a_round_writes_the_log_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The round's own file says that its delta was opened, by the publish that was given up."""
    monkeypatch.setattr(LiveShard, "_aside", lambda self: None)
    rolled = pushed_once(tmp_path)
    folding = rolled.live._folding
    assert folding is not None
    number = folding._run(folding._rolled)
    rolled.place(2, {2: Delta({7: 2.0}, (), None)}, identity(2))
    rolled.open(2, publish=2)
    rolled.assign([1])
    assert not folding._folded_but()
    folding._run(lambda: folding._shorten(number))
    assert not rolled.live.tables.has_unlogged
    rolled.live.close()
    rolled.begin()
    rolled.open(1)
    rolled.assign([1])
    rolled.push(push_of([7], np.full((1, 1), 5, np.float32))._replace(epoch=rolled.epoch))
    rolled.open(2, publish=3)
    rolled.assign([1, 2])
    assert rolled.shown(2)[7] == 2, "it was opened after the push"
    rolled.live.close()


@pytest.mark.parametrize("rounds", [0, 1])
def test_a_publish_was_given_up_also_where_the_shard_was_killed_meanwhile(tmp_path: Path, rounds: int) -> None:
    """Else what was pushed before it is published once more would lie over it on this shard alone."""
    rolled = pushed_once(tmp_path)
    rolled.place(2, {2: Delta({7: 2.0}, (), None)}, identity(2))
    rolled.open(2, publish=2)
    folding = rolled.live._folding
    assert folding is not None
    for _ in range(rounds):  # which writes anew what the log says of it
        folding.round()
    assert folding.rounds == rounds
    rolled.live.close()
    for _ in range(2):
        rolled.begin()
        rolled.open(1)
        rolled.assign([1])
        rolled.push(push_of([7], np.full((1, 1), 5, np.float32))._replace(epoch=rolled.epoch))
        rolled.live.close()
    rolled.begin()
    rolled.open(1)
    rolled.assign([1])
    rolled.open(2, publish=3)
    rolled.assign([1, 2])
    assert rolled.shown(2)[7] == 2
    rolled.push(push_of([7], np.full((1, 1), 6, np.float32))._replace(epoch=rolled.epoch))
    rolled.assign([1])
    rolled.live.close()
    rolled.begin()
    rolled.open(1)
    rolled.assign([1])
    rolled.open(2, publish=4)
    rolled.assign([1, 2])
    assert rolled.shown(2)[7] == 6, "it was served, and comes back"
    rolled.live.close()


@pytest.mark.parametrize("rounds", [0, 1])
def test_a_publish_goes_on_where_the_shard_was_killed_meanwhile(tmp_path: Path, rounds: int) -> None:
    """What was pushed since it first opened the version lies over it, as on the shards that were not killed."""
    rolled = pushed_once(tmp_path)
    rolled.place(2, {2: Delta({7: 2.0}, (), None)}, identity(2))
    rolled.open(2, publish=2)
    rolled.push(push_of([7], np.full((1, 1), 4, np.float32))._replace(epoch=rolled.epoch))
    folding = rolled.live._folding
    assert folding is not None
    for _ in range(rounds):  # which writes anew what the log says of it
        folding.round()
    for _ in range(2):
        rolled.live.close()
        rolled.begin()
        rolled.open(1)
        rolled.assign([1])  # first what serves, which may take long, and then the rest
    rolled.open(2, publish=2)
    rolled.assign([1, 2])
    assert rolled.shown(2)[7] == 4
    rolled.live.close()


def test_a_publish_that_was_given_up_after_it_was_assigned_hides_no_push(tmp_path: Path) -> None:
    """It counts as opened then on shards that had been told to serve the version: no push since is hidden."""
    rolled = pushed_once(tmp_path)
    rolled.place(2, {2: Delta({7: 2.0, 8: 2.0}, (), None)}, identity(2))
    rolled.open(2, publish=2)
    rolled.assign([1, 2])
    rolled.assign([1])
    rolled.push(push_of([7], np.full((1, 1), 5, np.float32))._replace(epoch=rolled.epoch))
    for restarts in range(2):
        if restarts:
            rolled.live.close()
            rolled.begin()
            rolled.open(1)
            rolled.assign([1])
        rolled.open(2, publish=3 + restarts)
        rolled.assign([1, 2])
        assert (rolled.shown(2)[7], rolled.shown(2)[8]) == (5, 2)
    rolled.live.close()


def test_a_version_that_is_still_open_from_a_publish_that_was_given_up_counts_as_opened_now(tmp_path: Path) -> None:
    """Other shards have closed it meanwhile, and open it anew."""
    rolled = pushed_once(tmp_path)
    rolled.place(2, {2: Delta({7: 2.0}, (), None)}, identity(2))
    rolled.open(2, publish=2)
    rolled.push(push_of([7, 8], np.full((2, 1), 4, np.float32))._replace(epoch=rolled.epoch))
    assert (rolled.shown(2)[7], rolled.shown(2)[8]) == (4, 4)
    rolled.open(2, publish=3)
    assert (rolled.shown(2)[7], rolled.shown(2)[8]) == (2, 4)
    rolled.push(push_of([7], np.full((1, 1), 5, np.float32))._replace(epoch=rolled.epoch))
    rolled.open(2, publish=3)
    rolled.assign([1, 2])
    rolled.open(2, publish=0)
    assert (rolled.shown(2)[7], rolled.shown(2)[8]) == (5, 4)
    rolled.live.close()


def test_nobody_looks_again_and_again_for_what_a_publish_that_was_given_up_has_opened(tmp_path: Path) -> None:
    """Each look between two pushes would cost more with each one; and they are looked at while others are opened."""
    rolled = pushed_once(tmp_path)
    [table] = rolled.live.tables.all()
    for number in (2, 3):
        rolled.place(number, {number: Delta({7: 2.0}, (), None)}, identity(number))
        rolled.open(number, publish=number)
        assert {key.version for key in table.unserved} == {number}
        rolled.assign([1])
        assert not table.unserved
    assert {key.version: first.publish for key, first in table.opened.items()} == {2: 2, 3: 3}
    rolled.open(3, publish=4)
    rolled.assign([1, 3])
    rolled.live._take_served()
    assert not table.unserved
    rolled.live.close()


def test_a_process_is_told_which_publish_brings_a_version(tmp_path: Path) -> None:
    table = write_table(tmp_path / "users", rows=100, dim=4)
    process = ShardProcess(0, data_dir=tmp_path / "data", metrics=False)

    def prepared(publish: int) -> int:
        process.prepare([replace(placed(table.folder), publish=publish)])
        return process._shard.state.versions[MODEL, VERSION].publish

    assert [prepared(each) for each in (2, 2, 3)] == [2, 2, 3]
    broken = replace(placed(tmp_path / "none"), version=VERSION + 1, publish=4)
    with pytest.raises(NotOpened):
        process.prepare([replace(placed(table.folder), publish=4), broken])
    assert process._shard.state.versions[MODEL, VERSION].publish == 4
    assert prepared(3) == 3
    process.assign(EPOCH, [RING], [(MODEL, VERSION)])
    assert [prepared(each) for each in (0, 4)] == [3, 3], "it is to be served, and was opened by then"
    process.stop()


def test_a_delta_that_was_served_as_a_part_of_another_version_stays_so_where_its_own_is_given_up(
    tmp_path: Path,
) -> None:
    rolled = pushed_once(tmp_path)
    first = Delta({7: 2.0}, (), None)
    rolled.place(2, {2: first}, identity(2))
    rolled.place(3, {2: first, 3: Delta({8: 3.0}, (), None)}, identity(3))
    rolled.open(3, publish=2)
    rolled.assign([1, 3])
    rolled.push(push_of([7], np.full((1, 1), 5, np.float32))._replace(epoch=rolled.epoch))
    assert rolled.shown(3)[7] == 5
    rolled.assign([1])
    rolled.open(2, publish=3)
    rolled.assign([1])
    rolled.open(3, publish=4)
    rolled.assign([1, 3])
    assert rolled.shown(3)[7] == 5, "closed and opened again"
    rolled.live.close()


def test_what_an_earlier_build_noted_of_a_publish_counts_for_none_that_begins_now(tmp_path: Path) -> None:
    """It wrote down no number of it."""
    rolled = Rolled(tmp_path, LiveSettings())
    rolled.live.close()
    name = LiveName(MODEL, LINEAGE, "users")
    log = Log.open(tmp_path / "shard-0.live", shard=0, deployment="", replay=lambda *_: None)
    log.append([Record(RecordKind.NUMBERS, name, 4, 0)])
    for number, rows in enumerate(({7: 2.0}, {8: 2.0}, {9: 2.0}), 2):
        key = Base.open(rolled.written("users", rows)).identity
        said = np.array([number, 0, int(identity(number), 16)], np.uint64)
        stamp = 2 << EPOCH_SHIFT
        log.append([Record(RecordKind.DELTA, name, 4, stamp, key, UNSERVED, said)])
        if number > 2:
            log.append([Record(RecordKind.DELTA, name, 4, stamp, key, (OF_VERSION, NOT_OPENED)[number - 3], said)])
        rolled.place(number, {number: Delta(rows, (), None)}, identity(number))
    log.close()
    rolled.begin()
    rolled.place(1, {}, identity(1))
    rolled.open(1)
    rolled.assign([1])
    rolled.push(push_of([7, 8, 9], np.full((3, 1), 5, np.float32))._replace(epoch=rolled.epoch))
    for number in (2, 3, 4):
        rolled.open(number, publish=number)
    rolled.assign([1, 2, 3, 4])
    assert [rolled.shown(number)[number + 5] for number in (2, 3, 4)] == [2, 5, 2]
    rolled.live.close()
