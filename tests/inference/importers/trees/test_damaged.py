"""Forests that files describe wrongly are refused before a library indexes by them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ringpull.inference.importers.forest import Forest, Tree
from ringpull.inference.importers.trees import trial
from ringpull.inference.importers.trees.damaged import MAX_COLUMNS, check_forest
from ringpull.ps.errors import CorruptData

WHOLE = Tree(
    column=np.array([0, 1, -1, -1, -1, 7]),
    threshold=np.zeros(6, np.float32),
    first=np.array([1, 3, 0, 0, 0, 5]),
    second=np.array([2, 4, 0, 0, 0, 99]),  # the last node was pruned: no row reaches it
    missing_first=np.zeros(6, np.bool_),
    leaf=np.zeros(6),
)


def check(tree: Tree, columns: int = 2) -> None:
    check_forest(Forest([WHOLE, tree], 1, "BRANCH_LT", np.zeros(1)), columns)


def test_a_whole_forest_passes() -> None:
    check(WHOLE)


@pytest.mark.parametrize(
    ("tree", "why"),
    [
        (replace(WHOLE, target=1), "tree 1 .*adds to output 1 of 1"),
        (replace(WHOLE, column=np.array([0, 2, -1, -1, -1, 7])), "column 2 of 2 in node 1"),
        (replace(WHOLE, first=np.array([1, 6, 0, 0, 0, 5])), "none of its 6 nodes"),
        (replace(WHOLE, first=np.array([1, -1, 0, 0, 0, 5])), "none of its 6 nodes"),
        (replace(WHOLE, first=np.array([0, 3, 0, 0, 0, 5])), "child of two, or of itself"),
        (replace(WHOLE, second=np.array([2, 3, 0, 0, 0, 5])), "child of two, or of itself"),
        (replace(WHOLE, first=np.array([1, 2, 0, 0, 0, 5])), "child of two, or of itself"),
    ],
)
def test_what_is_wrong_is_named(tree: Tree, why: str) -> None:
    with pytest.raises(CorruptData, match=why):
        check(tree)


@pytest.mark.parametrize("columns", [-1, 0, MAX_COLUMNS + 1])
def test_columns_are_bounded(columns: int) -> None:
    with pytest.raises(CorruptData, match=f"takes {columns} columns"):
        check(WHOLE, columns)


@pytest.mark.parametrize(
    "endless", ["all(True for _ in iter(int, 1))", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"]
)
def test_a_library_that_does_not_come_back_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endless: str
) -> None:
    (tmp_path / "m.txt").touch()
    monkeypatch.setattr(trial, "_CPU_S", 1)
    monkeypatch.setitem(trial._READ, "LightGBM", endless)
    with pytest.raises(CorruptData, match=r"m\.txt: LightGBM does not read it: .* over 1 s of CPU, or out of memory"):
        trial.check_readable(tmp_path / "m.txt", "LightGBM")
