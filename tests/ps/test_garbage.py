"""The collector leaves what is loaded alone, and what is let go of does not need it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from ringpull.ps.garbage import YOUNG_OBJECTS, forget_frames, freeze_loaded


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


class Loaded:
    """What a call that fails has half loaded."""


def test_an_error_that_is_kept_keeps_nothing_of_the_calls_it_came_through() -> None:
    gone: list[weakref.ref[Loaded]] = []

    def fails() -> None:
        half = Loaded()
        gone.append(weakref.ref(half))
        raise ValueError("no")

    def fails_anew() -> None:
        loaded = Loaded()
        gone.append(weakref.ref(loaded))
        try:
            fails()
        except ValueError as exc:
            raise KeyError("so") from exc

    with pytest.raises(KeyError) as told:
        fails_anew()
    assert all(each() is not None for each in gone)
    forget_frames(told.value)
    assert [each() for each in gone] == [None, None]
