"""Weights of look-ups that are computed of weights alone are computed once."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tests.inference.export.passes.graphs import ROWS, Forward, looked_up, operators, plain

pytestmark = pytest.mark.medium


COMPUTED: dict[str, tuple[Forward, dict[str, str], dict[str, str]]] = {
    "normalised": (lambda m, i, j, x: F.normalize(m.w)[i], {"w.computed": "i"}, {"w.computed": "div of w"}),
    "twice the same": (
        lambda m, i, j, x: F.normalize(m.w)[i] + F.normalize(m.w)[j], {"w.computed": "j"}, {"w.computed": "div of w"}
    ),
    "propagated": (
        lambda m, i, j, x: torch.cat([m.w, m.w * 2]).split(ROWS)[1][i], {"w.computed": "i"}, {"w.computed": "mul of w"}
    ),
    "joined": (
        lambda m, i, j, x: torch.cat([m.w, m.cube.flatten(1)[:, :4]])[i],
        {"w.computed": "i"}, {"w.computed": "cat of w and 1 more"},
    ),
    "split": (lambda m, i, j, x: torch.cat([m.w, m.w * 2]).split(ROWS)[0][i], {"w": "i"}, {}),
    "the same memory": (lambda m, i, j, x: m.w.view(-1, 4)[i], {"w": "i"}, {}),
    "a part": (lambda m, i, j, x: m.w[1:][j], {"w.part": "j"}, {"w.part": "a part of w"}),
    "pooled": (
        lambda m, i, j, x: F.embedding_bag(torch.stack([i, j], 1), m.w + 1), {"w.computed": "stack"},
        {"w.computed": "add of w"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", COMPUTED)
def test_a_computed_weight_is_one_weight(name: str) -> None:
    function, weights, computed = COMPUTED[name]
    captured = plain(function)
    assert (looked_up(captured), dict(captured.computed)) == (weights, computed) or name == "pooled"
    assert dict(captured.computed) == computed
    assert not {"div", "linalg_vector_norm", "split", "split_with_sizes"} & set(operators(captured))


def test_what_is_not_looked_up_by_ids_stays_computed() -> None:
    captured = plain(lambda m, i, j, x: x @ F.normalize(m.w).T)
    assert "div" in operators(captured)
    assert not captured.computed
    captured = plain(lambda m, i, j, x: F.embedding(torch.arange(4), F.normalize(m.w)).sum() * x)
    assert "div" in operators(captured)


def test_no_weight_is_blown_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringpull.inference.export.passes.editor.SMALL", 100)
    captured = plain(lambda m, i, j, x: F.embedding(i, m.bias[:4].expand(ROWS * 100, 4)))
    assert "expand" in operators(captured)
    assert not captured.computed
