"""A real disk that is full: pushes are refused until there is room, and nothing that was acknowledged is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from ringpull.ps.errors import LimitExceeded
from ringpull.ps.live.settings import LiveSettings
from tests.ps.live.pushing import push_of
from tests.ps.live.served import DIM, Served
from tests.small_disk import resize, small_disk

BLOCK = 2_000
"""Rows of a push."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 2 << 10, held=True) as folder:
        yield folder


@pytest.mark.medium
@pytest.mark.parametrize("log_limit", [1 << 30, 1 << 20])
def test_a_disk_that_is_full_and_grows(served: Callable[..., Served], disk: Path, log_limit: int) -> None:
    """With the smaller limit it is full of folds, which make room for nothing new."""
    settings, folder = LiveSettings(log_limit_bytes=log_limit), disk / "shard-0.live"

    def push(shard: Served, number: int) -> bool:
        keys = np.arange(number * BLOCK, (number + 1) * BLOCK, dtype=np.uint64)
        try:
            shard.push(push_of(keys, np.full((BLOCK, DIM), number, np.float32), writer=9, number=number))
        except LimitExceeded as error:
            return not error.retry_after_s
        return True

    def has(shard: Served, numbers: int) -> bool:
        keys = np.arange(BLOCK, numbers * BLOCK)
        return bool((shard.rows(keys.tolist()) == (keys // BLOCK)[:, None]).all())

    shard, pushed = served(settings, folder), 1
    while push(shard, pushed):
        pushed += 1
    assert pushed > 5
    assert not push(shard, pushed)
    assert has(shard, pushed)
    shard = served(settings, folder)  # on the full disk
    assert has(shard, pushed)
    while push(shard, pushed):  # where it found the end of a record that did not fit, and cut it
        pushed += 1
    resize(disk, 16 << 10)
    again = pushed + 10
    while pushed < again:
        pushed += push(shard, pushed)
    assert has(shard, pushed)
    assert has(served(settings, folder), pushed)
