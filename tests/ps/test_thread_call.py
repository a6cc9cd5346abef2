"""A call in a thread of its own, and a wait for it that ends."""

from __future__ import annotations

import threading

import pytest

from ringpull.ps.thread_call import Hangs, begun, outcome
from tests.patience import PATIENCE_S


def test_a_call_returns_or_raises_as_itself() -> None:
    assert outcome(begun(lambda: threading.current_thread().name, name="files"), PATIENCE_S) == "files"

    def late() -> None:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        outcome(begun(late, name="files"), PATIENCE_S)


def test_one_that_hangs_is_left_alone_and_may_end_later() -> None:
    over = threading.Event()
    call = begun(over.wait, name="files")
    with pytest.raises(Hangs):
        outcome(call, 0.01)
    assert not call.done()
    over.set()
    assert outcome(call, PATIENCE_S) is True
