"""Running parts of a captured graph on made-up arguments: what an expression computes is seen, not guessed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Final

import torch
from torch import Tensor, fx

from ringpull.inference.export.capture import Captured
from ringpull.inference.export.examples import Examples, example
from ringpull.inference.export.operators import inputs_read
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
        self.device = device
        self._bits = {name: 1 << place for place, name in enumerate(arguments)}
        self._names = tuple(arguments)
        self._masks: dict[fx.Node, int] = {}

    def argument(self, placeholder: fx.Node) -> Argument:
        """Return the argument that an input of the graph is."""
        return self.arguments[str(placeholder.target)]

    def reads(self, node: fx.Node) -> frozenset[str]:
        """Return the arguments whose values, not only sizes, a node depends on."""
        mask, names = self._mask(node), []
        while mask:
            names.append(self._names[mask.bit_length() - 1])
            mask ^= 1 << (mask.bit_length() - 1)
        return frozenset(names)

    def _mask(self, node: fx.Node) -> int:
        """Return the arguments that a node reads, a bit each: behind a long sum, sets of names would fill memory."""
        for each in with_inputs(node, self._masks, inputs_read):
            if each.op == "placeholder":
                self._masks[each] = self._bits[self.argument(each).name]
                continue
            mask = 0
            for inner in inputs_read(each):
                mask |= self._masks[inner]
            self._masks[each] = mask
        return self._masks[node]

    def example(self, rows: int, ids: Callable[[Argument, int], int] = lambda argument, column: 0) -> Examples:
        """Return made-up arguments, with the id asked for in each column of ids."""
        return example(self.schema, self.arguments, rows, ids, self.device)

    def evaluate(
        self, node: fx.Node, values: Mapping[str, Tensor], given: Mapping[fx.Node, Tensor] | None = None
    ) -> Any:
        """Return what a node computes from the given arguments; `given` nodes have that value instead of their own.

        Gradients are kept where a given value asks for them, through `detach` too: they say what is computed of it.
        """
        known: dict[fx.Node, Any] = dict(given or {})
        with torch.set_grad_enabled(any(each.requires_grad for each in known.values())):
            for each in with_inputs(node, known, lambda each: each.all_input_nodes):
                if each.op == "placeholder":
                    known[each] = values[self.argument(each).name]
                elif each.op == "get_attr":
                    known[each] = getattr(self.captured.graph_module, str(each.target))
                elif each.target is torch.ops.aten.detach.default and torch.is_grad_enabled():
                    known[each] = known[each.args[0]]  # type: ignore[index]
                else:
                    args, kwargs = fx.node.map_arg((each.args, each.kwargs), known.__getitem__)
                    known[each] = each.target(*args, **kwargs)  # type: ignore[operator]
        return known[node]


def with_inputs(
    node: fx.Node, known: Collection[fx.Node], inputs_of: Callable[[fx.Node], Iterable[fx.Node]]
) -> Iterator[fx.Node]:
    """Yield a node and what it is computed from, inputs first, as long as they are not known.

    By a list and not by recursion: a sum of a thousand terms is as deep as it is long. The caller makes each known
    before it asks for the next.
    """
    pending = [node]
    while pending:
        each = pending[-1]
        unknown = [inner for inner in inputs_of(each) if inner not in known] if each not in known else []
        if unknown:
            pending += unknown
            continue
        pending.pop()
        if each not in known:
            yield each
