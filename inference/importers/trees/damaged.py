"""Check of a forest that was read from a file: libraries index by what it says, beyond their memory if it is wrong."""

from __future__ import annotations

from typing import Final

import numpy as np

from ringpull.inference.importers.forest import Forest, Tree
from ringpull.ps.errors import CorruptData

MAX_COLUMNS: Final = 1 << 20
"""Columns at most: of more, one row is MiB."""


def check_forest(forest: Forest, columns: int) -> None:
    """Check that trees are trees, on columns that there are, and add to sums that there are.

    Raises:
        CorruptData: They are not; the message names tree and node.
    """
    if not 0 < columns <= MAX_COLUMNS:
        raise CorruptData(f"the model says that it takes {columns} columns; from 1 to {MAX_COLUMNS} can be imported")
    for number, tree in enumerate(forest.trees):
        why = _wrong(tree, columns, forest.targets)
        if why is not None:
            raise CorruptData(f"tree {number} of the model {why}: its file is damaged; save the model again")


def _wrong(tree: Tree, columns: int, targets: int) -> str | None:
    """Return what is wrong with a tree; None: nothing."""
    nodes = len(tree.column)
    if not 0 <= tree.target < targets:
        return f"adds to output {tree.target} of {targets}"
    seen = np.zeros(nodes, np.bool_)
    level = np.zeros(1, np.int64)
    while level.size:  # what no row reaches, as what was pruned, may be anything
        seen[level] = True
        inner = level[~tree.leaves[level]]
        if (beyond := inner[tree.column[inner] >= columns]).size:
            return f"compares column {tree.column[beyond[0]]} of {columns} in node {beyond[0]}"
        level = np.concatenate([tree.first[inner], tree.second[inner]])
        if (level < 0).any() or (level >= nodes).any():
            return f"has a child that is none of its {nodes} nodes"
        if seen[level].any() or np.unique(level).size != level.size:
            return "has a node that is a child of two, or of itself"
    return None
