"""Reigns of two deployments, and the states that they save."""

from __future__ import annotations

from ringpull.router.control.change import CoordinatorState
from ringpull.router.control.reign import Reign
from ringpull.router.control.state_store import (
    Owner,
    StateStore,
)

MINE = Owner("mine", "ringpull", {"host": "here"})
THEIRS = Owner("theirs", "other")


def state(epoch: int) -> CoordinatorState:
    return CoordinatorState(epoch=epoch, last_id=epoch)


def began(store: StateStore, epoch: int = 1) -> Reign:
    """A first term, with a state."""
    reign = store.take_over(MINE)
    assert reign.save(state(epoch))
    return reign


def found(reign: Reign) -> CoordinatorState:
    assert reign.saved is not None
    return reign.saved.state
