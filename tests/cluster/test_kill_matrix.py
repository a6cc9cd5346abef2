"""The kill matrix: one cell of it every time, all of it when there are minutes."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from ringpull.deploy.cluster.ray_session import CODE_ROOT
from ringpull.router.control.change import Phase
from tests.cluster.kill_matrix import PHASES, SURROUNDINGS, VICTIMS

pytestmark = [pytest.mark.ray, pytest.mark.slow]

MOVE_AND_PUBLISH = ("--phase", Phase.DUAL_OWNERSHIP.value, "--phase", Phase.LOADING.value)


def matrix(*arguments: str) -> dict[str, Any]:
    """Run cells in a process of their own; return the last line."""
    command = [sys.executable, "-m", "tests.cluster.kill_matrix", *arguments]
    ran = subprocess.run(command, cwd=CODE_ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
    last: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return last


def test_a_coordinator_killed_in_the_middle_of_a_move_finishes_it() -> None:
    """Rows are streamed, a client predicts all the while."""
    last = matrix("--rows", "streamed", "--phase", "routing", "--victim", "coordinator")
    assert (last["cells"], last["good"], last["wrong"], last["failed_while_a_head_lived"]) == (1, 1, 0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("victim", SURROUNDINGS)
def test_what_surrounds_a_deployment_in_the_middle_of_a_move(victim: str) -> None:
    """Whatever happens to it: a folder, Ray, the coordinator's time, all processes at once."""
    last = matrix("--rows", "streamed", *MOVE_AND_PUBLISH, "--victim", victim)
    assert (last["cells"], last["good"], last["wrong"], last["failed_while_a_head_lived"]) == (2, 2, 0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("rows", ["opened", "streamed"])
def test_every_cell(rows: str) -> None:
    """Nobody's death in any phase makes a prediction wrong, or fails one while a replica lives."""
    last = matrix("--rows", rows)
    assert last["cells"] == last["good"] == len(PHASES) * len(VICTIMS)
