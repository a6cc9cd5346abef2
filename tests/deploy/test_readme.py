"""deploy/README.md holds every command, every option and every default that it names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.commands import COMMANDS

README = (Path(__file__).parents[2] / "deploy" / "README.md").read_text(encoding="utf-8")


def section(command: str) -> str:
    found = re.search(rf"^### ringpull {command}\b.*?(?=^##)", README, re.MULTILINE | re.DOTALL)
    assert found, f"there is no section for `ringpull {command}`"
    return found.group()


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_option_is_told_in_its_commands_section(command: str) -> None:
    text = section(command)
    told = set(re.findall(r"`(--[a-z0-9-]+)", text))
    written = [each for parameter in COMMANDS[command].params for each in (*parameter.opts, *parameter.secondary_opts)]
    there = {option for option in written if option[:2] == "--"}
    assert told == there - {"--help"}


def test_defaults_of_serve_are_the_real_ones() -> None:
    """Numbers in the table are compared; the unit behind them is for people."""
    defaults = {parameter.opts[0]: parameter.default for parameter in COMMANDS["serve"].params}
    for option, told in re.findall(r"^\| `(--[a-z-]+)[^`]*` \| (\d+)(?: s)? \|", section("serve"), re.MULTILINE):
        assert float(told) == float(defaults[option]), option
