"""RegressionModel and GeneralRegressionModel as nodes of a graph."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import reduce
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.importers.pmml.fields import LARGE
from ringpull.inference.importers.pmml.kinds.general_regression import Cell, GeneralRegression
from ringpull.inference.importers.pmml.kinds.regression import Regression
from ringpull.inference.importers.pmml.nodes.expressions import as_number
from ringpull.inference.importers.pmml.nodes.graph import Category, Graph
from ringpull.inference.importers.pmml.nodes.result import (
    Result,
    inverse_link,
    largest,
    of_probabilities,
    picked,
    simplemax,
    softmax,
)
from ringpull.inference.importers.pmml.nodes.scope import Scope


class _Sums:
    """Sums (B, K) of columns with K coefficients each, and of coefficients by the values of categories."""

    def __init__(self, scope: Scope, sums: int) -> None:
        self._scope = scope
        self._graph = scope.graph
        self._zero = np.zeros(sums)
        self._columns: dict[str, NDArray[np.float64]] = {}
        self._tables: dict[str, tuple[Category, NDArray[np.float64]]] = {}
        self.intercepts = np.zeros(sums)

    def add(self, column: str, place: int, coefficient: float) -> None:
        """Add a column (B, 1) times a coefficient to one sum."""
        self._columns.setdefault(column, self._zero.copy())[place] += coefficient

    def table(self, field: str, category: Category) -> NDArray[np.float64]:
        """Return the coefficients (size, K) by the values of a field, to be added to."""
        if field not in self._tables:
            self._tables[field] = category, np.zeros((category.size, len(self.intercepts)))
        return self._tables[field][1]

    def add_one_hot(self, name: str, row: NDArray[np.float64]) -> bool:
        """Add a field times coefficients (K,), if it tells one value of a category from the others."""
        told = self._scope.one_hot(name)
        if told is None:
            return False
        category, norm = told
        table = self.table(norm.field, category)
        if (code := category.code(norm.value)) is not None:
            table[code] += row
        instead = np.nan if norm.if_missing is None else as_number(norm.if_missing, norm.line)
        table[category.missing] += row * instead
        return True

    def _looked_up(self, category: Category, table: NDArray[np.float64], called: str) -> str:
        """Return rows of a table by a category; only the columns that are not 0 are stored of a large one."""
        graph = self._graph
        used = np.flatnonzero(np.nan_to_num(table).any(axis=0))
        if len(category.values) <= LARGE or len(used) == table.shape[1] or not len(used):
            return graph.looked_up(category, table, called)
        rows = graph.looked_up(category, table[:, used], called)
        return graph.node("MatMul", [rows, graph.tensor(np.eye(table.shape[1])[used])])

    def made(self) -> str:
        """Return the sums."""
        graph = self._graph
        total = graph.tensor(self.intercepts[None])
        for field, (category, table) in self._tables.items():
            total = graph.node("Add", [total, self._looked_up(category, table, coefficients_of(field))])
        if self._columns:
            matrix = graph.joined([graph.full_column(each) for each in self._columns])
            product = graph.node("MatMul", [matrix, graph.tensor(np.stack(list(self._columns.values())))])
            total = graph.node("Add", [product, total])
        return graph.rows_of(total, len(self.intercepts))


def coefficients_of(field: str) -> str:
    """Return the name of the table of a field's coefficients."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", f"{field}_coefficients").lstrip(".-")[-128:]


def build_regression(scope: Scope, body: Regression, *, of_classes: bool) -> Result:
    """Return what a regression predicts.

    Raises:
        InvalidInput: A field is not there.
    """
    graph = scope.graph
    sums = _Sums(scope, len(body.tables))
    for place, table in enumerate(body.tables):
        sums.intercepts[place] = table.intercept
        for term in table.numbers:
            row = np.eye(len(body.tables))[place] * term.coefficient
            if term.exponent == 1 and sums.add_one_hot(term.field, row):
                continue
            column = scope.number(term.field, term.line).name
            if term.exponent != 1:
                column = graph.node("Pow", [column, graph.tensor([[term.exponent]])])
            sums.add(column, place, term.coefficient)
        for each in table.categories:
            value = scope.value(each.field, each.line)
            if isinstance(value, Category):
                known = sums.table(each.field, value)
                if (code := value.code(each.value)) is not None:
                    known[code, place] += each.coefficient
            else:
                sums.add(graph.cast(graph.equal(value, each.value).true), place, each.coefficient)
        for product in table.products:
            columns = [scope.number(each, product.line).name for each in product.fields]
            made = reduce(lambda one, other: graph.node("Mul", [one, other]), columns)
            sums.add(made, place, product.coefficient)
    found = sums.made()
    if not of_classes:
        return Result(inverse_link(graph, body.method, found))
    return _of_classes(graph, body, found)


def _of_classes(graph: Graph, body: Regression, sums: str) -> Result:
    last = len(body.tables) - 1
    match body.method:
        case "softmax":
            return of_probabilities(graph, body.classes, softmax(graph, sums))
        case "simplemax":
            return of_probabilities(graph, body.classes, simplemax(graph, sums))
    if last == 1 or body.method == "none":
        each = inverse_link(graph, body.method, sums)
        first = graph.node("Gather", [each, graph.tensor(np.arange(last), np.int64)], axis=1)
        total = graph.node("ReduceSum", [first, graph.tensor([1], np.int64)], keepdims=1)
        rest = graph.node("Sub", [graph.tensor([[1.0]]), total])
        return of_probabilities(graph, body.classes, graph.joined([first, rest]))
    each = inverse_link(graph, body.method, sums)
    return of_probabilities(graph, body.classes, simplemax(graph, each))


def build_general_regression(scope: Scope, body: GeneralRegression) -> Result:
    """Return what a general regression predicts.

    Raises:
        InvalidInput: A field is not there.
    """
    graph = scope.graph
    if not body.classes:
        value = _linear(scope, body, [None])
        value = inverse_link(graph, body.link, value, body.power)
        return Result(value if body.trials == 1 else graph.node("Mul", [value, graph.tensor([[body.trials]])]))
    if body.kind == "generalizedLinear":
        reference = body.reference if body.reference is not None else body.classes[0]
        asked = 1 - body.classes.index(reference)
        value = inverse_link(graph, body.link, _linear(scope, body, [body.classes[asked]]), body.power)
        rest = graph.node("Sub", [graph.tensor([[1.0]]), value])
        return of_probabilities(graph, body.classes, graph.joined([rest, value] if asked else [value, rest]))
    if body.kind == "multinomialLogistic":
        assert body.reference is not None
        others = [each for each in body.classes if each != body.reference]
        sums = _linear(scope, body, others)
        zero = graph.node("Mul", [picked(graph, sums, 0), graph.tensor([[0.0]])])
        columns = {each: picked(graph, sums, place) for place, each in enumerate(others)} | {body.reference: zero}
        return of_probabilities(
            graph, body.classes, softmax(graph, graph.joined([columns[each] for each in body.classes]))
        )
    below = inverse_link(graph, body.link, _linear(scope, body, body.classes[:-1]))
    steps = [picked(graph, below, place) for place in range(len(body.classes) - 1)]
    parts = [steps[0], *(graph.node("Sub", [after, before]) for before, after in pairwise(steps))]
    parts.append(graph.node("Sub", [graph.tensor([[1.0]]), steps[-1]]))
    probabilities = graph.joined(parts)
    return Result(largest(graph, probabilities), body.classes, probabilities)


def _linear(scope: Scope, body: GeneralRegression, targets: Sequence[str | None]) -> str:
    """Return the linear predictors (B, targets)."""
    graph = scope.graph
    sums = _Sums(scope, len(targets))
    sums.intercepts += body.offset
    coefficients: dict[str, NDArray[np.float64]] = {}
    for beta in body.betas:
        for place, target in enumerate(targets):
            if beta.target is None or target is None or beta.target == target:
                coefficients.setdefault(beta.parameter, np.zeros(len(targets)))[place] += beta.beta
    for parameter, row in coefficients.items():
        cells = body.cells[parameter]
        if not cells:
            sums.intercepts += row
            continue
        first = cells[0]
        if len(cells) == 1 and first.value is None and first.exponent == 1 and sums.add_one_hot(first.field, row):
            continue
        value = scope.value(first.field, first.line)
        if len(cells) == 1 and first.value is not None and isinstance(value, Category):
            table = sums.table(first.field, value)
            table[value.missing] = np.nan
            if (code := value.code(first.value)) is not None:
                table[code] += row
            continue
        columns = [_column(scope, cell) for cell in cells]
        made = reduce(lambda one, other: graph.node("Mul", [one, other]), columns)
        for place, coefficient in enumerate(row.tolist()):
            sums.add(made, place, coefficient)
    if body.offset_field is not None:
        column = scope.number(body.offset_field, body.line).name
        for place in range(len(targets)):
            sums.add(column, place, 1.0)
    return sums.made()


def _column(scope: Scope, cell: Cell) -> str:
    graph = scope.graph
    if cell.value is None:
        column = scope.number(cell.field, cell.line).name
        return column if cell.exponent == 1 else graph.node("Pow", [column, graph.tensor([[cell.exponent]])])
    value = scope.value(cell.field, cell.line)
    equal = graph.cast(graph.equal(value, cell.value).true)
    return graph.where(graph.missing(value), graph.tensor([[np.nan]]), equal)
