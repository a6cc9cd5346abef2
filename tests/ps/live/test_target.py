"""What pushes are for is remembered, and keeps nothing: neither memory nor files that nothing serves any more."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Callable

import numpy as np
import pytest

from ringpull.ps.errors import InvalidInput, NotFound, NotOwner, StaleLineage
from ringpull.ps.hashing import SLOT_SHIFT, positions_of
from ringpull.ps.live import live_shard, target
from ringpull.ps.live.settings import LiveSettings
from ringpull.ps.placement import ServedRanges
from ringpull.ps.ring import Ring
from tests.ps.live.pushing import EPOCH, LINEAGE, RING, push_of, until
from tests.ps.live.served import DIM, Served
from tests.ps.tables import MODEL, VERSION


def test_a_version_that_is_closed_is_not_kept(served: Callable[..., Served]) -> None:
    shard = served()
    shard.push(push_of([5], np.ones((1, DIM), np.float32)))
    base = weakref.ref(next(iter(shard.shard.bases(MODEL, VERSION).values())))
    shard.shard.retire(MODEL, VERSION)
    # Who answered a push lets go of what it looked at a moment after the answer.
    until(lambda: gc.collect() >= 0 and base() is None, "its files stay mapped")


def test_rows_that_are_folded_are_not_kept(served: Callable[..., Served]) -> None:
    shard = served(LiveSettings(log_limit_bytes=100_000))
    shard.push(push_of([5], np.ones((1, DIM), np.float32)))  # from which on look-ups read what is newer
    keys = np.arange(5_000, dtype=np.uint64)
    shard.push(push_of(keys, np.ones((len(keys), DIM), np.float32)))
    while not shard.live.folds:
        time.sleep(0.001)
    until(lambda: gc.collect() >= 0 and shard.live.tables.budget.used_bytes == 0, "memory is kept until the next push")


def test_rows_of_a_lineage_that_is_closed_are_not_kept(
    served: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_shard, "FORGET_AFTER_S", 0.0)
    shard = served()
    shard.push(push_of([5], np.ones((1, DIM), np.float32)))
    shard.shard.retire(MODEL, VERSION)
    shard.live.confirm([])
    while shard.live.tables.all():
        time.sleep(0.001)
    until(lambda: gc.collect() >= 0 and shard.live.tables.budget.used_bytes == 0, "memory is kept")
    with pytest.raises(NotFound):
        shard.push(push_of([5], np.ones((1, DIM), np.float32)))


def test_a_push_that_asks_no_head_is_for_the_lineage_that_is_live_alone(served: Callable[..., Served]) -> None:
    shard = served()
    straight = push_of([5], np.ones((1, DIM), np.float32), writer=9, number=1)._replace(only_live=True)
    with pytest.raises(StaleLineage, match=f"lineage {LINEAGE:016x} is not live on shard 0: none is known to be"):
        shard.push(straight)
    for live in ({"other": LINEAGE}, {MODEL: LINEAGE + 1}):
        shard.shard.assign(EPOCH, [RING], [(MODEL, VERSION)], live)
        with pytest.raises(StaleLineage, match="is not live on shard 0"):
            shard.push(straight)
    shard.shard.assign(EPOCH, [RING], [(MODEL, VERSION)], {MODEL: LINEAGE})
    assert shard.push(straight).rows == 1
    shard.shard.assign(EPOCH + 1, [RING], [(MODEL, VERSION)])
    shard.shard.assign(EPOCH, [RING], [(MODEL, VERSION)], {MODEL: LINEAGE})  # which is outdated
    with pytest.raises(StaleLineage):
        shard.push(straight)
    # Through a head, which knows better, it is the same push.
    assert shard.push(straight._replace(only_live=False)).repeated == 1


@pytest.mark.parametrize("at_once", [target.AT_ONCE, 7])
def test_a_key_of_another_shard_is_found_wherever_it_is(
    served: Callable[..., Served], monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(target, "AT_ONCE", at_once)
    shard = served()
    shard.shard.assign(EPOCH, [ServedRanges(Ring.even([0, 1]), {})], [(MODEL, VERSION)])
    mask = shard.shard.owned(MODEL, "users")
    assert mask is not None
    keys = np.arange(200, dtype=np.uint64)
    is_own = mask[(positions_of(keys) >> np.uint64(SLOT_SHIFT)).astype(np.intp)] == 1
    own, foreign = keys[is_own], keys[~is_own][0]
    assert shard.push(push_of(own, np.ones((len(own), DIM), np.float32))).rows == len(own)
    for at in (0, 6, 7, len(own)):
        with pytest.raises(NotOwner):
            shard.push(push_of(np.insert(own, at, foreign), np.ones((len(own) + 1, DIM), np.float32)))


def test_a_push_of_rows_of_another_width_changes_nothing(served: Callable[..., Served]) -> None:
    """Nothing but a shard has looked at a straight push."""
    shard = served()
    shard.shard.assign(EPOCH, [RING], [(MODEL, VERSION)], {MODEL: LINEAGE})
    before = shard.rows([5, 6]).tolist()
    for keys, size in (([5], DIM * 4 - 1), ([5, 6], DIM * 4), ([5], 0)):
        push = push_of(keys, np.ones((len(keys), DIM), np.float32))
        with pytest.raises(InvalidInput, match=f"{size} bytes of rows for {len(keys)} keys"):
            shard.push(push._replace(rows=np.ones(size, np.uint8), only_live=True))
    lengths = push_of([5], [b"x" * DIM * 4])._replace(only_live=True)
    with pytest.raises(InvalidInput, match="rows of bytes for 1 keys"):
        shard.push(lengths)
    assert shard.rows([5, 6]).tolist() == before
