"""What a process occupies."""

from __future__ import annotations

import numpy as np

from ps.memory import process_memory, reuse_freed_memory


def test_memory_follows_what_is_touched() -> None:
    before = process_memory()
    ballast = np.ones(64 << 20, np.uint8)
    after = process_memory()
    assert after["Pss_Anon"] - before["Pss_Anon"] > 60 << 20
    del ballast


def test_freed_buffers_are_kept_for_the_next() -> None:
    """Once a buffer of this size was used and freed, the next is made of the same pages."""
    reuse_freed_memory()
    np.ones(8 << 20, np.uint8).sum()
    before = process_memory()["Rss"]
    assert process_memory()["Rss"] > 8 << 20
    np.ones(8 << 20, np.uint8).sum()
    assert process_memory()["Rss"] - before < 4 << 20
