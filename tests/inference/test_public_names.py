"""The names of `ringpull`: type checkers see those that Python gives."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import ringpull

SOURCE = ast.parse(Path(ringpull.__file__).read_text(encoding="utf-8"))


def seen_by_type_checkers() -> dict[str, tuple[str, str]]:
    """Public name -> (module, name there)."""
    block = next(each for each in SOURCE.body if isinstance(each, ast.If))
    seen = {}
    for each in block.body:
        if isinstance(each, ast.ImportFrom):
            seen |= {str(name.asname): (str(each.module), name.name) for name in each.names}
    return seen


def test_type_checkers_see_what_python_gives() -> None:
    given = {name: (home, name) for home, names in ringpull._HOMES.items() for name in names}
    assert seen_by_type_checkers() == given
    assert ringpull.__all__ == sorted(given)


@pytest.mark.parametrize("name", ringpull.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(ringpull, name).__name__ == name


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        ringpull.nothing  # noqa: B018
