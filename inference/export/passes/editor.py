"""Editor of a captured graph: new nodes with the values that they have in `meta`, weights, and what is constant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor, fx
from torch._guards import detect_fake_mode

from ringpull.inference.export.capture import Captured
from ringpull.inference.export.operators import BAGS, EMBEDDINGS, SIZES

_COPIED = ("stack_trace", "nn_module_stack")
"""What a node that stands for another keeps of its `meta`: where the user wrote it."""

GROWTH: Final = 4
"""How many times as large as all weights of the model a computed one may be: none is blown up by an `expand`."""

SMALL: Final = 16 * 1024 * 1024
"""Bytes that a computed weight may have all the same."""

_LONGEST_NAME: Final = 128
"""Characters of a table's name."""

BOUNDS: Final = "ringpull_bounds"
"""Entry of an embedding's `meta`: pairs of an index that its own is computed of, and how many rows there are for it."""


class Editor:
    """Writes into one captured graph."""

    def __init__(self, captured: Captured) -> None:
        self.module = captured.graph_module
        self.graph = captured.graph_module.graph
        self.weights = dict(captured.weights)
        """Names by `get_attr` node, as in `Captured`; weights that are added are among them."""
        self.computed = dict(captured.computed)
        """Names of weights that were computed, and of what."""
        self._mode = detect_fake_mode([node.meta.get("val") for node in self.graph.nodes])
        self._constant: dict[fx.Node, bool] = {}

    def call(self, before: fx.Node, target: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
        """Write a call before a node, for whose sake it is, and return it."""
        with self.graph.inserting_before(before):
            node = self.graph.call_function(target, args, kwargs)
        values, named = fx.node.map_arg((args, kwargs), lambda each: each.meta["val"])
        with torch.no_grad():
            if self._mode is None:
                node.meta["val"] = target(*values, **named)
            else:
                with self._mode:
                    node.meta["val"] = target(*values, **named)
        node.meta.update({name: before.meta[name] for name in _COPIED if name in before.meta})
        return node

    def drop_unused(self) -> None:
        """Take out what nothing uses, weights among it."""
        self.graph.eliminate_dead_code()
        alive = set(self.graph.nodes)
        self.weights = {node: name for node, name in self.weights.items() if node in alive}

    def add_weight(self, before: fx.Node, tensor: Tensor, path: str, computed: str | None = None) -> fx.Node:
        """Add a tensor to the module, to be looked up, and return the node that reads it.

        A name under which another weight is looked up is made a new one.
        """
        by_ids = EMBEDDINGS | BAGS
        taken = {name for node, name in self.weights.items() if any(user.target in by_ids for user in node.users)}
        name, number = path, 2
        while name in taken:
            name, number = f"{path}_{number}", number + 1
        name = name[-_LONGEST_NAME:].lstrip(".-")
        attribute = f"weight_made_{len(self.weights)}"
        self.module.register_buffer(attribute, tensor, persistent=False)
        with self.graph.inserting_before(next(iter(self.graph.nodes))):
            node = self.graph.get_attr(attribute)
        node.meta["val"] = tensor if self._mode is None else self._mode.from_tensor(tensor, static_shapes=True)
        node.meta.update({each: before.meta[each] for each in _COPIED if each in before.meta})
        self.weights[node] = name
        if computed is not None:
            self.computed[name] = computed
        return node

    def weight_like(self, tensor: Tensor) -> fx.Node | None:
        """Return the weight that a tensor is: the same memory, in the same order."""
        for node in self.weights:
            weight = getattr(self.module, str(node.target))
            if weight.numel() and _layout(weight) == _layout(tensor):
                return node
        return None

    def may_hold(self, taken: int) -> bool:
        """Return whether a weight of so many bytes may be computed."""
        weights = [getattr(self.module, str(node.target)) for node in self.weights]
        total: int = sum(each.numel() * each.element_size() for each in weights)
        return taken <= max(SMALL, GROWTH * total)

    def constant(self, node: Any) -> bool:
        """Return whether a node is computed of weights alone: of no argument, nor the size of one, nor by chance."""
        if not isinstance(node, fx.Node):
            return True
        pending = [node]
        while pending:
            each = pending[-1]
            if each in self._constant:
                pending.pop()
            elif each.op in ("placeholder", "output", "call_module"):
                self._constant[pending.pop()] = False
            elif missing := [inner for inner in each.all_input_nodes if inner not in self._constant]:
                pending += missing
            else:
                self._constant[pending.pop()] = not _by_chance(each) and all(
                    self._constant[inner] for inner in each.all_input_nodes
                )
        return self._constant[node]

    def evaluate(self, node: fx.Node) -> Any:
        """Return what a constant node computes."""
        known: dict[fx.Node, Any] = {}

        def of(each: fx.Node) -> Any:
            if each not in known:
                if each.op == "get_attr":
                    known[each] = getattr(self.module, str(each.target))
                else:
                    args, kwargs = fx.node.map_arg((each.args, each.kwargs), of)
                    known[each] = each.target(*args, **kwargs)  # type: ignore[operator]
            return known[each]

        with torch.no_grad():
            return of(node)


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()


def _by_chance(node: fx.Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def shape_of(node: fx.Node) -> tuple[Any, ...]:
    """Return the shape of a node's value; the sizes that follow the rows of the batch are symbols."""
    return tuple(node.meta["val"].shape)


def dtype_of(node: Any) -> torch.dtype | None:
    """Return the type of a node's value; None of what is no tensor."""
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return value.dtype if isinstance(value, Tensor) else None


def is_size(node: fx.Node) -> bool:
    """Return whether a node is the size of a tensor."""
    return node.target in SIZES
