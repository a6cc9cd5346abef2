"""What a process occupies."""

from __future__ import annotations

import mmap
import os

import numpy as np

from ringpull.ps.memory import process_memory, resident_bytes, reuse_freed_memory


def test_memory_follows_what_is_touched() -> None:
    before = process_memory()
    # a mapping of its own: an array may be given pages that this process freed before
    ballast = mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    ballast.write(b"\1" * len(ballast))
    after = process_memory()
    assert after["Pss_Anon"] - before["Pss_Anon"] > 60 << 20
    ballast.close()


def test_a_process_that_is_gone_takes_nothing_that_could_be_told() -> None:
    assert process_memory(os.getpid())["Pss"] > 1 << 20
    assert process_memory(2**22 + 1) == {}, "above the kernel's largest process id"


def test_what_is_resident_is_told_at_once() -> None:
    assert abs(resident_bytes() - process_memory()["Rss"]) < 16 << 20


def test_freed_buffers_are_kept_for_the_next() -> None:
    """Once a buffer of this size was used and freed, the next is made of the same pages."""
    reuse_freed_memory()
    np.ones(8 << 20, np.uint8).sum()
    before = process_memory()["Rss"]
    assert process_memory()["Rss"] > 8 << 20
    np.ones(8 << 20, np.uint8).sum()
    assert process_memory()["Rss"] - before < 4 << 20
