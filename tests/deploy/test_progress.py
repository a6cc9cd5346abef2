"""Steps are told when they are done; a failing one leaves the telling to its error."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from ringpull.deploy.view.progress import Progress


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


def test_how_far_it_is_becomes_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    said, now_s = io.StringIO(), [100.0]
    monkeypatch.setattr("ringpull.deploy.view.progress.time.monotonic", lambda: now_s[0])
    with Progress(Console(file=said, width=80)).step("opened ranker/1") as say:
        for seconds in range(24):
            now_s[0] = 100.0 + seconds
            say(f"{seconds} MiB of 24 MiB copied")
    lines = said.getvalue().splitlines()
    assert lines[:2] == [f"opened ranker/1: {mib} MiB of 24 MiB copied" for mib in (10, 20)]
    assert lines[2].startswith("✓ opened ranker/1 23.0 s")
    assert len(lines) == 3
