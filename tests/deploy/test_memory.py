"""Memory of a process, as the kernel tells it."""

from __future__ import annotations

import os

import pytest

from deploy.console import size
from deploy.memory import pss_bytes


def test_this_process_takes_some() -> None:
    taken = pss_bytes(os.getpid())
    assert taken is not None
    assert taken > 1 << 20


def test_nobody_takes_none() -> None:
    assert pss_bytes(2**22 + 1) is None, "above the kernel's largest process id"


@pytest.mark.parametrize(
    ("count", "told"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 20, "5.0 MiB"), (3 << 30, "3.0 GiB"), (2 << 40, "2.0 TiB")],
)
def test_sizes_as_people_read_them(count: int, told: str) -> None:
    assert size(count) == told
