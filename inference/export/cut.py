"""Cutting a captured graph in two: look-ups, which become pulls, and the dense program, which takes their results.

A weight becomes a table when it is looked up in a way that a pull can express (`ringpull.inference.export.uses`). Where
other uses need it, too, or none is such a look-up, it stays in the dense program, up to `MAX_DENSE_BYTES` or what the
exporter says, and the reason is kept for the report (`ringpull.inference.export.staying`). Nothing is guessed: what
fits neither side is an `ExportError` that names the embedding and the reason.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain, count
from typing import Any, Final

import torch
from torch import Tensor, fx, nn

from ringpull.inference.export.bags import read_bag
from ringpull.inference.export.capture import Captured
from ringpull.inference.export.indices.choices import read_lookup
from ringpull.inference.export.indices.fixed_rows import FixedRows
from ringpull.inference.export.indices.index import NotPlain
from ringpull.inference.export.indices.indexed import read_ranges
from ringpull.inference.export.kept_weight import KeptWeight
from ringpull.inference.export.operators import BAGS, EMBEDDINGS, aten
from ringpull.inference.export.plain_model import PlainModel
from ringpull.inference.export.pools.pooling import read_pools
from ringpull.inference.export.probe import Probe
from ringpull.inference.export.ranges import IdRange
from ringpull.inference.export.sizes import free_sizes, number_of_rows
from ringpull.inference.export.staying import RAGGED_PARTS, Stay, keep, large_weights, looked_up_weights
from ringpull.inference.export.uses import Plan, Use
from ringpull.inference.schema.key_expressions import KeyExpression
from ringpull.inference.schema.kinds import Computed
from ringpull.ps.errors import ExportError

MAX_DENSE_BYTES: Final = 64 * 1024 * 1024
"""Largest embedding that may stay in the dense program."""

_LONGEST_NAME: Final = 100
"""Characters of the name of a feature that a look-up of several needs."""

TABLE_TYPES: Final = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
"""Types of weights that tables can take the place of: vectors come as float32, and are cast back."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A model in two parts."""

    program: fx.GraphModule
    """Dense part, which takes the vectors of `uses`, in their order, then `arguments`."""
    uses: tuple[Use, ...]
    arguments: tuple[str, ...]
    tables: Mapping[str, Tensor]
    """Weight of each table by name: the module's own tensor (rows, dim), or one that was computed of its weights."""
    kept: tuple[KeptWeight, ...]
    """Embeddings that stay in the dense program, and copies of tables."""
    large: tuple[KeptWeight, ...]
    """Other weights of the dense program of `LARGE_BYTES` or more."""
    plain: PlainModel
    """The whole model as it was before."""
    ranges: tuple[IdRange, ...]
    """Ids that each look-up has a row for, of tables and of whatever the dense program indexes."""
    argument_features: tuple[tuple[str, ...], ...] = ()
    """Features of each of `arguments`."""
    computed: tuple[Computed, ...] = ()
    """Features that look-ups of several ids need."""


@dataclass
class _Inputs:
    """The new inputs of the graph, made as they are asked for; the same look-up is one input."""

    graph: fx.Graph
    before: fx.Node
    taken: Collection[str]
    """Names that no more feature may have."""
    nodes: dict[Use, fx.Node] = field(default_factory=dict)
    computed: dict[tuple[tuple[str, ...], KeyExpression], Computed] = field(default_factory=dict)

    def look_up(self, use: Use) -> fx.Node:
        if use.more and use.key is not None:
            use = replace(use, feature=self._computed(use.features, use.key).name, key=None, more=())
        if use not in self.nodes:
            with self.graph.inserting_before(self.before):
                self.nodes[use] = self.graph.placeholder(f"lookup_{len(self.nodes)}")
        return self.nodes[use]

    def _computed(self, of: tuple[str, ...], key: KeyExpression) -> Computed:
        if (of, key) not in self.computed:
            stem = "_x_".join(of)[:_LONGEST_NAME]
            taken = {*self.taken, *(each.name for each in self.computed.values())}
            name = next(each for each in chain([stem], map((stem + "_{}").format, count(2))) if each not in taken)
            self.computed[of, key] = Computed(name, of, key)
        return self.computed[of, key]


def cut(captured: Captured, probe: Probe, max_dense_bytes: int = MAX_DENSE_BYTES) -> Cut:
    """Take the look-ups out of a captured graph, which is changed; what stays has at most `max_dense_bytes`.

    Raises:
        ExportError: An embedding can neither be a table nor stay, or ragged ids are used outside of look-ups.
    """
    graph = captured.graph_module.graph
    rows = number_of_rows(probe, graph)
    free_sizes(probe, graph, rows)
    plans, kept = _plan(captured, probe, max_dense_bytes)
    ranges = read_ranges(captured, probe, plans)
    taken = {*probe.schema.argument_names(), *(each.name for each in probe.schema.features)}
    plain = PlainModel.of(captured, {node: captured.weights[node.args[0]] for node in plans})  # type: ignore[index]
    inputs = _Inputs(graph, next(iter(graph.nodes)), taken)
    tables = {}
    for node, plan in plans.items():
        weight: Any = node.args[0]
        tensor = getattr(captured.graph_module, str(weight.target))
        tables[captured.weights[weight]] = tensor
        with graph.inserting_before(node):
            built = plan.build(probe, graph, inputs.look_up)
            if tensor.dtype != torch.float32:
                built = graph.call_function(aten.to.dtype, (built, tensor.dtype))
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
    large = large_weights(captured, graph, kept, tables, max_dense_bytes)
    return Cut(
        program,
        tuple(inputs.nodes),
        tuple(named),
        tables,
        tuple(kept),
        tuple(large),
        plain,
        ranges.of_nodes(graph.nodes),
        tuple(probe.arguments[name].features for name in named),
        tuple(inputs.computed.values()),
    )


def _plan(captured: Captured, probe: Probe, max_dense_bytes: int) -> tuple[dict[fx.Node, Plan], list[KeptWeight]]:
    """Decide for each embedding whether it becomes a table; return a plan for every look-up of those that do."""
    plans: dict[fx.Node, Plan] = {}
    kept: list[KeptWeight] = []
    for weight in looked_up_weights(captured, probe):
        tensor = getattr(captured.graph_module, str(weight.target))
        found: dict[fx.Node, Plan] = {}
        stays: list[Stay] = []
        for user in weight.users:
            try:
                if tensor.dtype not in TABLE_TYPES or tensor.dim() != 2:
                    raise NotPlain(f"it holds {tensor.dtype} {tuple(tensor.shape)}; tables hold floats (rows, dim)")
                found[user] = _read_use(probe, weight, user)
            except NotPlain as reason:
                stays.append(Stay(user, str(reason)))
        if found:  # then constant rows need no copy of it
            stays = [stay for stay in stays if not _fixed(probe, weight, stay, found)]
        if stays:
            kept.append(keep(probe, weight, stays, is_table=bool(found), max_dense_bytes=max_dense_bytes))
        plans |= found
    return plans | read_pools(probe, plans), kept


def _fixed(probe: Probe, weight: fx.Node, stay: Stay, found: dict[fx.Node, Plan]) -> bool:
    """Plan a look-up of a table by constants, if that is what it is."""
    user = stay.user
    if user.target not in EMBEDDINGS or user.args[0] is not weight or not isinstance(user.args[1], fx.Node):
        return False
    try:
        found[user] = FixedRows.read(probe, weight, user.args[1])
    except NotPlain:
        return False
    return True


def _read_use(probe: Probe, weight: fx.Node, user: fx.Node) -> Plan:
    first, *others = user.args
    if first is weight and weight not in others:
        if user.target in EMBEDDINGS:
            return read_lookup(probe, user)
        if user.target in BAGS:
            if any(each.args[1] != 0 for each in user.users):
                raise NotPlain("more of its bags is used than the pooled vectors")
            return read_bag(probe, user)
    raise NotPlain(f"it is used by {user.target}, which is no look-up of its rows")


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
