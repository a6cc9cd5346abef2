"""Warming up fills the cache that all processes share: what one has compiled, the next one only loads."""

from __future__ import annotations

import subprocess
import sys

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
