"""The log that rounds of folding leave: short, whatever failed before, so that none ends in refusals for ever."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from ringpull.ps.errors import LimitExceeded
from ringpull.ps.live.folding import KEPT_SHARE, Folding
from ringpull.ps.live.headroom import MOST_SHARE, ROUNDS, Headroom
from ringpull.ps.live.live_shard import LiveShard
from ringpull.ps.live.log import Log
from ringpull.ps.live.settings import LiveSettings
from ringpull.ps.spec import UInt64Array
from ringpull.ps.store.newer.segments import Segments
from ringpull.ps.wire.push_messages import MAX_PUSH_BYTES
from tests.ps.live.pushing import push_of
from tests.ps.live.served import DIM, Served, row
from tests.ps.live.test_folding import fold
from tests.ps.live.test_live_check import folding_of

Serve = Callable[..., Served]
LIMIT = 1 << 20
LIMITED = LiveSettings(log_limit_bytes=LIMIT)
ROW_BYTES = 8 + 4 * DIM
"""Bytes of a row in the log, with its position."""


@pytest.fixture(autouse=True)
def _no_rounds_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LiveShard, "_round", lambda _: None)


@contextmanager
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No fold can be written."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("ringpull.ps.live.folding.FoldWriter", full)
        yield


def log_of(shard: Served) -> Log:
    assert shard.live._log is not None
    return shard.live._log


def push_bytes(shard: Served, size: int, number: int) -> int:
    """Push so many bytes, of the same keys from 1000 on; return how many."""
    count = size // ROW_BYTES
    shard.push(push_of(range(1000, 1000 + count), np.full((count, DIM), number, np.float32)))
    return count


def test_rounds_in_vain_begin_no_row_of_short_log_files(served: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = served(LIMITED)
    log = log_of(shard)
    with full_disk(monkeypatch):
        for number in range(1, 6):
            shard.push(push_of([1000], row(number)))
            assert fold(shard) == 0
        assert log.files == [1, 2]
        push_bytes(shard, LIMIT // KEPT_SHARE + LIMIT // 100, 6)
        for _ in range(3):
            assert fold(shard) == 0
        assert log.files == [1, 2, 3]
        shard.live.pushes.run(log.roll)  # as it grows by itself
        assert fold(shard) == 0
        assert log.files == [1, 2, 3, 4]
    assert fold(shard) == 1
    assert log.files == [3, 4]
    assert log.bytes < LIMIT // KEPT_SHARE
    shard.push(push_of([1000], row(7)))
    assert fold(shard) == 2
    assert log.files == [5]
    assert (served(LIMITED).rows([1000]) == 7).all()


def test_a_round_after_those_in_vain_keeps_little_of_what_was_pushed_since(
    served: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = served(LIMITED)
    log = log_of(shard)
    push_bytes(shard, LIMIT // 2, 1)
    with full_disk(monkeypatch):
        assert fold(shard) == 0
        count = push_bytes(shard, LIMIT * 6 // 5, 2)
        with pytest.raises(LimitExceeded, match="--log-limit"):
            shard.push(push_of([1000], row(3)))
        assert fold(shard) == 0
    assert log.bytes > LIMIT
    assert folding_of(shard)._not_before_s
    assert fold(shard) == 1
    assert log.bytes < LIMIT // KEPT_SHARE
    shard.push(push_of([1000], row(4)))
    assert (shard.rows([1000, 1001, 999 + count]) == [[4], [2], [2]]).all()


def beyond_the_limit_all_folded(shard: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a round fold what is pushed once it rolled the log: pushes are faster than it, and it keeps all of them."""
    real: Callable[[Folding], Any] = Folding._folded_but

    def pushed_meanwhile(folding: Folding) -> Any:
        push_bytes(shard, LIMIT * 6 // 5, 2)
        return real(folding)

    push_bytes(shard, LIMIT // 2, 1)
    with monkeypatch.context() as patch:
        patch.setattr(Folding, "_folded_but", pushed_meanwhile)
        assert fold(shard) == 1
    assert log_of(shard).bytes > LIMIT
    assert not any(table.has_unfolded for table in shard.live.tables.all())
    with pytest.raises(LimitExceeded, match="--log-limit"):
        shard.push(push_of([1000], row(3)))


@pytest.mark.parametrize("restarted", [False, True])
def test_a_log_over_its_limit_is_shortened_though_all_of_it_is_folded(
    served: Serve, monkeypatch: pytest.MonkeyPatch, restarted: bool
) -> None:
    shard = served(LIMITED)
    beyond_the_limit_all_folded(shard, monkeypatch)
    if restarted:
        shard = served(LIMITED)
    folding = folding_of(shard)
    assert folding.due, "at once"
    folding.round()
    assert not folding.due
    assert log_of(shard).bytes < LIMIT // KEPT_SHARE
    shard.push(push_of([1000], row(4)))
    for each in (shard, served(LIMITED)):
        assert (each.rows([1000, 1001]) == [[4], [2]]).all()


def test_what_cannot_be_shortened_is_not_tried_at_once_again(served: Serve) -> None:
    shard = served(LIMITED)
    shard.push(push_of([1000], row(1)))
    assert fold(shard) == 1
    log = log_of(shard)
    shard = served(LiveSettings(log_limit_bytes=log.bytes - 1))  # which are notes of tables, and the like
    folding = folding_of(shard)
    assert folding.due
    folding.round()
    assert folding.rounds == 1
    assert not folding.due
    folding._not_before_s = 0
    assert folding.due


def test_a_round_after_short_ones_begins_later(served: Serve) -> None:
    """The first one at half of the limit, at three quarters those that had nothing pushed meanwhile."""
    shard = served(LIMITED)
    folding, log = folding_of(shard), log_of(shard)
    folding._headroom = Headroom(lambda: 0.0)  # No time passes, so no rate is seen.
    push_bytes(shard, LIMIT // 2 - log.bytes - 5_000, 1)
    assert not folding.due
    push_bytes(shard, 10_000, 2)
    assert folding.due
    assert fold(shard) == 1
    push_bytes(shard, LIMIT // 2, 3)
    assert not folding.due
    push_bytes(shard, LIMIT // 4 - 5_000 - (log.bytes - LIMIT // 2), 4)
    assert not folding.due
    push_bytes(shard, 10_000, 5)
    assert folding.due


def test_a_round_in_which_much_was_pushed_has_the_next_one_begin_early(
    served: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = served(LIMITED)
    folding = folding_of(shard)
    folding._headroom = Headroom(lambda: 0.0)
    real: Callable[[Folding], Any] = Folding._folded_but

    def pushed_meanwhile(folding: Folding) -> Any:
        push_bytes(shard, LIMIT // 4, 2)
        return real(folding)

    push_bytes(shard, LIMIT // 2, 1)
    with monkeypatch.context() as patch:
        patch.setattr(Folding, "_folded_but", pushed_meanwhile)
        assert fold(shard) == 1
    assert not folding.due
    push_bytes(shard, LIMIT // 4 + 10_000, 3)
    assert folding.due


def test_rounds_that_fold_nothing_say_nothing_of_how_long_one_takes(served: Serve) -> None:
    """A log that stays over its limit has one begin every ten seconds, and of them all the last few are remembered."""
    shard = served(LIMITED)
    headroom = folding_of(shard)._headroom = Headroom()
    shard.push(push_of([1000], row(1)))
    assert fold(shard) == 1
    headroom.ended(60.0, LIMIT)
    for number in range(ROUNDS):
        assert fold(shard) == 2 + number
    assert headroom.of(LIMIT) == LIMIT // MOST_SHARE


def test_a_round_for_memory_leaves_room_for_a_push_and_larger_directories(served: Serve) -> None:
    shard = served()
    folding, budget = folding_of(shard), shard.live.tables.budget
    shard.push(push_of([1000], row(1)))
    assert fold(shard) == 1
    shard.push(push_of([1000], row(2)))
    limit = budget.for_rows_bytes

    def is_due_with(free: int) -> bool:
        taken = limit - free - budget.used_bytes
        budget.take(taken)
        due = folding.due
        budget.give_back(taken)
        return due

    assert (is_due_with(limit // 4 + 1), is_due_with(limit // 4 - 1)) == (False, True)
    budget.limit_bytes = 3 * MAX_PUSH_BYTES
    for more in (0, 10 << 20):
        budget.held_bytes += more
        limit = budget.for_rows_bytes
        least = MAX_PUSH_BYTES + 2 * budget.held_bytes
        assert (is_due_with(least), is_due_with(least - 1)) == (False, True)


def test_pushes_do_not_wait_while_a_fold_copies_rows(served: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    shard, real, copied = served(LIMITED), Segments.rows, list[int]()

    def rows(segments: Segments, words: UInt64Array, *given: Any) -> Any:
        assert not shard.live.tables.lock._is_owned()  # type: ignore[attr-defined]
        copied.append(len(words))
        return real(segments, words, *given)

    count = push_bytes(shard, LIMIT // 2, 1)
    with monkeypatch.context() as patch:
        patch.setattr(Segments, "rows", rows)
        assert fold(shard) == 1
    assert sum(copied) == count
