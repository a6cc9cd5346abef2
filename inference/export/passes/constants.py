"""Constants: what is looked up and was computed of weights alone is computed once, and is a weight.

Embeddings that are normalised, joined with a row of zeros, propagated over a graph or sliced in each forward are the
same in every forward: their rows are a table as any. What is not looked up by ids stays as the model has it.
"""

from __future__ import annotations

from typing import Any, Final

from torch import Tensor, fx

from ringpull.inference.export.operators import BAGS, CASTS, EMBEDDINGS, VIEWS, aten, getitem, upstream
from ringpull.inference.export.passes.editor import Editor

_SAME_NUMBERS: Final = (
    CASTS
    | VIEWS
    | {
        aten.flatten.using_ints,
        aten.movedim.int,
        aten.numpy_T.default,
        aten.permute.default,
        aten.reshape.default,
        aten.squeeze.default,
        aten.squeeze.dim,
        aten.squeeze.dims,
        aten.t.default,
        aten.transpose.int,
        aten.unflatten.int,
        aten.unsqueeze.default,
    }
)
"""Operators that keep every number of a weight: the result goes by its name."""

_PARTS: Final = _SAME_NUMBERS | {
    aten.narrow.default,
    aten.select.int,
    aten.slice.Tensor,
    aten.split.Tensor,
    aten.split.sizes,
    aten.split_with_sizes.default,
    aten.chunk.default,
    aten.unbind.int,
    getitem,
}


def compute_constants(editor: Editor) -> None:
    """Compute the weights of look-ups that are no weights themselves."""
    made: dict[Any, fx.Node] = {}
    for node in list(editor.graph.nodes):
        if node.target not in EMBEDDINGS | BAGS:
            continue
        weight, index = node.args[0], node.args[1]
        if weight in editor.weights or not editor.constant(weight) or editor.constant(index):
            continue
        expression = _expression(weight)
        if expression not in made:
            tensor = editor.evaluate(weight)
            sources = _sources(editor, weight)
            if (
                not isinstance(tensor, Tensor)
                or not sources
                or not editor.may_hold(tensor.numel() * tensor.element_size())
            ):
                continue
            same = editor.weight_like(tensor)
            made[expression] = same or _add(editor, node, weight, tensor.detach(), sources)
        node.update_arg(0, made[expression])


def _add(editor: Editor, node: fx.Node, weight: fx.Node, tensor: Tensor, sources: list[fx.Node]) -> fx.Node:
    """Add a computed weight, called by the first one that it is made of."""
    path, operators = editor.weights[sources[0]], _operators(weight)
    if len(sources) == 1 and operators <= _SAME_NUMBERS:
        return editor.add_weight(node, tensor, path)
    if len(sources) == 1 and operators <= _PARTS:
        return editor.add_weight(node, tensor, f"{path}.part", f"a part of {path}")
    others = f" and {len(sources) - 1} more" if len(sources) > 1 else ""
    by = getattr(weight.target, "__name__", str(weight.target)).partition(".")[0]
    return editor.add_weight(node, tensor, f"{path}.computed", f"{by} of {path}{others}")


def _sources(editor: Editor, node: fx.Node) -> list[fx.Node]:
    """Return the weights that a node is computed of, in the order in which it reads them."""
    found: dict[fx.Node, None] = {}
    seen: set[fx.Node] = set()
    pending = [node]
    while pending:
        each = pending.pop()
        if each in seen:
            continue
        seen.add(each)
        if each in editor.weights:
            found[each] = None
        pending += reversed(each.all_input_nodes)
    # A weight that numbers are learnt in names it, not the adjacency matrix or the places that it is read with.
    return sorted(found, key=lambda each: not each.meta["val"].requires_grad)


def _operators(node: fx.Node) -> set[Any]:
    return {each.target for each in upstream(node) if each.op == "call_function"}


def _expression(node: Any) -> Any:
    """Return what is equal for equal expressions."""
    known: dict[fx.Node, int] = {}
    numbers: dict[Any, int] = {}

    def number(each: fx.Node) -> int:
        if each not in known:
            if each.op == "get_attr":
                key: Any = each.target
            else:
                args = fx.node.map_arg((each.args, dict(each.kwargs)), number)
                key = each.target, repr(args)
            known[each] = numbers.setdefault(key, len(numbers))
        return known[each]

    number(node)
    return tuple(map(str, numbers))
