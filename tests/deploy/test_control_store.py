"""Whether Ray's control store is there, told by its port."""

from __future__ import annotations

import socket
import sys
from types import SimpleNamespace

import pytest

from ringpull.deploy.cluster import control_store
from ringpull.ps.errors import InvalidInput, Unavailable


def test_how_long_a_private_ray_lives_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the environment says, or longer than Ray's own minute."""
    monkeypatch.delenv(control_store.RECONNECT_VARIABLE, raising=False)
    assert control_store.reconnect_text() == str(control_store.RECONNECT_S) == "600"
    monkeypatch.setenv(control_store.RECONNECT_VARIABLE, "30")
    assert control_store.reconnect_text() == "30"


@pytest.mark.parametrize("text", ["-1", "0", "abc", "1e3", "9" * 5000, "²"])
def test_a_time_that_is_none_is_refused_before_ray_starts(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(control_store.RECONNECT_VARIABLE, text)
    with pytest.raises(InvalidInput, match=f"{control_store.RECONNECT_VARIABLE} is .*from 1 to 1000000"):
        control_store.reconnect_text()


@pytest.mark.net
def test_it_is_there_while_its_port_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        ray = SimpleNamespace(get_runtime_context=lambda: SimpleNamespace(gcs_address=address))
        monkeypatch.setitem(sys.modules, "ray", ray)
        assert control_store.is_there()
        control_store.check()
    assert not control_store.is_there()
    with pytest.raises(Unavailable, match=r"control store \(GCS\) is gone"):
        control_store.check()


@pytest.mark.parametrize("told", ["127.0.0.1:6379", "localhost:6379"])
def test_one_cluster_has_one_address(monkeypatch: pytest.MonkeyPatch, told: str) -> None:
    ray = SimpleNamespace(get_runtime_context=lambda: SimpleNamespace(gcs_address=told))
    monkeypatch.setitem(sys.modules, "ray", ray)
    assert control_store.address() == "127.0.0.1:6379"
