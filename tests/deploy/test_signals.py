"""Signals interrupt a bring-up, and ask a serving process to end."""

from __future__ import annotations

import signal

import pytest

from ringpull.deploy.signals import SIGNALS, Interrupted, StopSignals


def interrupted_by(signum: signal.Signals, *, while_serving: bool) -> None:
    with StopSignals() as signals:
        if while_serving:
            signals.hold()
            assert not signals.wait(0)
            signal.raise_signal(signal.SIGTERM)
            assert signals.wait(0)
        with pytest.raises(KeyboardInterrupt):  # the one exception that Ray's blocking calls let through
            signal.raise_signal(signum)
        signal.raise_signal(signum)


@pytest.mark.parametrize("while_serving", [False, True], ids=["bring-up", "serving, the second"])
@pytest.mark.parametrize("signum", SIGNALS)
def test_a_bring_up_and_an_orderly_end_are_interrupted(signum: signal.Signals, while_serving: bool) -> None:
    with pytest.raises(Interrupted) as interrupted:
        interrupted_by(signum, while_serving=while_serving)
    assert interrupted.value.signum == signum
    assert str(interrupted.value) == f"interrupted by {signum.name}"


def test_other_handlers_come_back() -> None:
    before = [signal.getsignal(signum) for signum in SIGNALS]
    with StopSignals():
        assert [signal.getsignal(signum) for signum in SIGNALS] != before
    assert [signal.getsignal(signum) for signum in SIGNALS] == before
