"""Segments of a MiningModel that become one result: summed, averaged, counted, or the first one taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from ringpull.inference.importers.pmml.nodes.graph import Graph
from ringpull.inference.importers.pmml.nodes.result import Result, of_probabilities, summed
from ringpull.inference.importers.pmml.nodes.trees import Forest

_LAST: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class Stacked:
    """Results of T models side by side."""

    graph: Graph
    values: str
    """(B, T): numbers, or places of classes."""
    classes: tuple[str, ...]
    probabilities: str | None
    """(B, T, classes)."""
    models: int

    @classmethod
    def of_forest(cls, graph: Graph, forest: Forest, classes: Sequence[str]) -> Stacked:
        """Return what the trees of a forest say."""
        said = forest.made()
        values = graph.node("Gather", [said, graph.tensor(0, np.int64)], axis=2)
        shares = None
        if classes:
            bounds = [graph.tensor([each], np.int64) for each in (1, _LAST, 2)]
            shares = graph.node("Slice", [said, *bounds])
        return cls(graph, values, tuple(classes), shares, forest.trees)

    @classmethod
    def of_results(cls, graph: Graph, results: Sequence[Result], classes: Sequence[str]) -> Stacked:
        """Return the results of models of any kind, by these classes."""
        values, shares = [], []
        for each in results:
            if not classes:
                values.append(graph.full_column(each.value))
                continue
            assert each.probabilities is not None
            place = {name: number for number, name in enumerate(each.classes)}
            own = [classes.index(name) for name in each.classes]
            lost = graph.node("IsNaN", [each.value])
            known = graph.cast(graph.where(lost, graph.tensor([[0.0]]), each.value), 7)
            there = graph.cast(graph.node("Gather", [graph.tensor(own, np.int64), known], axis=0))
            values.append(graph.where(lost, graph.tensor([[np.nan]]), there))
            padded = graph.joined([each.probabilities, graph.full_column(graph.tensor([[0.0]]))])
            order = [place.get(name, len(place)) for name in classes]
            sorted_ = graph.node("Gather", [padded, graph.tensor(order, np.int64)], axis=1)
            shares.append(graph.node("Unsqueeze", [sorted_, graph.tensor([1], np.int64)]))
        probabilities = graph.joined(shares) if classes else None
        return cls(graph, graph.joined(values), tuple(classes), probabilities, len(results))

    def only(self) -> Result:
        """Return the result of the one model that there is."""
        if self.probabilities is None:
            return Result(self.values)
        one = self.graph.tensor([1], np.int64)
        return Result(self.values, self.classes, self.graph.node("Squeeze", [self.probabilities, one]))


class Segments:
    """What is known of segments beside their results: the rows each is for, and its weight."""

    def __init__(self, graph: Graph, classes: Sequence[str]) -> None:
        self._graph = graph
        self._classes = tuple(classes)
        self._active: list[str | None] = []
        self._weights: list[float] = []
        self._invalid: list[str] = []

    def add(self, active: str | None, weight: float) -> None:
        """Add a segment, for the rows where a tensor (B, 1) is true; None: for all."""
        self._active.append(active)
        self._weights.append(weight)

    def invalid(self, tensors: Sequence[str]) -> None:
        """Say where rows are invalid for the segment that was added last: tensors of bool (B, 1)."""
        active = self._active[-1]
        for each in tensors:
            self._invalid.append(each if active is None else self._graph.both([each, active]))

    def joined(self, stacked: Stacked, method: str) -> Result:
        """Return the one result."""
        result = self._of_classes(stacked, method) if self._classes else self._of_numbers(stacked, method)
        return result.masked(self._graph, list(dict.fromkeys(self._invalid)))

    def _there(self) -> str:
        """Return which segments are for which rows, bool (B, T)."""
        graph = self._graph
        true = graph.tensor([[True]], np.bool_)
        return graph.joined([graph.full_column(true if each is None else each) for each in self._active])

    def _weighted(self, method: str) -> str:
        """Return the weight of each segment for each row, 0 where it is for none, float64 (B, T)."""
        weights = self._weights if method.startswith("weighted") else [1.0] * len(self._weights)
        graph = self._graph
        if all(each is None for each in self._active):
            return graph.rows_of(graph.tensor([weights]), len(weights))
        return graph.where(self._there(), graph.tensor([weights]), graph.tensor([[0.0]]))

    def _of_numbers(self, stacked: Stacked, method: str) -> Result:
        graph, nan = self._graph, self._graph.tensor([[np.nan]])
        there = self._there()
        count = summed(graph, graph.cast(there))
        none = graph.node("Equal", [count, graph.tensor([[0.0]])])
        if method == "selectFirst":
            return Result(graph.where(none, nan, self._first(stacked.values)))
        values = graph.where(there, stacked.values, graph.tensor([[0.0]]))
        total = summed(graph, graph.node("Mul", [values, self._weighted(method)]))
        match method:
            case "sum" | "weightedSum":
                found = total
            case "average" | "weightedAverage":
                found = graph.node("Div", [total, summed(graph, self._weighted(method))])
            case "max":
                lowest = graph.where(there, stacked.values, graph.tensor([[-np.inf]]))
                found = graph.node("ReduceMax", [lowest], axes=[1], keepdims=1)
            case _:
                found = self._median(stacked.values, count)
        lost = graph.either([none, graph.node("IsNaN", [summed(graph, values)])])
        return Result(graph.where(lost, nan, found))

    def _median(self, values: str, count: str) -> str:
        """Return the one in the middle of the values of the segments that are there, or the mean of the two."""
        graph, models = self._graph, len(self._weights)
        last = graph.where(self._there(), values, graph.tensor([[np.inf]]))
        number = graph.tensor([models], np.int64)
        ascending = graph.several("TopK", [last, number], 2, axis=1, largest=0)[0]
        below = graph.node("Sub", [count, graph.tensor([[1.0]])])
        half = graph.tensor([[0.5]])
        middle = []
        for each in (
            graph.node("Floor", [graph.node("Mul", [below, half])]),
            graph.node("Floor", [graph.node("Mul", [count, half])]),
        ):
            place = graph.cast(graph.node("Max", [each, graph.tensor([[0.0]])]), 7)
            middle.append(graph.node("GatherElements", [ascending, place], axis=1))
        return graph.node("Mul", [graph.node("Add", middle), half])

    def _first(self, values: str) -> str:
        graph = self._graph
        place = graph.node("ArgMax", [graph.cast(self._there())], axis=1, keepdims=1)
        return graph.node("GatherElements", [values, place], axis=1)

    def _of_classes(self, stacked: Stacked, method: str) -> Result:
        graph, one, two = self._graph, self._graph.tensor([1], np.int64), self._graph.tensor([2], np.int64)
        classes = len(self._classes)
        weights = self._weighted(method)
        deep = graph.node("Unsqueeze", [weights, two])
        assert stacked.probabilities is not None
        if method == "selectFirst":
            none = graph.node("Equal", [summed(graph, weights), graph.tensor([[0.0]])])
            place = graph.node("ArgMax", [graph.cast(self._there())], axis=1, keepdims=1)
            index = graph.node("Unsqueeze", [graph.rows_of(place, classes), one])
            chosen = graph.node("Squeeze", [graph.node("GatherElements", [stacked.probabilities, index], axis=1), one])
            found = Result(self._first(stacked.values), self._classes, chosen)
            return found.masked(graph, [none])
        if method.endswith("ajorityVote"):
            places = graph.node("Unsqueeze", [stacked.values, two])
            votes = graph.cast(graph.node("Equal", [places, graph.tensor(np.arange(classes)[None, None], np.float64)]))
            counted = graph.node("Squeeze", [summed(graph, graph.node("Mul", [votes, deep])), one])
            total = summed(graph, counted)
            return of_probabilities(graph, self._classes, graph.node("Div", [counted, total]))
        there = graph.node("Unsqueeze", [self._there(), two])
        known = graph.where(there, stacked.probabilities, graph.tensor([[[0.0]]]))
        total = graph.node("Squeeze", [summed(graph, graph.node("Mul", [known, deep])), one])
        return of_probabilities(graph, self._classes, graph.node("Div", [total, summed(graph, weights)]))
