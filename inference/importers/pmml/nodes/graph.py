"""Graph of ONNX that is made node by node, and the values in it: numbers, categories, and truths.

A number is float64 (B, 1), NaN where it is missing. A category is int64 (B,): 0 any value that nobody mentions, 1 to n
those of its list, n + 1 missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from ringpull.inference.importers.forest import ML_DOMAIN, ML_OPSET
from ringpull.inference.importers.pmml.fields import LARGE, as_single, canonical

OPSET: Final = 17
_IR_VERSION: Final = 8

DOUBLE: Final = TensorProto.DOUBLE


@dataclass(frozen=True, slots=True)
class Number:
    """A number of each row."""

    name: str
    """Tensor, float64 (B, 1), or (1, 1) of a constant."""
    constant: bool = False
    """Whether it is the same of every row."""
    single: bool = False
    """Whether it is a float32, as requests bring them: what it is compared with is rounded to one."""


@dataclass(frozen=True, slots=True, eq=False)
class Category:
    """A category of each row."""

    name: str
    """Tensor, int64 (B,)."""
    values: tuple[str, ...]
    data_type: str
    codes: dict[str, int]
    """Number of each value, from 1."""

    @classmethod
    def of(cls, name: str, values: Sequence[str], data_type: str = "string") -> Category:
        """Return a category of these values."""
        return cls(name, tuple(values), data_type, {each: number for number, each in enumerate(values, 1)})

    @property
    def missing(self) -> int:
        """Number of what is missing."""
        return len(self.values) + 1

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return len(self.values) + 2

    def code(self, text: str) -> int | None:
        """Return the number of a value, or None where it is not among them."""
        return self.codes.get(canonical(self.data_type, text))


Value = Number | Category


@dataclass(frozen=True, slots=True)
class Truth:
    """Truth of each row: tensors of bool (B, 1). What is unknown is not true."""

    true: str
    unknown: str | None
    """None: it is never unknown."""


class Graph:
    """A graph that grows."""

    def __init__(self) -> None:
        self._nodes: list[NodeProto] = []
        self._initializers: dict[tuple[str, tuple[int, ...], bytes], TensorProto] = {}
        self._taken: set[str] = set()
        self._inputs: list[ValueInfoProto] = []
        self._made: dict[tuple[object, ...], str] = {}
        self._rows: str | None = None

    def input(self, name: str, kind: int, dims: list[str | int]) -> str:
        """Add an input."""
        self._inputs.append(helper.make_tensor_value_info(name, kind, dims))
        return name

    def node(self, kind: str, inputs: Sequence[str], domain: str = "", **attributes: Any) -> str:
        """Add a node of one output, or return that of an equal one."""
        key = (kind, tuple(inputs), repr(sorted(attributes.items()))) if len(attributes) < 4 else (len(self._nodes),)
        if key not in self._made:
            name = f"{kind}_{len(self._nodes)}"
            self._nodes.append(helper.make_node(kind, list(inputs), [name], name, domain=domain, **attributes))
            self._made[key] = name
        return self._made[key]

    def several(self, kind: str, inputs: Sequence[str], outputs: int, **attributes: Any) -> list[str]:
        """Add a node of several outputs."""
        name = f"{kind}_{len(self._nodes)}"
        made = [f"{name}_{each}" for each in range(outputs)]
        self._nodes.append(helper.make_node(kind, list(inputs), made, name, **attributes))
        return made

    def tensor(self, values: Any, kind: Any = np.float64, called: str = "") -> str:
        """Return the name of a constant, which may be given one."""
        array = np.ascontiguousarray(values, kind)
        key = array.dtype.str, np.shape(values), array.tobytes()
        if key not in self._initializers:
            name = called if called and called not in self._taken else f"constant_{len(self._initializers)}"
            self._taken.add(name)
            self._initializers[key] = numpy_helper.from_array(array.reshape(np.shape(values)), name)
        return self._initializers[key].name

    def constant(self, number: float) -> Number:
        """Return a number that is the same of every row."""
        return Number(self.tensor([[number]]), True)

    def beside(self, number: Number, value: float) -> str:
        """Return the name of a constant that a number is compared with, or that takes its place."""
        return self.tensor([[as_single(value) if number.single else value]])

    @property
    def rows(self) -> str:
        """The number of rows, int64 (1,)."""
        if self._rows is None:
            shape = self.node("Shape", [self._inputs[0].name])
            self._rows = self.node("Gather", [shape, self.tensor([0], np.int64)], axis=0)
        return self._rows

    def full(self, number: Number) -> str:
        """Return a number as a tensor (B, 1)."""
        return self.full_column(number.name) if number.constant else number.name

    def full_column(self, tensor: str) -> str:
        """Return a tensor (B, 1) or (1, 1) as (B, 1)."""
        return self.rows_of(tensor, 1)

    def rows_of(self, tensor: str, columns: int) -> str:
        """Return a tensor (B, columns), or one that is the same of every row, as (B, columns)."""
        shape = self.node("Concat", [self.rows, self.tensor([columns], np.int64)], axis=0)
        return self.node("Expand", [tensor, shape])

    def joined(self, tensors: Sequence[str], axis: int = 1) -> str:
        """Return tensors side by side."""
        return tensors[0] if len(tensors) == 1 else self.node("Concat", tensors, axis=axis)

    def where(self, condition: str, then: str, otherwise: str) -> str:
        """Return one tensor where a condition is true, another elsewhere."""
        return self.node("Where", [condition, then, otherwise])

    def cast(self, tensor: str, kind: int = DOUBLE) -> str:
        """Return a tensor as another type."""
        return self.node("Cast", [tensor], to=kind)

    def either(self, tensors: Sequence[str]) -> str:
        """Return where one of some tensors of bool is true."""
        return reduce(lambda one, other: self.node("Or", [one, other]), tensors)

    def both(self, tensors: Sequence[str]) -> str:
        """Return where all of some tensors of bool are true."""
        return reduce(lambda one, other: self.node("And", [one, other]), tensors)

    def missing(self, value: Value) -> str:
        """Return where a value is missing, bool (B, 1)."""
        if isinstance(value, Number):
            return self.node("IsNaN", [value.name])
        return self.column(self.node("Equal", [value.name, self.tensor([value.missing], np.int64)]))

    def column(self, tensor: str) -> str:
        """Return a tensor (B,) as (B, 1)."""
        return self.node("Unsqueeze", [tensor, self.tensor([1], np.int64)])

    def looked_up(self, category: Category, table: NDArray[Any], called: str = "") -> str:
        """Return rows of a table (size, K) by a category: (B, K), of the table's type.

        Of a large category they are float32 rows of a table of their own, `called` so, that is looked up by the
        category's number.
        """
        columns = table.shape[1]
        if len(category.values) > LARGE and table.dtype == np.float64:
            rows = self.cast(
                self.node("Gather", [self.tensor(np.nan_to_num(table), np.float32, called), category.name], axis=0)
            )
            if np.isnan(table[category.missing]).any():  # rows that are stored are numbers
                rows = self.where(self.missing(category), self.tensor([[np.nan]]), rows)
            return rows
        ids = self.column(category.name)
        if columns > 1:
            shape = self.node("Concat", [self.rows, self.tensor([columns], np.int64)], axis=0)
            ids = self.node("Expand", [ids, shape])
        return self.node("GatherElements", [self.tensor(table, table.dtype), ids], axis=0)

    def number(self, value: Value) -> Number:
        """Return a value as a number; categories that are none are missing."""
        if isinstance(value, Number):
            return value
        table = np.full((value.size, 1), np.nan)
        for text, code in value.codes.items():
            try:
                table[code] = float({"true": "1", "false": "0"}.get(text, text))
            except ValueError:
                table[code] = np.nan
        return Number(self.looked_up(value, table))

    def truth_of(self, category: Category, codes: Sequence[int], *, negated: bool = False) -> Truth:
        """Return where a category is one of some codes, or none of them."""
        if len(codes) == 1:
            equal = self.column(self.node("Equal", [category.name, self.tensor([codes[0]], np.int64)]))
        else:
            table = np.zeros((category.size, 1), np.bool_)
            table[list(codes)] = True
            equal = self.looked_up(category, table)
        unknown = self.missing(category)
        if negated:
            equal = self.node("Not", [self.node("Or", [equal, unknown])])
        return Truth(equal, unknown)

    def equal(self, value: Value, text: str) -> Truth:
        """Return where a value is one that is given as text."""
        if isinstance(value, Number):
            number = constant_number(text)
            if np.isnan(number):
                return Truth(self.tensor([[False]], np.bool_), self.missing(value))
            return Truth(self.node("Equal", [value.name, self.beside(value, number)]), self.missing(value))
        code = value.code(text)
        return self.truth_of(value, [] if code is None else [code])

    def model(self, outputs: dict[str, tuple[str, list[int]]]) -> ModelProto:
        """Return the graph, with outputs float32 (B, ...) by name, each of a tensor and the shape of a row."""
        infos = []
        for name, (tensor, dims) in outputs.items():
            self._nodes.append(helper.make_node("Cast", [tensor], [name], f"{name}_served", to=TensorProto.FLOAT))
            infos.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *dims]))
        taken = {name for node in self._nodes for name in node.input}
        constants = [each for each in self._initializers.values() if each.name in taken]
        graph = helper.make_graph(self._nodes, "pmml", self._inputs, infos, constants)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(ML_DOMAIN, ML_OPSET)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)


def constant_number(text: str) -> float:
    """Return a text as a number, true and false as 1 and 0; NaN where it is none."""
    try:
        return float({"true": "1", "false": "0"}.get(text.strip(), text))
    except ValueError:
        return float("nan")
