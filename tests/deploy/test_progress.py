"""Steps are told when they are done; a failing one leaves the telling to its error."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from deploy.progress import Progress


def test_a_step_is_one_line_with_its_time() -> None:
    said = io.StringIO()
    with Progress(Console(file=said, width=80)).step("opened ranker/1"):
        assert said.getvalue() == ""
    assert said.getvalue().startswith("✓ opened ranker/1 0.")
    assert said.getvalue().endswith(" s\n")


def test_a_failing_step_says_nothing() -> None:
    said = io.StringIO()
    with pytest.raises(ValueError, match="because"), Progress(Console(file=said)).step("opened"):
        raise ValueError("because")
    assert said.getvalue() == ""
