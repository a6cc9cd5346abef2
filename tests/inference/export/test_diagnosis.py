"""What a module that cannot be served is told: the line, what kind of thing it is, and what to write instead."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from ringpull.inference.export.model import export_model
from ringpull.inference.schema.kinds import Dense, IdSequence, Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.ps.errors import ExportError

pytestmark = pytest.mark.medium

SCHEMA = Schema([Sparse("user"), IdSequence("items", length=6), Dense("price")])

Body = Callable[[Any, Tensor, Tensor, Tensor, Tensor], Any]


class Ranker(nn.Module):
    """A model whose forward is one of the functions below."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.users = nn.Embedding(50, 8)
        self.items = nn.Embedding(60, 8)
        self.last = nn.Linear(8, 1)
        self.recurrent = nn.GRU(8, 8, batch_first=True)
        self._body = body

    def forward(self, user: Tensor, items: Tensor, items_lengths: Tensor, price: Tensor) -> Any:
        return self._body(self, user, items, items_lengths, price)


def branch(self: Any, user: Tensor, items: Tensor, lengths: Tensor, price: Tensor) -> Any:
    if price.sum() > 0:  # here
        user = user * 1
    return self.last(self.users(user))


def asserted(self: Any, user: Tensor, items: Tensor, lengths: Tensor, price: Tensor) -> Any:
    assert user.max() < 50  # here
    return self.last(self.users(user))


def one_number(self: Any, user: Tensor, items: Tensor, lengths: Tensor, price: Tensor) -> Any:
    factor = price.max().item()  # here
    return self.last(self.users(user) * factor)


def integer(self: Any, user: Tensor, items: Tensor, lengths: Tensor, price: Tensor) -> Any:
    longest = int(lengths.max())  # here
    return self.last(self.items(items[:, :longest]).sum(1))


def numpy_of_a_tensor(self: Any, user: Tensor, items: Tensor, lengths: Tensor, price: Tensor) -> Any:
    logs = np.log(price.numpy() + 1)  # here
    return self.last(self.users(user)) + torch.from_numpy(logs)


def array_of_a_tensor(self: Any, user: Tensor, items: Tensor, lengths: Tensor, price: Tensor) -> Any:
    total = np.asarray(price).sum()  # here
    return self.last(self.users(user)) + float(total)


def packed(self: Any, user: Tensor, items: Tensor, lengths: Tensor, price: Tensor) -> Any:
    rows = self.items(items)
    inner = nn.utils.rnn.pack_padded_sequence(rows, lengths, batch_first=True, enforce_sorted=False)
    return self.last(inner.data[: inner.batch_sizes[0]])  # here


def own_error(self: Any, user: Tensor, items: Tensor, lengths: Tensor, price: Tensor) -> Any:
    raise LookupError("no such user")  # here


def misshaped(self: Any, user: Tensor, items: Tensor, lengths: Tensor, price: Tensor) -> Any:
    return self.last(self.users(user) @ torch.ones(9, 8))  # here


def length_of_rows(self: Any, user: Tensor, items: Tensor, lengths: Tensor, price: Tensor) -> Any:
    zeros = torch.zeros(len(user), 8)  # here
    return self.last(self.users(user) + zeros)


def integer_of_rows(self: Any, user: Tensor, items: Tensor, lengths: Tensor, price: Tensor) -> Any:
    zeros = torch.zeros(int(user.shape[0]), 8)  # here
    return self.last(self.users(user) + zeros)


def tiled(self: Any, user: Tensor, items: Tensor, lengths: Tensor, price: Tensor) -> Any:
    ones = np.tile(np.ones(8, np.float32), (user.shape[0], 1))  # here
    return self.last(self.users(user) + torch.from_numpy(ones))


def loop_over_rows(self: Any, user: Tensor, items: Tensor, lengths: Tensor, price: Tensor) -> Any:
    vectors = self.users(user)
    return torch.stack([self.last(vectors[row]) for row in range(user.size(0))])  # here


def loop_over_a_tensor(self: Any, user: Tensor, items: Tensor, lengths: Tensor, price: Tensor) -> Any:
    return torch.stack([self.last(each) for each in self.users(user)])  # here


def list_of_rows(self: Any, user: Tensor, items: Tensor, lengths: Tensor, price: Tensor) -> Any:
    numbers = lengths.tolist()  # here
    return self.last(self.users(user) * numbers[0])


def viewed(self: Any, user: Tensor, items: Tensor, lengths: Tensor, price: Tensor) -> Any:
    return self.last(self.users(user).view(11, 8))  # here


def compared_with_a_number(self: Any, user: Tensor, items: Tensor, lengths: Tensor, price: Tensor) -> Any:
    if user.size(0) > 5:  # here
        price = price * 2
    return self.last(self.users(user)) + price


def dropout(self: Any, user: Tensor, items: Tensor, lengths: Tensor, price: Tensor) -> Any:
    return self.last(functional.dropout(self.users(user)))  # here


def noise(self: Any, user: Tensor, items: Tensor, lengths: Tensor, price: Tensor) -> Any:
    return self.last(self.users(user)) + torch.randn_like(price)  # here


def noise_in_place(self: Any, user: Tensor, items: Tensor, lengths: Tensor, price: Tensor) -> Any:
    return self.last(self.users(user) + torch.empty(8).normal_())  # here


def drawn(self: Any, user: Tensor, items: Tensor, lengths: Tensor, price: Tensor) -> Any:
    place = torch.multinomial(self.users(user).softmax(1), 1)  # here
    return self.last(self.users(user)) * place


def shuffled(self: Any, user: Tensor, items: Tensor, lengths: Tensor, price: Tensor) -> Any:
    order = torch.randperm(8)  # here
    return self.last(self.users(user)[:, order])


def coins(self: Any, user: Tensor, items: Tensor, lengths: Tensor, price: Tensor) -> Any:
    return self.last(torch.bernoulli(self.users(user).sigmoid()))  # here


def leaky(self: Any, user: Tensor, items: Tensor, lengths: Tensor, price: Tensor) -> Any:
    return self.last(functional.rrelu(self.users(user), training=True))  # here


def attention_with_dropout(self: Any, user: Tensor, items: Tensor, lengths: Tensor, price: Tensor) -> Any:
    rows = self.items(items)
    rows = functional.scaled_dot_product_attention(rows, rows, rows, dropout_p=0.1)  # here
    return self.last(rows.sum(1))


def rows_by_a_mask(self: Any, user: Tensor, items: Tensor, lengths: Tensor, price: Tensor) -> Any:
    return self.last(self.users(user))[user > 0]  # here


def rows_that_are_not_zero(self: Any, user: Tensor, items: Tensor, lengths: Tensor, price: Tensor) -> Any:
    chosen = torch.nonzero(user > 0)[:, 0]
    return self.last(self.users(user)).index_select(0, chosen)  # here


def masked_values(self: Any, user: Tensor, items: Tensor, lengths: Tensor, price: Tensor) -> Any:
    return self.users(user).masked_select(price > 0)  # here


def first_rows(self: Any, user: Tensor, items: Tensor, lengths: Tensor, price: Tensor) -> Any:
    return (self.users(user) * price)[:3]  # here


def rows_behind(self: Any, user: Tensor, items: Tensor, lengths: Tensor, price: Tensor) -> Any:
    return (self.users(user) * price).t()  # here


def all_but_one(self: Any, user: Tensor, items: Tensor, lengths: Tensor, price: Tensor) -> Any:
    return (self.users(user) * price)[1:]  # here


REFUSED = {
    branch: "decides by the values of a tensor",
    asserted: "asserts something of the values of a tensor",
    one_number: "makes a number of a tensor",
    integer: "makes a Python number",
    numpy_of_a_tensor: "numpy is given a tensor",
    array_of_a_tensor: "numpy is given a tensor",
    packed: "takes a packed sequence apart",
    own_error: "LookupError: no such user",
    misshaped: "RuntimeError: mat1 and mat2",
    length_of_rows: "makes the number of rows a constant",
    integer_of_rows: "makes the number of rows a constant",
    tiled: "makes the number of rows a constant",
    loop_over_rows: "makes the number of rows a constant",
    loop_over_a_tensor: "makes the number of rows a constant",
    list_of_rows: "makes the number of rows a constant",
    viewed: "makes the number of rows a constant",
    compared_with_a_number: "decides by the number of rows",
    dropout: "random in evaluation, by dropout",
    noise: "random in evaluation, by randn_like",
    noise_in_place: "random in evaluation, by normal",
    drawn: "random in evaluation, by multinomial",
    shuffled: "random in evaluation, by randperm",
    coins: "random in evaluation, by bernoulli",
    leaky: "random in evaluation, by rrelu",
    attention_with_dropout: "random in evaluation, by scaled_dot_product_attention",
    rows_by_a_mask: "a number of rows that values of the batch say",
    rows_that_are_not_zero: "a number of rows that values of the batch say",
    masked_values: "a number of rows that values of the batch say",
    first_rows: "the fixed shape (3, 8)",
    rows_behind: "the shape (8, rows)",
    all_but_one: "10 rows for a batch of 11",
}


def line_of(body: Body) -> int:
    """Return the line that is marked in one of the functions above."""
    begin = body.__code__.co_firstlineno
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    return next(number for number in range(begin, len(lines)) if lines[number - 1].endswith("# here"))


@pytest.mark.parametrize(("body", "kind"), REFUSED.items(), ids=lambda each: getattr(each, "__name__", ""))
def test_the_line_and_the_kind_are_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], body: Body, kind: str
) -> None:
    with pytest.raises(ExportError) as caught:
        export_model(Ranker(body), SCHEMA, tmp_path / "ranker", 1, quiet=True)
    message = str(caught.value)
    assert kind in message
    assert f"{Path(__file__).name}:{line_of(body)}, in {body.__name__}" in message
    assert "# here" in message  # the source of the line
    assert not re.search(r"\b11 to 11|u0|Symnode|FakeTensor", message, re.IGNORECASE)
    assert not list(tmp_path.rglob("manifest.json"))
    assert capfd.readouterr() == ("", "")  # torch logs and prints graphs


def dropout_of_nothing(self: Any, user: Tensor, items: Tensor, lengths: Tensor, price: Tensor) -> Any:
    vectors = functional.dropout(self.users(user), 0.0)
    vectors = functional.dropout(vectors, 0.5, training=self.training)
    vectors = functional.rrelu(vectors, training=self.training)
    return self.last(vectors)


def rows_as_a_size(self: Any, user: Tensor, items: Tensor, lengths: Tensor, price: Tensor) -> Any:
    zeros = torch.zeros(user.size(0), 8) + user.new_ones(user.shape[0], 1) + price.expand(user.shape[0], 8)
    return self.last(self.users(user) + zeros)


def rows_compared_with_rows(self: Any, user: Tensor, items: Tensor, lengths: Tensor, price: Tensor) -> Any:
    if user.size(0) != items.size(0) or items.size(1) != 6:
        raise ValueError("not of one batch")
    return self.last(self.users(user))


def a_draw_that_is_not_used(self: Any, user: Tensor, items: Tensor, lengths: Tensor, price: Tensor) -> Any:
    torch.rand(3)
    return self.last(self.users(user))


def taken_along(self: Any, user: Tensor, items: Tensor, lengths: Tensor, price: Tensor) -> Any:
    place = (price > 0).long()
    two = torch.cat([price, price * 2], 1)
    vectors = torch.take_along_dim(self.users(user)[:, None], place[:, :, None].expand(-1, -1, 8), 1)[:, 0]
    return self.last(vectors) + two.take_along_dim(place, dim=-1) + torch.take_along_dim(two[:1], place, 1)[:, :1] * 0


def some_rows_within(self: Any, user: Tensor, items: Tensor, lengths: Tensor, price: Tensor) -> Any:
    out = torch.zeros_like(price)
    out[user > 0] = self.last(self.users(user))[user > 0]
    return out


def a_number_of_a_weight(self: Any, user: Tensor, items: Tensor, lengths: Tensor, price: Tensor) -> Any:
    return self.last(self.users(user)) * self.last.weight.shape[1]


@pytest.mark.parametrize(
    "body",
    [
        dropout_of_nothing,
        rows_as_a_size,
        rows_compared_with_rows,
        a_draw_that_is_not_used,
        a_number_of_a_weight,
        taken_along,
        some_rows_within,
    ],
    ids=lambda each: each.__name__,
)
def test_what_only_looks_like_it_is_exported(tmp_path: Path, body: Body) -> None:
    report = export_model(Ranker(body), SCHEMA, tmp_path / "ranker", 1, quiet=True)
    assert [table.name for table in report.tables] == ["users"]
