"""Cutting a captured graph in two: look-ups, which become pulls, and the dense program, which takes their results.

A weight becomes a table when every use of it is a look-up that a pull can express (`ringpull.inference.export.uses`).
Otherwise it stays in the dense program, up to `MAX_DENSE_BYTES`, and the reason is kept for the report. Nothing is
guessed: what fits neither side is an `ExportError` that names the embedding and the reason.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, fx, nn

from ringpull.inference.export.bags import read_bag
from ringpull.inference.export.capture import Captured
from ringpull.inference.export.index import NotPlain, read_index
from ringpull.inference.export.operators import BAGS, EMBEDDINGS, aten
from ringpull.inference.export.pooling import read_pools
from ringpull.inference.export.probe import Probe
from ringpull.inference.export.sizes import free_sizes, number_of_rows
from ringpull.inference.export.uses import Plan, Use, read_vectors
from ringpull.ps.byte_size import size
from ringpull.ps.errors import ExportError

MAX_DENSE_BYTES: Final = 64 * 1024 * 1024
"""Largest embedding that may stay in the dense program."""

RAGGED_PARTS: Final = ("values", "offsets", "weights")


@dataclass(frozen=True, slots=True)
class KeptWeight:
    """An embedding that stays in the dense program."""

    name: str
    bytes: int
    reason: str


@dataclass(frozen=True, slots=True)
class Cut:
    """A model in two parts."""

    program: fx.GraphModule
    """Dense part, which takes the vectors of `uses`, in their order, then `arguments`."""
    uses: tuple[Use, ...]
    arguments: tuple[str, ...]
    tables: Mapping[str, Tensor]
    """Weight of each table by name: the module's own tensor (rows, dim)."""
    kept: tuple[KeptWeight, ...]
    limits: Mapping[str, tuple[int, int]]
    """Bounds [low, high) of each feature's ids: within every embedding it is looked up in, table or not."""


@dataclass
class _Inputs:
    """The new inputs of the graph, made as they are asked for; the same look-up is one input."""

    graph: fx.Graph
    before: fx.Node
    nodes: dict[Use, fx.Node] = field(default_factory=dict)

    def look_up(self, use: Use) -> fx.Node:
        if use not in self.nodes:
            with self.graph.inserting_before(self.before):
                self.nodes[use] = self.graph.placeholder(f"lookup_{len(self.nodes)}")
        return self.nodes[use]


def cut(captured: Captured, probe: Probe) -> Cut:
    """Take the look-ups out of a captured graph, which is changed.

    Raises:
        ExportError: An embedding can neither be a table nor stay, or ragged ids are used outside of look-ups.
    """
    graph = captured.graph_module.graph
    rows = number_of_rows(probe, graph)
    free_sizes(probe, graph, rows)
    plans, kept = _plan(captured, probe)
    limits = _limits(captured, probe)
    inputs = _Inputs(graph, next(iter(graph.nodes)))
    tables = {}
    for node, plan in plans.items():
        weight: Any = node.args[0]
        tables[captured.weights[weight]] = getattr(captured.graph_module, str(weight.target))
        with graph.inserting_before(node):
            built = plan.build(probe, graph, inputs.look_up)
        for result in [node] if node.target in EMBEDDINGS else _pooled_results(node):
            result.replace_all_uses_with(built)
    graph.eliminate_dead_code()
    # From here on, the number of rows is that of an input which stays.
    named = [name for name, node in captured.arguments.items() if set(node.users) - {rows, *rows.all_input_nodes}]
    lookups = list(inputs.nodes.values())
    staying = next(iter([*lookups, *(captured.arguments[name] for name in named)]), None)
    if staying is None:
        raise ExportError("the module's outputs depend on none of its arguments")
    with graph.inserting_before(rows):
        rows.replace_all_uses_with(graph.call_function(aten.sym_size.int, (staying, 0)))
    graph.eliminate_dead_code()
    for name, node in captured.arguments.items():
        if not node.users:
            graph.erase_node(node)
        elif probe.arguments[name].part in RAGGED_PARTS:
            raise _ragged_use(name, probe, node)
    program = _with_used_weights(captured.graph_module, graph)
    return Cut(program, tuple(inputs.nodes), tuple(named), tables, tuple(kept), limits)


def _plan(captured: Captured, probe: Probe) -> tuple[dict[fx.Node, Plan], list[KeptWeight]]:
    """Decide for each embedding whether it becomes a table; return a plan for every look-up of those that do."""
    plans: dict[fx.Node, Plan] = {}
    kept: list[KeptWeight] = []
    for weight in _looked_up_weights(captured):
        name = captured.weights[weight]
        tensor = getattr(captured.graph_module, str(weight.target))
        found: dict[fx.Node, Plan] = {}
        try:
            if tensor.dtype != torch.float32 or tensor.dim() != 2:
                raise NotPlain(f"it holds {tensor.dtype} {tuple(tensor.shape)}; tables hold float32 (rows, dim)")
            for user in weight.users:
                found[user] = _read_use(probe, weight, user)
            plans |= found
        except NotPlain as reason:
            kept.append(_keep(probe, weight, name, tensor, str(reason)))
    return plans | read_pools(probe, plans), kept


def _looked_up_weights(captured: Captured) -> list[fx.Node]:
    """Return the weights that an embedding operator reads, directly or after computing something of them."""
    found: dict[fx.Node, None] = {}
    for node in captured.graph_module.graph.nodes:
        if node.target in EMBEDDINGS | BAGS:
            pending = [node.args[0]]
            while pending:
                each = pending.pop()
                if each in captured.weights:
                    found[each] = None
                pending += each.all_input_nodes
    return list(found)


def _limits(captured: Captured, probe: Probe) -> dict[str, tuple[int, int]]:
    limits: dict[str, tuple[int, int]] = {}
    for node in captured.graph_module.graph.nodes:
        if node.target not in EMBEDDINGS | BAGS:
            continue
        rows = node.args[0].meta["val"].shape[0]
        try:
            adds = read_index(probe, node.args[1])
        except NotPlain:  # then the embedding stays in the dense program, and nothing is known of its ids
            continue
        for source, add in adds.items():
            low, high = limits.get(source.feature, (-add, rows - add))
            limits[source.feature] = max(low, -add), min(high, rows - add)
    return limits


def _read_use(probe: Probe, weight: fx.Node, user: fx.Node) -> Plan:
    first, *others = user.args
    if first is weight and weight not in others:
        if user.target in EMBEDDINGS:
            return read_vectors(probe, user)
        if user.target in BAGS:
            if any(each.args[1] != 0 for each in user.users):
                raise NotPlain("more of its bags is used than the pooled vectors")
            return read_bag(probe, user)
    raise NotPlain(f"it is also used by {user.target}, not only looked up (tied or computed weights)")


def _keep(probe: Probe, weight: fx.Node, name: str, tensor: Tensor, reason: str) -> KeptWeight:
    taken = tensor.numel() * tensor.element_size()
    if taken > MAX_DENSE_BYTES:
        raise ExportError(
            f"embedding {name}: {size(taken)} cannot stay in the dense program (the limit is"
            f" {size(MAX_DENSE_BYTES)}), and it cannot be a table, because {reason}"
        )
    for user in weight.users:
        ragged = [each for each in probe.reads(user) if probe.arguments[each].part in RAGGED_PARTS]
        if ragged and user.target in EMBEDDINGS | BAGS:
            raise ExportError(
                f"embedding {name}: it looks up the ragged ids {ragged[0]}, which only a table can, but it cannot be"
                f" one, because {reason}"
            )
    return KeptWeight(name, taken, reason)


def _pooled_results(bag: fx.Node) -> list[fx.Node]:
    return [user for user in bag.users if user.target is operator.getitem and user.args[1] == 0]


def _ragged_use(name: str, probe: Probe, node: fx.Node) -> ExportError:
    feature = probe.arguments[name].features[0]
    users = ", ".join(sorted(str(user.target) for user in node.users))
    return ExportError(
        f"argument {name}: feature {feature} is ragged, and is used outside of look-ups, by {users}; its ids can only"
        " be looked up, by nn.EmbeddingBag. Declare it Sequence to use its ids otherwise"
    )


def _with_used_weights(module: fx.GraphModule, graph: fx.Graph) -> fx.GraphModule:
    root = nn.Module()
    for node in graph.nodes:
        if node.op == "get_attr":
            setattr(root, str(node.target), getattr(module, str(node.target)))
    return fx.GraphModule(root, graph)
