"""Things in a graph that a served model cannot have: chance, and numbers taken out of the whole batch."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import fx

from ringpull.inference.export.diagnosis_places import place_of_node
from ringpull.inference.export.operators import values_of
from ringpull.ps.errors import ExportError

_CHANCE: Final = frozenset(
    {
        "alpha_dropout",
        "dropout",
        "feature_alpha_dropout",
        "feature_dropout",
        "gru",
        "lstm",
        "native_dropout",
        "rnn_relu",
        "rnn_tanh",
        "rrelu",
        "rrelu_with_noise",
    }
)
"""Operators that are random only in training, or by a share above 0; some of them torch does not tag."""
_SWITCHES: Final = ("train", "training")
_SHARES: Final = ("p", "dropout", "dropout_p")
_NUMBERS: Final = ("item", "_local_scalar_dense")


def check_graph(described: str, graph: fx.Graph) -> None:
    """Check that a graph computes the same each time, and nothing of the batch as a whole that is a number.

    Raises:
        ExportError: It does; the message names the operator and its line.
    """
    reached: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or any(each in reached for each in node.all_input_nodes):
            reached.add(node)
        if not isinstance(node.target, torch._ops.OpOverload):
            continue
        name = node.target._schema.name.rpartition("::")[2]
        place = place_of_node(node)
        at = "" if place is None else f", at {place}"
        if _is_random(node, name):
            raise ExportError(
                f"{described} is random in evaluation, by {name}{at}: the same row would score differently each time."
                " Give F.dropout training=self.training, or use nn.Dropout; draw numbers once, in __init__"
            )
        if name in _NUMBERS and node in reached and node.users:
            raise ExportError(
                f"{described} makes a number of a tensor{at}: it would be one for all rows of a batch, which are of"
                " several requests. Keep it a tensor, one value per row"
            )


def _is_random(node: fx.Node, name: str) -> bool:
    target: Any = node.target
    plain = name.removesuffix("_")
    if plain not in _CHANCE and torch.Tag.nondeterministic_seeded not in target.tags:
        return False
    if not node.users and not target._schema.is_mutable:
        return False
    names = [each.name for each in target._schema.arguments]
    given = dict(zip(names, values_of(node), strict=True))
    if any(given.get(each) is False for each in _SWITCHES):
        return False
    shares = [given[each] for each in _SHARES if each in given]
    return not (shares and all(share in (0, None) for share in shares))
