"""Weights that stay in the dense program, and why: the report says so of each that is looked up, or large."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor, fx

from ringpull.inference.export.capture import Captured
from ringpull.inference.export.diagnosis.places import written_at
from ringpull.inference.export.kept_weight import LARGE_BYTES, KeptWeight
from ringpull.inference.export.operators import BAGS, EMBEDDINGS, aten
from ringpull.inference.export.probe import Probe
from ringpull.ps.errors import ExportError
from ringpull.ps.text.byte_size import size

RAGGED_PARTS: Final = ("values", "offsets", "weights")

_BY_IDS: Final = frozenset(
    {
        aten.index.Tensor,
        aten.index_select.default,
        aten.gather.default,
        aten.take.default,
        aten.take_along_dim.default,
    }
)
"""Operators that read what their second tensor says; those that are look-ups became embeddings."""

_TOLD_USES: Final = 3
"""Uses of one weight that are told."""


def looked_up_weights(captured: Captured, probe: Probe) -> list[fx.Node]:
    """Return the weights that are read by ids, directly or after computing something of them."""
    found: dict[fx.Node, None] = {}
    seen: set[fx.Node] = set()
    for node in captured.graph_module.graph.nodes:
        if node.target in EMBEDDINGS | BAGS or _reads_by_ids(probe, node):
            pending = [node.args[0]]
            while pending:
                each = pending.pop()
                if each in seen:
                    continue
                seen.add(each)
                if each in captured.weights:
                    found[each] = None
                pending += each.all_input_nodes
    return list(found)


def _reads_by_ids(probe: Probe, node: fx.Node) -> bool:
    """Return whether a node reads what is computed of weights alone by what the request holds."""
    if node.target not in _BY_IDS:
        return False
    source, *others = node.all_input_nodes
    return not probe.reads(source) and any(probe.reads(each) for each in others)


@dataclass(frozen=True, slots=True)
class Stay:
    """One use of a weight that needs it in the dense program."""

    user: fx.Node
    reason: str
    """Why it is no look-up in a table; of a look-up as in "its index is constant"."""

    @property
    def by_ids(self) -> bool:
        return self.user.target in EMBEDDINGS | BAGS | _BY_IDS

    def told(self, copy: bool) -> str:
        """Return the reason as a sentence for people."""
        where = written_at(self.user)
        if self.by_ids:
            return f"{self.reason}{where}"
        operator = str(self.user.target)
        return f"all its rows are {'also ' if copy else ''}used by {operator}{where}"


def keep(probe: Probe, weight: fx.Node, stays: Collection[Stay], *, is_table: bool, max_dense_bytes: int) -> KeptWeight:
    """Return what the report says of a weight that is looked up and stays.

    Args:
        probe: Of the graph.
        weight: Node of the weight.
        stays: Its uses that need it in the dense program.
        is_table: Whether its other uses are look-ups in a table.
        max_dense_bytes: The most that may stay.

    Raises:
        ExportError: It is too large to stay, or ragged ids are looked up in it.
    """
    name = probe.captured.weights[weight]
    tensor: Tensor = getattr(probe.captured.graph_module, str(weight.target))
    reasons = list(dict.fromkeys(stay.told(is_table) for stay in stays))
    more = f"; and {len(reasons) - _TOLD_USES} more" if len(reasons) > _TOLD_USES else ""
    reason = "; ".join(reasons[:_TOLD_USES]) + more
    taken = tensor.numel() * tensor.element_size()
    if taken > max_dense_bytes:
        problem = "its look-ups are a table, but a copy would have to stay" if is_table else "it cannot be a table"
        raise ExportError(
            f"embedding {name}: {size(taken)} cannot stay in the dense program (the limit is {size(max_dense_bytes)};"
            f" max_dense_bytes raises it), and {problem}, because {reason}"
        )
    for stay in stays:
        ragged = [each for each in probe.reads(stay.user) if probe.arguments[each].part in RAGGED_PARTS]
        if ragged and stay.user.target in EMBEDDINGS | BAGS:
            raise ExportError(
                f"embedding {name}: it looks up the ragged ids {ragged[0]}, which only a table can, but it cannot be"
                f" one, because {reason}"
            )
    return KeptWeight(name, taken, reason, copy=is_table)


def large_weights(
    captured: Captured, graph: fx.Graph, kept: Collection[KeptWeight], tables: Collection[str], limit: int
) -> list[KeptWeight]:
    """Return the large weights of the dense program that are not among those kept, the largest first."""
    told = {each.name for each in kept}
    found: dict[str, KeptWeight] = {}
    for node in graph.nodes:
        tensor: Any = getattr(captured.graph_module, str(node.target), None) if node.op == "get_attr" else None
        name = captured.weights.get(node)
        if name is None or name in told or not isinstance(tensor, Tensor):
            continue
        taken = tensor.numel() * tensor.element_size()
        if taken >= LARGE_BYTES:
            users = dict.fromkeys(f"{user.target}{written_at(user)}" for user in _telling(node))
            above = f"; it is above max_dense_bytes ({size(limit)})" if taken > limit else ""
            reason = f"all of it is used by {', '.join(list(users)[:_TOLD_USES])}{above}"
            found[name] = KeptWeight(name, taken, reason, copy=name in tables)
    return sorted(found.values(), key=lambda each: -each.bytes)


def _telling(weight: fx.Node) -> list[fx.Node]:
    """Return the users of a weight, those of what only moves it instead of that."""
    found: list[fx.Node] = []
    pending = list(weight.users)
    while pending:
        user = pending.pop(0)
        if user.target in (aten.t.default, aten.numpy_T.default, aten.transpose.int, aten.detach.default):
            pending += user.users
        else:
            found.append(user)
    return found
