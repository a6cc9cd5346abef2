"""Margins of boosted trees, and what an objective makes scores of: nodes of an ONNX graph behind a forest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from ringpull.inference.importers.forest import Forest

Link = Literal["identity", "sigmoid", "exp", "softmax", "softplus", "signed_square", "step", "class"]
"""What scores are made of margins by; `class` is the number of the largest margin, `step` whether it is above 0."""

OPSET: Final = 17

_ONE: Final[dict[Link, str]] = {"identity": "Identity", "sigmoid": "Sigmoid", "exp": "Exp", "softplus": "Softplus"}


@dataclass(frozen=True, slots=True, eq=False)
class BoostedTrees:
    """A model of boosted trees."""

    forest: Forest
    """Trees over columns of one matrix, and the margins that they add up to."""
    link: Link
    scale: float = 1.0
    """Number that margins are multiplied with before the link: of a sigmoid its steepness."""
    whole_columns: tuple[int, ...] = ()
    """Columns that hold categories: of their numbers only the integer is compared."""
    rounding: Literal["toward zero", "down"] = "toward zero"
    """How the integer of a number is found: of -0.5 it is 0 or -1."""

    def nodes(self, given: str, result: str, columns: int) -> tuple[list[NodeProto], list[TensorProto]]:
        """Return nodes, and initializers of them, that make scores (B, targets), or (B, 1) of `step` and `class`.

        Args:
            given: Name of the matrix (B, columns), float32.
            result: Name of the scores; names of all other tensors begin with it.
            columns: Its number of columns.
        """
        front, initializers = self._whole(given, result, columns)
        margins = f"{result}/margins"
        nodes = [*front, self.forest.node(front[-1].output[0] if front else given, margins)]
        if self.scale != 1:
            initializers.append(_tensor(f"{result}/scale", np.array(self.scale, np.float32)))
            nodes.append(_node("Mul", [margins, f"{result}/scale"], f"{result}/scaled"))
            margins = f"{result}/scaled"
        back, more = _linked(self.link, margins, result)
        return [*nodes, *back], [*initializers, *more]

    def _whole(self, given: str, result: str, columns: int) -> tuple[list[NodeProto], list[TensorProto]]:
        """Return nodes that make integers of columns of categories, as sources do before they compare."""
        if not self.whole_columns:
            return [], []
        chosen = np.zeros((1, columns), np.bool_)
        chosen[0, list(self.whole_columns)] = True
        made = f"{result}/whole"
        whole = [_node("Floor", [given], f"{made}/integers")]
        if self.rounding == "toward zero":
            whole = [
                _node("Abs", [given], f"{made}/sizes"),
                _node("Floor", [f"{made}/sizes"], f"{made}/floors"),
                _node("Sign", [given], f"{made}/signs"),
                _node("Mul", [f"{made}/floors", f"{made}/signs"], f"{made}/integers"),
            ]
        nodes = [*whole, _node("Where", [f"{made}/chosen", f"{made}/integers", given], made)]
        return nodes, [_tensor(f"{made}/chosen", chosen)]


def _linked(link: Link, margins: str, result: str) -> tuple[list[NodeProto], list[TensorProto]]:
    if link in _ONE:
        return [_node(_ONE[link], [margins], result)], []
    if link == "softmax":
        return [_node("Softmax", [margins], result, axis=1)], []
    if link == "class":
        largest = f"{result}/largest"
        return [
            _node("ArgMax", [margins], largest, axis=1, keepdims=1),
            _node("Cast", [largest], result, to=TensorProto.FLOAT),
        ], []
    if link == "step":
        zero = _tensor(f"{result}/zero", np.array(0, np.float32))
        return [
            _node("Greater", [margins, zero.name], f"{result}/above"),
            _node("Cast", [f"{result}/above"], result, to=TensorProto.FLOAT),
        ], [zero]
    return [
        _node("Abs", [margins], f"{result}/size"),
        _node("Mul", [margins, f"{result}/size"], result),
    ], []


def _node(kind: str, inputs: list[str], result: str, **attributes: Any) -> NodeProto:
    return helper.make_node(kind, inputs, [result], result, **attributes)


def _tensor(name: str, values: Any) -> TensorProto:
    return numpy_helper.from_array(np.asarray(values), name)
