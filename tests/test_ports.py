"""Ports for tests: none that the kernel deals, and none twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ports import FIRST, LAST, free_port, undealt

pytestmark = pytest.mark.net


def test_none_is_one_that_the_kernel_deals() -> None:
    assert undealt(32_768, 60_999) == range(FIRST, LAST + 1)
    assert undealt(25_000, 60_999) == range(FIRST, 25_000)
    assert undealt(10_000, 60_999) == range(61_000, 1 << 16)
    assert not undealt(1024, 65_535)


def test_none_is_dealt_twice() -> None:
    assert len({free_port() for _ in range(20)}) == 20


def test_where_there_is_none_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "1024\t65535\n")
    with pytest.raises(RuntimeError, match="no port is free of 0"):
        free_port()
