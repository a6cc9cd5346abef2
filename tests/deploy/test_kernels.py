"""Warming up fills the cache that all processes share: what one has compiled, the next one only loads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

COUNT_COMPILATIONS = """
import gc
from numba.core.dispatcher import Dispatcher
from ringpull.deploy.cluster.kernels import compile_all
compile_all()
gc.unfreeze()  # A shard has told the collector to look away from all of them.
kernels = [each for each in gc.get_objects() if isinstance(each, Dispatcher)]
ours = [each.stats for each in kernels if each.py_func.__module__.startswith("ringpull.")]
print(sum(sum(each.cache_hits.values()) for each in ours), sum(sum(each.cache_misses.values()) for each in ours))
"""


@pytest.mark.medium
@pytest.mark.net
def test_the_second_process_compiles_nothing() -> None:
    for attempt in ("first", "second"):
        ran = subprocess.run([sys.executable, "-c", COUNT_COMPILATIONS], capture_output=True, text=True, check=True)
        loaded, compiled = map(int, ran.stdout.split())
        if attempt == "second":
            assert loaded > 0
            assert compiled == 0


PLAIN_PUSHES = """
import numpy as np
import pytest
from numba.core.dispatcher import Dispatcher
from ringpull.deploy.cluster.kernels import compile_all
from ringpull.ps.live import push_kernels
from ringpull.ps.spec import RowType, TableSpec
from ringpull.ps.wire.push_messages import PushReply
from tests.ps.live.test_plain_push import KEYS, Side, push
def signatures():
    found = {name: each.signatures for name, each in vars(push_kernels).items() if isinstance(each, Dispatcher)}
    return {name: list(each) for name, each in found.items()}
compile_all()
warm = signatures()
assert len(warm) > 5 and "take_plain" in warm
assert all(warm.values()), warm
with pytest.MonkeyPatch.context() as patch:
    for row_type in (RowType.FLOAT32, RowType.FLOAT16, RowType.BFLOAT16, RowType.INT8):
        spec = TableSpec(name="users", dim=16, row_type=row_type)
        side, rows = Side(spec, plain=True), np.zeros((len(KEYS), 16), np.float32)
        for number, (count, writeable) in enumerate([(len(KEYS), True), (9, True), (9, False)], start=1):
            request = push(KEYS[:count], rows[:count], spec, number)
            request.rows.flags.writeable = request.positions.flags.writeable = writeable
            assert isinstance(side.commit([request], patch)[0], PushReply)
        assert side.taken == (0 if row_type is RowType.INT8 else 2)
assert signatures() == warm, (warm, signatures())
"""


@pytest.mark.medium
@pytest.mark.net
def test_a_plain_push_after_it_compiles_nothing() -> None:
    root = Path(__file__).parents[2]
    ran = subprocess.run([sys.executable, "-c", PLAIN_PUSHES], capture_output=True, text=True, cwd=root)
    assert ran.returncode == 0, ran.stderr
