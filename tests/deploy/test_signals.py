"""Signals interrupt a bring-up, and ask a serving process to end."""

from __future__ import annotations

import signal

import pytest

from deploy.signals import SIGNALS, Interrupted, StopSignals


@pytest.mark.parametrize("signum", SIGNALS)
def test_a_bring_up_is_interrupted(signum: signal.Signals) -> None:
    with StopSignals(), pytest.raises(Interrupted) as interrupted:
        signal.raise_signal(signum)
    assert interrupted.value.signum == signum
    assert str(interrupted.value) == f"interrupted by {signum.name}"


def test_serving_is_asked_first_and_interrupted_then() -> None:
    with StopSignals() as signals:
        signals.hold()
        assert not signals.wait(0)
        signal.raise_signal(signal.SIGTERM)
        assert signals.wait(0)
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGTERM)


def test_other_handlers_come_back() -> None:
    before = [signal.getsignal(signum) for signum in SIGNALS]
    with StopSignals():
        assert [signal.getsignal(signum) for signum in SIGNALS] != before
    assert [signal.getsignal(signum) for signum in SIGNALS] == before
