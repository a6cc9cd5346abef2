"""Cheaper operators give the bits of those that they stand for, and stand for nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ringpull.inference.model.cheaper_operators import with_cheaper_operators
from ringpull.inference.model.torch_program import _module_of
from ringpull.inference.model.torch_script import name_of, scripted


class Taking(nn.Module):
    """Takes columns of its input by constant numbers."""

    def __init__(self, *taken: list[int]) -> None:
        super().__init__()
        self.taken = nn.ParameterList([nn.Parameter(torch.tensor(each), requires_grad=False) for each in taken])

    def forward(self, x: Tensor) -> Tensor:
        return x[(slice(None), *self.taken)]


class Pairs(nn.Module):
    """Takes the pairs of a dot interaction, whose numbers are rows of one buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("pairs", torch.tril_indices(4, 5, -1))

    def forward(self, x: Tensor) -> Tensor:
        return x[:, self.pairs[0], self.pairs[1]]


class Layers(nn.Module):
    """A layer whose ReLU may be in place, one whose product is taken twice, and one of an input."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 6), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        one = torch.relu(self.first(x))
        two = self.second(one)
        return torch.relu(two) + two + torch.relu(x).sum()


def both(module: nn.Module, x: Tensor) -> tuple[list[str], Tensor, Tensor, Tensor]:
    """Return the operators of a program that was made cheaper, what it gives, also as a script, and what was due."""
    program = torch.export.export(module.eval(), (x,), dynamic_shapes=({0: torch.export.Dim("rows")},))
    expected = _module_of(program)(x.clone())
    cheap = with_cheaper_operators(_module_of(program))
    names = [name_of(node.target) for node in cheap.graph.nodes if node.op == "call_function"]
    script, why = scripted(cheap, [x], torch.device("cpu"))
    assert why == ""
    with torch.inference_mode():
        return names, cheap(x.clone())[0], script(x.clone())[0], expected[0]


@pytest.mark.parametrize(
    "module",
    [Pairs(), Taking([0, 3, -1], [4, -5, 0]), Taking([2, 2]), Taking([1], [0])],
    ids=["pairs", "from the end", "one dimension", "one number"],
)
def test_constant_columns_are_taken_by_one_number_each(module: nn.Module):
    names, cheap, script, expected = both(module, torch.randn(6, 4, 5))
    assert "index_select" in names
    assert "index" not in names
    assert torch.equal(cheap, expected)
    assert torch.equal(script, expected)


def test_one_row_of_numbers_for_several_is_left():
    names, cheap, _, expected = both(Taking([0, 1, 2], [3]), torch.randn(6, 4, 5))
    assert "index" in names
    assert torch.equal(cheap, expected)


def test_relu_is_in_place_of_a_product_that_nothing_else_takes():
    names, cheap, script, expected = both(Layers(), torch.randn(6, 5))
    assert (names.count("relu_"), names.count("relu")) == (1, 2)
    assert torch.equal(cheap, expected)
    assert torch.equal(script, expected)


def test_numbers_that_are_not_constant_are_left():
    class Asked(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, x[0].argsort(0)[0].clamp(0, 3)]

    names, cheap, _, expected = both(Asked(), torch.randn(6, 4, 5))
    assert "index" in names
    assert torch.equal(cheap, expected)
