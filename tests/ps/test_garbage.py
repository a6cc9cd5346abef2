"""The collector leaves what is loaded alone, and what is let go of does not need it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from ringpull.ps.garbage import YOUNG_OBJECTS, freeze_loaded


class Node:
    """Part of a cycle: only the collector can free it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def same_collector_afterwards() -> Iterator[None]:
    threshold = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*threshold)


def test_what_is_there_is_not_looked_at_any_more() -> None:
    freeze_loaded()
    assert gc.get_freeze_count() > 0
    assert gc.get_threshold()[0] == YOUNG_OBJECTS


@pytest.mark.medium
def test_what_comes_later_is_still_collected() -> None:
    freeze_loaded()
    gone = weakref.ref(Node())
    gc.collect()
    assert gone() is None


@pytest.mark.medium
def test_what_was_made_since_the_last_time_is_collected_and_what_was_spared_is_not() -> None:
    spared = Node()
    freeze_loaded()
    since = Node()
    first, second = weakref.ref(spared), weakref.ref(since)
    del spared, since
    freeze_loaded()
    assert second() is None
    assert first() is not None
