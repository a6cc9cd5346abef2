"""Waits of tests end before the guard that ends their process."""

from __future__ import annotations

import tomllib
from pathlib import Path

from tests.patience import PATIENCE_S


def test_two_waits_in_vain_are_over_before_the_guard() -> None:
    """The guard counts from the first fixture: a test may have waited for long before it waits in vain."""
    settings = tomllib.loads(Path(__file__).parents[1].joinpath("pyproject.toml").read_text())
    guard_s = settings["tool"]["pytest"]["ini_options"]["faulthandler_timeout"]
    assert guard_s > 2 * PATIENCE_S
