"""Commands that chaos runs: in processes that nothing of this one can harm, and told of when they end badly."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import uvloop

from ringpull.loadtest.chaos.serving import CommandFailed, run_program

FORKS: list[int] = []
os.register_at_fork(before=lambda: FORKS.append(1))


def made(folder: Path, text: str) -> dict[str, str]:
    (folder / "said.py").write_text(text)
    return {"PYTHONPATH": str(folder)}


def test_a_command_gives_its_json_and_gets_its_environment(tmp_path: Path) -> None:
    environment = {**made(tmp_path, "import os; print(os.environ['WORD'])"), "WORD": '{"a": 1}'}
    assert uvloop.run(run_program("said", environment=environment)) == {"a": 1}


def test_no_handlers_of_forks_run(tmp_path: Path) -> None:
    """Handlers of gRPC's do what has killed the child before it was the command."""
    FORKS.clear()
    uvloop.run(run_program("said", environment=made(tmp_path, "print({})")))
    assert FORKS == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import sys; sys.exit('error: no')", "said *: error: no"),
        ("import os; os.kill(os.getpid(), 9)", "said *: it ended with -9, and said nothing"),
    ],
)
def test_a_command_that_fails_is_told_of(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(CommandFailed, match=said):
        uvloop.run(run_program("said", environment=made(tmp_path, text)))
