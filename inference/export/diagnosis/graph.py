"""Things in a graph that a served model cannot have: chance, and numbers taken out of the whole batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import torch
from torch import fx
from torch.utils._python_dispatch import TorchDispatchMode

from ringpull.inference.export.diagnosis.places import Place, place_now, place_of_node
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


def check_graph(described: str, graph: fx.Graph, run: Callable[[], object]) -> None:
    """Check that a graph computes the same each time, and nothing of the batch as a whole that is a number.

    Args:
        run: Runs the module as it is: torch notes in a graph which `forward` an operator is of, not which function.

    Raises:
        ExportError: It does; the message names the operator and its line.
    """
    reached: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or any(each in reached for each in node.all_input_nodes):
            reached.add(node)
        if not isinstance(node.target, torch._ops.OpOverload):
            continue
        name = _name(node.target)
        if _is_random(node, name):
            at = _at(node, run, numbers=False)
            raise ExportError(
                f"{described} is random in evaluation, by {name}{at}: the same row would score differently each time."
                " Give F.dropout training=self.training, or use nn.Dropout; draw numbers once, in __init__"
            )
        if name in _NUMBERS and node in reached and node.users:
            at = _at(node, run, numbers=True)
            raise ExportError(
                f"{described} makes a number of a tensor{at}: it would be one for all rows of a batch, which are of"
                " several requests. Keep it a tensor, one value per row"
            )


def _at(node: fx.Node, run: Callable[[], object], *, numbers: bool) -> str:
    with _Watch(numbers=numbers) as watch, suppress(Exception):  # of the module, which was looked at before
        run()
    place = watch.place or place_of_node(node)
    return "" if place is None else f", at {place}"


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A context that notes the first line of the user's at which an operator draws, or a number is taken."""

    def __init__(self, *, numbers: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.place: Place | None = None
        self._numbers = numbers

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if self.place is None:
            name = _name(func)
            if name in _NUMBERS if self._numbers else _draws(func, name, [*args], kwargs or {}):
                self.place = place_now()
        return func(*args, **(kwargs or {}))


def _name(target: Any) -> str:
    return str(target._schema.name).rpartition("::")[2]


def _is_random(node: fx.Node, name: str) -> bool:
    target: Any = node.target
    return bool(node.users or target._schema.is_mutable) and _draws(target, name, list(node.args), node.kwargs)


def _draws(target: Any, name: str, args: list[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether an operator is one of chance, and not switched off by its arguments."""
    if name.removesuffix("_") not in _CHANCE and torch.Tag.nondeterministic_seeded not in target.tags:
        return False
    parameters = target._schema.arguments
    given = {each.name: each.default_value for each in parameters}
    given |= dict(zip([each.name for each in parameters], args, strict=False)) | dict(kwargs)
    if any(given.get(each) is False for each in _SWITCHES):
        return False
    shares = [given[each] for each in _SHARES if each in given]
    return not (shares and all(share in (0, None) for share in shares))
