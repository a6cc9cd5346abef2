"""Running parts of a captured graph on made-up arguments: what an expression computes is seen, not guessed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor, fx

from ringpull.inference.export.capture import Captured
from ringpull.inference.export.examples import example
from ringpull.inference.export.operators import SIZES
from ringpull.inference.schema.arguments import Argument
from ringpull.inference.schema.schema import Schema

PROBED_ROWS: Final = (3, 5, 7)
"""Numbers of rows that expressions are run for: what differs between them depends on the batch."""


class Probe:
    """Evaluates nodes of one captured graph."""

    def __init__(
        self, captured: Captured, schema: Schema, arguments: Mapping[str, Argument], device: torch.device
    ) -> None:
        self.captured = captured
        self.schema = schema
        self.arguments = arguments
        self._device = device
        self._reads: dict[fx.Node, frozenset[str]] = {}

    def argument(self, placeholder: fx.Node) -> Argument:
        """Return the argument that an input of the graph is."""
        return self.arguments[str(placeholder.target)]

    def reads(self, node: fx.Node) -> frozenset[str]:
        """Return the arguments whose values, not only sizes, a node depends on."""
        if node not in self._reads:
            if node.op == "placeholder":
                found = frozenset([self.argument(node).name])
            elif node.target in SIZES:
                found = frozenset()
            else:
                found = frozenset[str]().union(*(self.reads(each) for each in node.all_input_nodes))
            self._reads[node] = found
        return self._reads[node]

    def example(self, rows: int, ids: Callable[[Argument, int], int] = lambda argument, column: 0) -> dict[str, Tensor]:
        """Return made-up arguments, with the id asked for in each column of ids."""
        return example(self.schema, self.arguments, rows, ids, self._device)

    def evaluate(
        self, node: fx.Node, values: Mapping[str, Tensor], given: Mapping[fx.Node, Tensor] | None = None
    ) -> Any:
        """Return what a node computes from the given arguments; `given` nodes have that value instead of their own.

        Gradients are kept where a given value asks for them.
        """
        known: dict[fx.Node, Any] = dict(given or {})

        def of(each: fx.Node) -> Any:
            if each not in known:
                if each.op == "placeholder":
                    known[each] = values[self.argument(each).name]
                elif each.op == "get_attr":
                    known[each] = getattr(self.captured.graph_module, str(each.target))
                else:
                    args, kwargs = fx.node.map_arg((each.args, each.kwargs), of)
                    known[each] = each.target(*args, **kwargs)  # type: ignore[operator]
            return known[each]

        with torch.set_grad_enabled(any(each.requires_grad for each in (given or {}).values())):
            return of(node)
