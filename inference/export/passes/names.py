"""Names of weights that may be names of tables: what a table's folder cannot be called, is said otherwise.

A key of a `ModuleDict` may hold any character but a dot, and paths be of any length.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import count

from torch import fx

from ringpull.inference.export.passes.editor import Editor
from ringpull.ps.spec import NAME_PATTERN

_LONGEST = 120


def name_validly(editor: Editor) -> None:
    """Give every weight whose name is no table's one that is, that no other has."""
    editor.weights = _valid(editor.weights)


def _valid(names: Mapping[fx.Node, str]) -> dict[fx.Node, str]:
    taken = {name for name in names.values() if NAME_PATTERN.fullmatch(name)}
    made: dict[str, str] = {}  # two nodes of one weight have one name
    for name in names.values():
        if name in taken or name in made:
            continue
        stem = re.sub(r"[^A-Za-z0-9_.-]", "_", name)[-_LONGEST:].lstrip(".-") or "weight"
        numbered = (stem if number == 1 else f"{stem}_{number}" for number in count(1))
        made[name] = next(each for each in numbered if each not in taken)
        taken.add(made[name])
    return {node: made.get(name, name) for node, name in names.items()}
