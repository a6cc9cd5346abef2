"""The session's way into Ray, with a Ray that does not start."""

from __future__ import annotations

import signal
import socket
import sys
import threading
from types import ModuleType, SimpleNamespace

import pytest

from ringpull.deploy.cluster import control_store, ray_session
from ringpull.deploy.cluster.ray_session import RaySession
from ringpull.deploy.signals import Interrupted
from ringpull.ps.errors import StartupError
from tests.patience import PATIENCE_S

ENVIRONMENT = (
    "RAY_AUTH_MODE",
    "RAY_AUTH_TOKEN",
    "RAY_USAGE_STATS_ENABLED",
    "RAY_worker_niceness",
    control_store.RECONNECT_VARIABLE,
    "PYTHONPATH",
)
"""Set by a session; put back by the tests."""


def test_a_sigterm_while_ray_starts_is_an_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray puts its own handler in place, which exits with a status that says nothing."""
    calls = []

    def init(**options: object) -> None:
        signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(signum))
        signal.raise_signal(signal.SIGTERM)

    def shutdown() -> None:
        calls.append("shutdown")

    fake = SimpleNamespace(init=init, shutdown=shutdown, exceptions=SimpleNamespace(RayError=OSError))
    monkeypatch.setitem(sys.modules, "ray", fake)
    for name in ENVIRONMENT:
        monkeypatch.setenv(name, "")
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted) as raised, RaySession(None):
        pass
    assert raised.value.signum == signal.SIGTERM
    assert calls == ["shutdown"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_interrupt_while_ray_is_loaded_is_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that is half there has no `shutdown`."""

    class Interrupts:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name == "ray":
                monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
                raise KeyboardInterrupt

    for name in ENVIRONMENT:
        monkeypatch.setenv(name, "")
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Interrupts(), *sys.meta_path])
    with pytest.raises(KeyboardInterrupt), RaySession(None):
        pass


def test_a_ray_that_accepts_connections_and_answers_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray itself would try for minutes; whatever it answers, it is Ray that joins it, or says why not."""
    monkeypatch.setattr(ray_session, "ANSWER_TIMEOUT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(StartupError, match=r"has answered nothing for 0.1 s: its control store \(GCS\) hangs"):
            ray_session._check_listens(address)

        def answer(sent: bytes) -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1)
                connection.sendall(sent)

        listening.accept()[0].close()
        monkeypatch.setattr(ray_session, "ANSWER_TIMEOUT_S", PATIENCE_S)
        for sent in (b"\0\0\0\4\0\0\0\0\0", b""):  # settings; and one that hangs up on what is not TLS
            thread = threading.Thread(target=answer, args=(sent,))
            thread.start()
            ray_session._check_listens(address)
            thread.join()
