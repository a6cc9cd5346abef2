"""A new verb is a request, a method of the coordinator and a command: what lies between is told of nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PROGRAM = (sys.executable, "-m", "tests.deploy.scrub_verb")
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def target(tmp_path: Path) -> Iterator[str]:
    """HOST:PORT of a head that serves the verb."""
    with subprocess.Popen(
        [*PROGRAM, "serve", str(tmp_path)], cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as head:
        assert head.stdout is not None
        yield head.stdout.readline().strip()
        head.communicate("")
    assert head.returncode == 0


@pytest.mark.medium
@pytest.mark.net
def test_a_new_verb_goes_from_the_command_line_to_the_coordinator_and_back(target: str) -> None:
    def ringpull(*arguments: str) -> tuple[int, str, str]:
        command = [*PROGRAM, *arguments, "--target", target]
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        return ran.returncode, ran.stdout, ran.stderr

    assert ringpull("scrub", "ranker/item") == (0, "ranker/item: 10 bad rows\n", "")
    status, out, _ = ringpull("scrub", "ranker/item", "--max-rows", "2", "--json")
    assert (status, json.loads(out)) == (0, {"bad_rows": [0, 1]})
    assert ringpull("scrub", "ranker/none") == (1, "", "error: there is no table ranker/none\n")
    refused = "error: max_rows is 0; it must be a whole number of 1 or more\n"
    assert ringpull("scrub", "ranker/item", "--max-rows", "0") == (1, "", refused)
