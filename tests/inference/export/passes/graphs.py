"""Modules of one function, captured, made plain and held against themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from ringpull.inference.export.calls.bind import bind
from ringpull.inference.export.capture import Captured, capture
from ringpull.inference.export.operators import BAGS, EMBEDDINGS
from ringpull.inference.export.passes.plain import make_plain
from ringpull.inference.schema.kinds import Dense, Sparse
from ringpull.inference.schema.schema import Schema

ROWS = 10
DIM = 4
Forward = Callable[..., Tensor]


class Module(nn.Module):
    """A module with weights of several shapes, and a forward of (self, i, j, x): ids below 10 and 4, and numbers."""

    def __init__(self, function: Forward) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.w, self.bias = nn.Parameter(torch.randn(ROWS, DIM)), nn.Parameter(torch.randn(ROWS))
        self.cube, self.linear = nn.Parameter(torch.randn(ROWS, 2, 3)), nn.Linear(ROWS, DIM)
        self.wide = nn.Linear(ROWS + 4 + 4, DIM)
        self.group, self.groups = nn.Buffer(torch.arange(ROWS) % 4), nn.Buffer(torch.arange(2 * ROWS).view(ROWS, 2) % 5)
        self.function = function

    def forward(self, i: Tensor, j: Tensor, x: Tensor) -> Tensor:
        return self.function(self, i, j, x)


def arguments(rows: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    return {
        "i": torch.randint(0, ROWS, (rows,), generator=generator),
        "j": torch.randint(0, 4, (rows,), generator=generator),
        "x": torch.randn(rows, 4, generator=generator),
    }


def plain(function: Forward) -> Captured:
    """Make a module's graph plain, and hold it against the module on 2, 5 and 9 rows, and its shapes against `meta`."""
    module = Module(function)
    call = bind(module, Schema([Sparse("i"), Sparse("j"), Dense("x", width=4)]))
    captured = make_plain(
        capture(call, {name: tensor for name, tensor in arguments(7).items() if name in call.arguments})
    )
    for rows in (2, 5, 9):
        given = arguments(rows)
        with torch.no_grad():
            expected, (found,) = module(**given), captured.graph_module(**given)
            _check_values(captured, given)
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    return captured


def _check_values(captured: Captured, given: dict[str, Tensor]) -> None:
    """Hold what `meta` says of every node against what it gives: rank, type, and every size that is a number."""

    class Checked(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            said = n.meta.get("val")
            if isinstance(value, Tensor) and n.op != "output":
                assert isinstance(said, Tensor), n
                assert (said.dim(), said.dtype) == (value.dim(), value.dtype), n
                for size, real in zip(said.shape, value.shape, strict=True):
                    assert not isinstance(size, int) or size == real, n
            return value

    Checked(captured.graph_module).run(*given.values())


def looked_up(captured: Captured) -> dict[str, str]:
    """Return what is looked up, by the name of the weight: the operator or argument that its index is."""
    found = {}
    for node in captured.graph_module.graph.nodes:
        if node.target in EMBEDDINGS | BAGS:
            index = node.args[1]
            while index.op != "placeholder" and len(index.all_input_nodes) == 1:
                (index,) = index.all_input_nodes
            found[captured.weights[node.args[0]]] = str(index.target)
    return found


def operators(captured: Captured) -> list[str]:
    """Return the operators that are left, without their overloads."""
    nodes = captured.graph_module.graph.nodes
    return [node.target.__name__.partition(".")[0] for node in nodes if node.op == "call_function"]
