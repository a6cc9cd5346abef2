"""The collector leaves what is loaded alone, until it is told that something was loaded or retired."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from inference.collector import YOUNG_OBJECTS, spare_what_is_loaded


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
    spare_what_is_loaded()
    assert gc.get_freeze_count() > 0
    assert gc.get_threshold()[0] == YOUNG_OBJECTS


def test_what_comes_later_is_still_collected() -> None:
    spare_what_is_loaded()
    gone = weakref.ref(Node())
    gc.collect()
    assert gone() is None


def test_what_was_retired_goes_the_next_time() -> None:
    node = Node()
    spare_what_is_loaded()
    gone = weakref.ref(node)
    del node
    gc.collect()
    assert gone() is not None
    spare_what_is_loaded()
    assert gone() is None
