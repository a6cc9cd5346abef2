"""Every way to write a look-up becomes an embedding, with the same values."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tests.inference.export.passes.graphs import DIM, ROWS, Forward, looked_up, operators, plain

pytestmark = pytest.mark.medium


ROW_READS: dict[str, tuple[Forward, dict[str, str]]] = {
    "brackets": (lambda m, i, j, x: m.w[i], {"w": "i"}),
    "brackets and a colon": (lambda m, i, j, x: m.w[i, :], {"w": "i"}),
    "brackets of ids in two dimensions": (lambda m, i, j, x: m.w[i.unsqueeze(1)], {"w": "i"}),
    "brackets with a constant added": (lambda m, i, j, x: torch.cat([m.w, m.w])[i + 3], {"w.computed": "i"}),
    "a column": (lambda m, i, j, x: m.w[i, 1], {"w.part": "i"}),
    "columns by ids": (lambda m, i, j, x: m.w[:, j].T, {"w": "j"}),
    "columns of the transposed": (lambda m, i, j, x: m.w.T[:, i].T, {"w": "i"}),
    "a bias per id": (lambda m, i, j, x: m.bias[i] + x[:, 0], {"bias": "i"}),
    "matrices": (lambda m, i, j, x: m.cube[i], {"cube": "i"}),
    "matrices of rows in the middle": (lambda m, i, j, x: m.cube.permute(1, 0, 2)[:, i].transpose(0, 1), {"cube": "i"}),
    "index_select": (lambda m, i, j, x: torch.index_select(m.w, 0, i), {"w": "i"}),
    "index_select from behind": (lambda m, i, j, x: m.w.index_select(-2, i), {"w": "i"}),
    "index_select of a bias": (lambda m, i, j, x: m.bias.index_select(0, i), {"bias": "i"}),
    "gather": (lambda m, i, j, x: m.w.gather(0, i.unsqueeze(1).expand(-1, DIM)), {"w": "i"}),
    "gather of a few columns": (lambda m, i, j, x: m.w.gather(0, i.unsqueeze(1).expand(-1, 2)), {"w.part": "i"}),
    "gather with a repeated index": (lambda m, i, j, x: m.w.gather(0, i.unsqueeze(1).repeat(1, DIM)), {"w": "i"}),
    "gather along columns": (lambda m, i, j, x: m.w.T.gather(1, i.unsqueeze(0).expand(DIM, -1)).T, {"w": "i"}),
    "gather of a bias": (lambda m, i, j, x: m.bias.gather(0, i), {"bias": "i"}),
    "take_along_dim": (lambda m, i, j, x: torch.take_along_dim(m.w, i.unsqueeze(1), 0), {"w": "i"}),
    "take": (lambda m, i, j, x: torch.take(m.bias, i), {"bias": "i"}),
    "a slice of the rows": (lambda m, i, j, x: m.w[:8][j], {"w.part": "j"}),
    "a row of zeros in front": (lambda m, i, j, x: F.embedding(i, F.pad(m.w, (0, 0, 1, 0))), {"w.computed": "i"}),
    "one-hot vectors": (lambda m, i, j, x: F.one_hot(i, ROWS).float() @ m.w, {"w": "i"}),
    "ids compared with a range": (lambda m, i, j, x: (i[:, None] == torch.arange(ROWS)).float() @ m.w, {"w": "i"}),
    "one-hot vectors into a layer": (lambda m, i, j, x: m.linear(F.one_hot(i, ROWS).float()), {"linear": "i"}),
    "joined one-hot vectors": (
        lambda m, i, j, x: m.wide(torch.cat([F.one_hot(i, ROWS), F.one_hot(j, 8)], -1).float()),
        {"wide.part": "i", "wide.part_2": "j"},
    ),
    "ids that were floats": (lambda m, i, j, x: m.w[i.float().long()], {"w": "i"}),
}


@pytest.mark.parametrize("name", ROW_READS)
def test_what_reads_rows_by_ids_is_an_embedding(name: str) -> None:
    function, expected = ROW_READS[name]
    captured = plain(function)
    assert looked_up(captured) == expected
    assert not {"index", "index_select", "gather", "take", "take_along_dim", "one_hot"} & set(operators(captured))


def test_rows_that_count_from_behind_are_those() -> None:
    captured = plain(lambda m, i, j, x: m.w[i - 3])
    assert "where" in operators(captured)
    assert looked_up(captured) == {"w": "where"} or "embedding" in operators(captured)


def test_several_dimensions_read_at_once_are_one_lookup() -> None:
    captured = plain(lambda m, i, j, x: m.w[i, j])
    assert "index" not in operators(captured)
    assert "embedding" in operators(captured)
    captured = plain(lambda m, i, j, x: m.cube.transpose(0, 2)[:, j % 2, i].T)
    assert "index" not in operators(captured)


NOT_ROWS: dict[str, Forward] = {
    "constants": lambda m, i, j, x: m.w[torch.tensor([1, 2, 1])].sum() * x,
    "everything": lambda m, i, j, x: m.w[torch.arange(ROWS)].sum() * x,
    "arguments": lambda m, i, j, x: x[torch.arange(x.shape[0]), j],
    "arguments by columns": lambda m, i, j, x: x.gather(1, j.unsqueeze(1)),
    "each number by its own id": lambda m, i, j, x: m.w.gather(0, torch.stack([i, j, i, j], 1)),
    "a mask": lambda m, i, j, x: m.w[m.w[:, 0] > 0].sum() + x,
    "a product without one-hot vectors": lambda m, i, j, x: (i.unsqueeze(1) > torch.arange(ROWS)).float() @ m.w,
    "one-hot vectors of other numbers": lambda m, i, j, x: (
        (i[:, None] == torch.tensor([0, 2, 1, 3, 4, 5, 6, 7, 8, 9])).float() @ m.w
    ),
}


@pytest.mark.parametrize("name", NOT_ROWS)
def test_what_reads_no_rows_by_ids_stays(name: str) -> None:
    assert looked_up(plain(NOT_ROWS[name])) == {}


def test_short_one_hot_vectors_among_others_stay_in_the_product() -> None:
    captured = plain(lambda m, i, j, x: m.wide(torch.cat([F.one_hot(i, ROWS), F.one_hot(j, 4), x], -1).float()))
    assert looked_up(captured) == {}


def test_long_one_hot_vectors_among_others_are_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringpull.inference.export.passes.one_hot.LONG", ROWS)
    captured = plain(lambda m, i, j, x: m.wide(torch.cat([F.one_hot(i, ROWS), F.one_hot(j, 4), x], -1).float()))
    assert looked_up(captured) == {"wide.part": "i"}


def test_an_index_with_more_rows_than_ids_stays() -> None:
    captured = plain(lambda m, i, j, x: m.w.gather(0, i.unsqueeze(1).repeat(2, DIM)).view(2, -1, DIM).sum(0))
    assert "gather" in operators(captured)


MAPPED: dict[str, Forward] = {
    "by brackets": lambda m, i, j, x: F.embedding(m.group[i], m.w),
    "by brackets twice": lambda m, i, j, x: m.w[m.group[i]],
    "several": lambda m, i, j, x: F.embedding(m.groups[i], m.w).sum(1),
    "index_select": lambda m, i, j, x: F.embedding(m.group.index_select(0, i), m.w),
    "an embedding of integers": lambda m, i, j, x: F.embedding(F.embedding(i, m.groups), m.w).mean(1),
    "floats": lambda m, i, j, x: F.embedding(m.group.float()[i].long(), m.w),
    "of many": lambda m, i, j, x: m.w[m.groups[torch.stack([i, j], 1)]].sum((1, 2)),
    "twice": lambda m, i, j, x: F.embedding(m.group[m.group[i]], m.w),
}


@pytest.mark.parametrize("name", MAPPED)
def test_rows_by_ids_that_are_read_by_ids_are_rows_by_the_latter(name: str) -> None:
    captured = plain(MAPPED[name])
    assert set(captured.computed) == {"w.computed"}
    assert set(operators(captured)) <= {"embedding", "unflatten", "sum", "mean", "stack", "squeeze"}


def test_a_mapping_that_would_blow_up_rows_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringpull.inference.export.passes.editor.SMALL", 0)
    monkeypatch.setattr("ringpull.inference.export.passes.editor.GROWTH", 0)
    assert "index" in operators(plain(MAPPED["by brackets"]))
