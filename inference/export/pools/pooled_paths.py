"""Ways of a sequence's vectors through a graph: from an embedding, along operators that are linear, to sums and maxima.

An embedding may be pooled by its pull only when all that its vectors ever enter are such reductions. What multiplies
the vectors on the way decides which of them count; what is added to them stays in the dense program.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, fx

from ringpull.inference.export.operators import CASTS, JOINS, MOVES, aten, inputs_read, values_of
from ringpull.inference.export.probe import Probe

_FLOATS: Final = (torch.float32, torch.float64, torch.float16, torch.bfloat16)

_ALONG: Final = (
    CASTS | MOVES | {aten.div.Scalar, aten.mul.Scalar, aten.neg.default}
) - {  # those that give several tensors, or read another tensor's elements
    aten.chunk.default,
    aten.gather.default,
    aten.index.Tensor,
    aten.index_select.default,
    aten.split.Tensor,
    aten.split.sizes,
    aten.split_with_sizes.default,
    aten.unbind.int,
}
"""Operators that are linear in their first argument and read no other tensor's elements."""

_DROPOUTS: Final = frozenset({aten.dropout.default, aten.feature_dropout.default})
_WHERE: Final = frozenset({aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf, aten.where.Scalar})
_FILLS: Final = frozenset({aten.masked_fill.Scalar, aten.masked_fill.Tensor})
_SUMS: Final = frozenset({aten.sum.dim_IntList, aten.mean.dim, aten.adaptive_avg_pool1d.default})
_PRODUCTS: Final = frozenset({aten.bmm.default, aten.matmul.default, aten.mul.Tensor})
_MAXIMA: Final = frozenset({aten.amax.default, aten.max.dim})


@dataclass(slots=True)
class Paths:
    """Nodes that an embedding's vectors reach."""

    linear: set[fx.Node] = field(default_factory=set)
    """Nodes that are linear in the vectors, but for what is added; the embedding is the first."""
    sums: list[fx.Node] = field(default_factory=list)
    """Reductions at which they end: linear ones."""
    maxima: list[fx.Node] = field(default_factory=list)
    """Those that take the largest: the node of its values."""
    factors: dict[fx.Node, bool] = field(default_factory=dict)
    """Nodes that say how much a vector counts: what multiplies or masks it; whether by dividing."""
    added: dict[fx.Node, list[Any]] = field(default_factory=dict)
    """What a linear node adds: nodes and numbers."""

    @property
    def ends(self) -> list[fx.Node]:
        """Reductions, of either kind."""
        return self.sums + self.maxima


def paths_of(embedding: fx.Node, length: int) -> Paths | None:
    """Follow the vectors of a sequence of `length` ids; None when they are used by anything else than reductions."""
    paths = Paths()
    pending = [embedding]
    while pending:
        node = pending.pop()
        if node in paths.linear:
            continue
        paths.linear.add(node)
        for user in node.users:
            if node not in inputs_read(user):
                continue
            if user.target in _MAXIMA:
                if (values := _maximum(user)) is None:
                    return None
                paths.maxima.append(values)
            elif not _follow(paths, user, node):
                return None
            elif _is_end(user, node, length):
                paths.sums.append(user)
            else:
                pending.append(user)
    paths.sums, paths.maxima = list(dict.fromkeys(paths.sums)), list(dict.fromkeys(paths.maxima))
    if not paths.ends or any(each in paths.linear for each in [*paths.factors, *paths.sums]):
        return None  # something is multiplied by what depends on the vectors themselves
    return paths


def always_zero(probe: Probe, each: Any) -> bool:
    """Return whether something that is added to vectors is nothing."""
    if not isinstance(each, fx.Node):
        return bool(each == 0)
    if each.target in (aten.zeros.default, aten.zeros_like.default, aten.new_zeros.default):
        return True
    if probe.reads(each):
        return False
    value = probe.evaluate(each, probe.example(1))
    return isinstance(value, Tensor) and not bool(value.any())


def _follow(paths: Paths, user: fx.Node, node: fx.Node) -> bool:
    """Note what one operator does to the vectors in `node`; return whether it is linear in them."""
    if not isinstance(kind := user.meta.get("val"), Tensor) or kind.dtype not in _FLOATS:
        return False
    target, args = user.target, values_of(user)
    if target in _ALONG or target in _SUMS:
        return args[0] is node
    if target in _DROPOUTS:
        return args[0] is node and args[2] is False
    if target in _PRODUCTS:
        return _multiply(paths, node, args[:2])
    if target is aten.einsum.default:
        return _multiply(paths, node, args[1])
    if target is aten.div.Tensor:
        return args[0] is node and _multiply(paths, node, args[:2], divides=True)
    if target in JOINS:
        return _add(paths, user, args[0])
    if target in (aten.add.Tensor, aten.sub.Tensor, aten.add.Scalar, aten.sub.Scalar):
        return _add(paths, user, args[:2])
    if target in _FILLS:
        return args[0] is node and _multiply(paths, node, [args[1]]) and _add(paths, user, [node, args[2]])
    if target in _WHERE:
        return args[0] is not node and _multiply(paths, node, [args[0]]) and _add(paths, user, args[1:3])
    if target is aten.index_put.default:
        masks = [each for each in args[1] if each is not None]
        return args[0] is node and args[3] is False and _multiply(paths, node, masks) and _add(paths, user, args[::2])
    return False


def _multiply(paths: Paths, node: fx.Node, operands: list[Any], *, divides: bool = False) -> bool:
    others = [each for each in operands if each is not node]
    paths.factors.update({each: divides for each in others if isinstance(each, fx.Node)})
    return sum(each is node for each in operands) <= 1


def _add(paths: Paths, user: fx.Node, operands: list[Any]) -> bool:
    paths.added[user] = [each for each in operands if not isinstance(each, fx.Node) or each not in paths.linear]
    return True


def _is_end(user: fx.Node, node: fx.Node, length: int) -> bool:
    """Return whether an operator leaves one vector of the sequence's many."""
    if user.target not in _SUMS | _PRODUCTS | {aten.einsum.default} or user.target is aten.mul.Tensor:
        return False
    before, after = (each.meta["val"].shape[1:].numel() for each in (node, user))
    return bool(after * length <= before)


def _maximum(user: fx.Node) -> fx.Node | None:
    """Return the values of a maximum over the middle one of (B, L, D), if nothing else of it is used."""
    args = values_of(user)
    dims = args[1] if isinstance(args[1], list | tuple) else [args[1]]
    if args[0].meta["val"].dim() != 3 or [each % 3 for each in dims] != [1]:
        return None
    if user.target is aten.amax.default:
        return user
    parts = [each for each in user.users if each.users]
    return parts[0] if len(parts) == 1 and parts[0].target is operator.getitem and parts[0].args[1] == 0 else None
