"""Reads of joined parts are reads of the parts, with the same values."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.inference.export.passes.graphs import Forward, looked_up, operators, plain

pytestmark = pytest.mark.medium


def matrix(i: Tensor, j: Tensor, x: Tensor) -> Tensor:
    return torch.cat([i.float().unsqueeze(1), j.unsqueeze(1).float(), x], 1)


COLUMNS: dict[str, Forward] = {
    "slices": lambda m, i, j, x: F.embedding(matrix(i, j, x)[:, 0:1].long(), m.w) * matrix(i, j, x)[:, 3:4, None],
    "selects": lambda m, i, j, x: F.embedding(matrix(i, j, x)[:, 0].long(), m.w),
    "selects from behind": lambda m, i, j, x: F.embedding(matrix(i, j, x)[:, -6].long(), m.w),
    "ids cast first": lambda m, i, j, x: F.embedding(matrix(i, j, x).long()[:, 0], m.w),
    "slices of slices": lambda m, i, j, x: F.embedding(matrix(i, j, x)[:, :2].long()[:, 0], m.w),
    "narrow": lambda m, i, j, x: F.embedding(matrix(i, j, x).narrow(1, 0, 1).long(), m.w),
    "split": lambda m, i, j, x: F.embedding(matrix(i, j, x).split([1, 1, 4], 1)[0].long(), m.w),
    "split in equal parts": lambda m, i, j, x: F.embedding(matrix(i, j, x).split(1, -1)[0].long(), m.w),
    "chunk": lambda m, i, j, x: F.embedding(matrix(i, j, x).chunk(6, 1)[0].long(), m.w),
    "tensor_split": lambda m, i, j, x: F.embedding(matrix(i, j, x).tensor_split([1, 2], 1)[0].long(), m.w),
    "unbind": lambda m, i, j, x: F.embedding(matrix(i, j, x).unbind(1)[0].long(), m.w),
    "a list of columns": lambda m, i, j, x: F.embedding(matrix(i, j, x)[:, [0]].long(), m.w),
    "a tensor of columns": lambda m, i, j, x: F.embedding(matrix(i, j, x)[:, torch.tensor(0)].long(), m.w),
    "index_select": lambda m, i, j, x: F.embedding(matrix(i, j, x).index_select(1, torch.tensor([0])).long(), m.w),
    "rows of the transposed": lambda m, i, j, x: F.embedding(matrix(i, j, x).T[0].long(), m.w),
    "rows of the permuted": lambda m, i, j, x: F.embedding(matrix(i, j, x).permute(1, 0)[0:1].long()[0], m.w),
    "a stack": lambda m, i, j, x: F.embedding(torch.stack([i.float(), j.float(), x[:, 0]], 1)[:, 0].long(), m.w),
    "a stack of columns": lambda m, i, j, x: F.embedding(torch.stack([i.float(), x[:, 1]], -1)[:, :1].long(), m.w),
    "one more dimension": lambda m, i, j, x: F.embedding(matrix(i, j, x).unsqueeze(1)[:, :, 0].long(), m.w),
    "one less": lambda m, i, j, x: F.embedding(matrix(i, j, x).unsqueeze(2).squeeze(2)[:, 0].long(), m.w),
    "a view": lambda m, i, j, x: F.embedding(matrix(i, j, x).view(-1, 6, 1)[:, 0].long(), m.w),
    "a cat of slices of a cat": lambda m, i, j, x: F.embedding(
        torch.cat([matrix(i, j, x)[:, 2:], matrix(i, j, x)[:, :1]], 1)[:, 4].long(), m.w
    ),
    "numbers one by one": lambda m, i, j, x: F.embedding(torch.nan_to_num(matrix(i, j, x))[:, 0].long() * 1, m.w),
    "double": lambda m, i, j, x: F.embedding(matrix(i, j, x).double()[:, 0].long(), m.w),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_of_a_matrix_is_the_argument_that_it_was_made_of(name: str) -> None:
    captured = plain(COLUMNS[name])
    assert not {"cat", "split_with_sizes", "chunk", "unbind", "index"} & set(operators(captured))
    if name != "numbers one by one":  # whose operators stand between
        assert looked_up(captured) == {"w": "i"}
        assert "to" not in operators(captured)


def test_several_columns_are_joined_of_their_parts() -> None:
    captured = plain(lambda m, i, j, x: matrix(i, j, x)[:, [1, 3, 4, 0]])
    assert operators(captured).count("cat") == 1
    assert operators(captured).count("slice") == 1
    captured = plain(lambda m, i, j, x: F.embedding(matrix(i, j, x)[:, :2].long(), m.w).sum(1))
    assert "to" not in operators(captured)


READS_THAT_STAY: dict[str, Forward] = {
    "rows": lambda m, i, j, x: x + matrix(i, j, x)[1:].sum(),
    "every second row": lambda m, i, j, x: x + matrix(i, j, x)[::2].sum(),
    "all columns": lambda m, i, j, x: matrix(i, j, x) * 2,
    "columns by ids": lambda m, i, j, x: matrix(i, j, x)[torch.arange(x.shape[0]), j],
    "a sum": lambda m, i, j, x: matrix(i, j, x).sum(1, keepdim=True)[:, 0],
    "another dimension": lambda m, i, j, x: torch.stack([x, x * 2], 1)[:, :, 1],
    "rows of a view": lambda m, i, j, x: matrix(i, j, x).view(-1, 2, 3)[:, 1],
}


@pytest.mark.parametrize("name", READS_THAT_STAY)
def test_other_reads_give_what_they_gave(name: str) -> None:
    assert set(operators(plain(READS_THAT_STAY[name]))) & {"cat", "stack"}


def test_masks_read_the_ids_themselves() -> None:
    captured = plain(lambda m, i, j, x: x * (matrix(i, j, x)[:, :2].long() != 0).sum(1, keepdim=True))
    assert "to" not in operators(captured)
    captured = plain(lambda m, i, j, x: x * (matrix(i, j, x)[:, 1:2] > 2.0))
    assert "to" not in operators(captured)
    captured = plain(lambda m, i, j, x: x * (matrix(i, j, x)[:, 1:2] > 1.5))
    assert "to" in operators(captured)


def test_casts_stay_where_floats_do_not_hold_every_row() -> None:
    captured = plain(lambda m, i, j, x: F.embedding(i.half().long(), torch.cat([m.w] * 205)))
    assert operators(captured).count("to") == 2
    captured = plain(lambda m, i, j, x: F.embedding(i.half().long(), torch.cat([m.w] * 204)))
    assert "to" not in operators(captured)


def test_a_cast_that_cuts_numbers_stays() -> None:
    captured = plain(lambda m, i, j, x: F.embedding(x[:, 0].abs().long(), m.w))
    assert "to" in operators(captured)
