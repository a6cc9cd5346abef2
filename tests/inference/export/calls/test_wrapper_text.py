"""The wrapper class that an error prints is ready to paste: it compiles, takes the schema's arguments, and serves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ringpull.inference.export.model import export_model
from ringpull.inference.schema.kinds import Dense, Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.ps.errors import ExportError
from tests.inference.export.calls.served import export_and_compare, table_names

SCHEMA = Schema([Sparse("user_id"), Sparse("item_id"), Dense("age")])
COLUMNS: dict[str, Any] = {
    "user_id": np.array([1, 5, 0]),
    "item_id": np.array([2, 2, 6]),
    "age": np.array([0.5, -1.0, 2.0], np.float32),
}


class Others(nn.Module):
    """A model whose parameters are called otherwise than the schema's arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(10, 4), nn.Embedding(10, 4)

    def forward(self, users: Tensor, items: Tensor, /, age: Tensor, scale: float = 1.0, *rest: Tensor) -> Tensor:
        return (self.users(users) * self.items(items)).sum(1) * scale + age[:, 0]

    def predict(self, user: Tensor, item: Tensor) -> Tensor:
        return self(user, item, torch.ones_like(user).float().unsqueeze(1))


def pasted(message: str) -> dict[str, Any]:
    """Run the text behind the first line that imports."""
    found: dict[str, Any] = {}
    exec(message[message.index("from torch import nn") :], found)
    return found


def refusal(schema: Schema, tmp_path: Path, **options: Any) -> str:
    with pytest.raises(ExportError, match="or wrap the module") as caught:
        export_model(Others(), schema, tmp_path / "refused", 1, quiet=True, **options)
    return str(caught.value)


@pytest.mark.medium
@pytest.mark.parametrize("method", ["forward", "predict"])
def test_the_wrapper_serves_the_module(tmp_path: Path, method: str) -> None:
    message = refusal(SCHEMA, tmp_path, method=method)
    assert "arguments={'user" in message
    module = Others()
    wrapped = pasted(message)["WrappedOthers"](module)
    plain = module if method == "forward" else lambda users, items, age: module.predict(users, items)
    report = export_and_compare(
        wrapped,
        SCHEMA,
        tmp_path,
        COLUMNS,
        lambda made: plain(made["user_id"], made["item_id"], made["age"]),
    )
    assert table_names(report) == ["module.items", "module.users"]


def test_a_guess_is_marked_as_one(tmp_path: Path) -> None:
    message = refusal(SCHEMA, tmp_path)
    assert "user_id,  # users: a guess\n" in message
    assert "age=age,\n" in message


def test_arguments_that_are_no_names_of_python(tmp_path: Path) -> None:
    schema = Schema([Sparse("user.id"), Sparse("item.id"), Dense("age"), Sparse("class")])
    module = pasted(refusal(schema, tmp_path))["WrappedOthers"](Others())
    given = {"user.id": torch.tensor([1, 2]), "item.id": torch.tensor([3, 4]), "age": torch.ones(2, 1)}
    assert module(**given).shape == (2,)
