"""The whole model as a plain graph: what the user's module computes, before its look-ups were cut out.

Tables of a short row type hold other numbers than the module. To tell that difference from a fault of the export, the
plain model is run with the rows as tables hold them, in just those look-ups that became pulls: the weights that such a
look-up reads may be computed of the module's, or be used elsewhere with their own numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import torch
from torch import Tensor, fx

from ringpull.inference.export.capture import Captured
from ringpull.inference.export.operators import BAGS
from ringpull.inference.export.tables import TablePlan

_PADDING_IDX: Final = 8
"""Place of `padding_idx` among the arguments of a bag's operator, whose value is None or -1 when there is none."""


@dataclass(frozen=True, slots=True, eq=False)
class PlainModel:
    """A captured module to be run."""

    described: str
    module: fx.GraphModule
    names: tuple[str, ...]
    """Arguments, in the graph's order."""
    tables: Mapping[fx.Node, str]
    """Table of each look-up that became a pull."""
    plans: Mapping[str, TablePlan] = field(default_factory=dict)
    """Tables whose rows are taken instead of the weight's."""

    @classmethod
    def of(cls, captured: Captured, tables: Mapping[fx.Node, str]) -> PlainModel:
        """Copy a graph; its weights are shared."""
        graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        graph.output(graph.graph_copy(captured.graph_module.graph, copies))
        module = fx.GraphModule(captured.graph_module, graph)
        looked_up = {copies[node]: table for node, table in tables.items()}
        return cls("the model as a plain graph", module, tuple(captured.arguments), looked_up)

    @property
    def owner(self) -> fx.GraphModule:
        """The module that has the weights."""
        return self.module

    def serving(self, plans: Iterable[TablePlan]) -> PlainModel:
        """Return the same model, whose look-ups give rows as tables hold them; only those that round take part."""
        return replace(self, plans={plan.keys.table: plan for plan in plans if plan.rounds})

    def run(self, tensors: Mapping[str, Tensor]) -> Any:
        """Return the outputs for arguments by name."""
        return _Serving(self).run(*(tensors[name] for name in self.names))


class _Serving(fx.Interpreter):
    """Runs a plain model with tables' rows."""

    def __init__(self, model: PlainModel) -> None:
        super().__init__(model.module)
        self._model = model

    def run_node(self, n: fx.Node) -> Any:
        plan = self._model.plans.get(self._model.tables.get(n, ""))
        if plan is None:
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if args[1].numel():
            args = _with_served_rows(plan, args, bag=n.target in BAGS)
        return self.call_function(n.target, args, kwargs)


def _with_served_rows(plan: TablePlan, args: tuple[Any, ...], *, bag: bool) -> tuple[Any, ...]:
    """Return an embedding operator's arguments with a weight of only the rows asked for, and ids that count those."""
    ids: Tensor = args[1]
    rows, places = torch.unique(ids, return_inverse=True)
    weight = torch.from_numpy(plan.served_rows(rows.cpu().numpy())).to(ids.device, args[0].dtype)
    rest = list(args[2:])
    if bag and len(args) > _PADDING_IDX and args[_PADDING_IDX] is not None:
        found = (rows == args[_PADDING_IDX]).nonzero()
        rest[_PADDING_IDX - 2] = int(found[0]) if len(found) else None
    elif not bag:
        rest = []  # the padding_idx of an embedding counts for gradients alone
    return (weight, places.to(ids.dtype), *rest)
