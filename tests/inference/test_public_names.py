"""The names of `ringpull`: type checkers see those that Python gives."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import ringpull
from ringpull.inference.schema.kinds import IdSequence

SOURCE = ast.parse(Path(ringpull.__file__).read_text(encoding="utf-8"))


def seen_by_type_checkers() -> dict[str, tuple[str, str]]:
    """Public name -> (module, name there)."""
    block = next(each for each in SOURCE.body if isinstance(each, ast.If))
    seen = {}
    for each in block.body:
        if isinstance(each, ast.ImportFrom):
            seen |= {str(name.asname): (str(each.module), name.name) for name in each.names}
        elif isinstance(each, ast.Assign):
            seen[ast.unparse(each.targets[0])] = seen[ast.unparse(each.value)]
    return seen


def test_type_checkers_see_what_python_gives() -> None:
    given = {name: (home, name) for home, names in ringpull._HOMES.items() for name in names}
    old = {name: given[current] for name, current in ringpull._OLD_NAMES.items()}
    assert seen_by_type_checkers() == given | old
    assert ringpull.__all__ == sorted(given | old)


@pytest.mark.parametrize("name", ringpull.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(ringpull, name).__name__ in (name, ringpull._OLD_NAMES.get(name))


def test_the_old_name_of_a_kind_is_still_importable() -> None:
    from ringpull import Sequence

    assert Sequence is IdSequence
    assert IdSequence.KIND == "sequence"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        ringpull.nothing  # noqa: B018
