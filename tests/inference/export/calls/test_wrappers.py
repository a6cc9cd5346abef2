"""Modules that torch wraps, to compile or to spread them, are exported as what they wrap: names have no prefix."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ringpull.inference.schema.kinds import Sparse
from ringpull.inference.schema.schema import Schema
from tests.inference.export.calls.served import export_and_compare, table_names

SCHEMA = Schema([Sparse("user"), Sparse("item")])
COLUMNS = {"user": np.array([1, 5, 0]), "item": np.array([2, 2, 6])}


class Tower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ids = nn.Embedding(10, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return self.ids(ids)


class Towers(nn.Module):
    def __init__(self, wrap: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        self.user, self.item = wrap(Tower()), wrap(Tower())

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        return (self.user(user) * self.item(item)).sum(1)


def in_place(module: nn.Module) -> nn.Module:
    module.compile()
    return module


def twice(module: nn.Module) -> nn.Module:
    compiled: nn.Module = torch.compile(nn.DataParallel(module))  # type: ignore[assignment]
    return compiled


pytestmark = [pytest.mark.medium, pytest.mark.filterwarnings("ignore::DeprecationWarning")]  # of torch's compiler

WRAPS = [torch.compile, nn.DataParallel, in_place, twice]


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("inside", [False, True])
def test_wrappers_are_left_out(tmp_path: Path, wrap: Callable[[nn.Module], nn.Module], inside: bool) -> None:
    plain = Towers(lambda module: module)
    module = Towers(wrap) if inside else wrap(Towers(lambda module: module))
    before = [name for name, _ in module.named_parameters()]
    for mine, theirs in zip(plain.parameters(), module.parameters(), strict=True):
        mine.data = theirs.data
    report = export_and_compare(module, SCHEMA, tmp_path, COLUMNS, lambda made: plain(made["user"], made["item"]))
    assert table_names(report) == ["item.ids", "user.ids"]
    assert [name for name, _ in module.named_parameters()] == before


def test_distributed_data_parallel_is_left_out(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        plain = Towers(lambda module: module)
        module = nn.parallel.DistributedDataParallel(plain)
        report = export_and_compare(module, SCHEMA, tmp_path, COLUMNS, lambda made: plain(made["user"], made["item"]))
    finally:
        torch.distributed.destroy_process_group()
    assert table_names(report) == ["item.ids", "user.ids"]
