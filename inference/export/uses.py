"""Uses of embeddings by a model: a `Use` is one look-up, in the module's own row numbers.

`ringpull.inference.export.keys` turns row numbers into keys; `ringpull.inference.export.bags` reads pooled uses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import fx

from ringpull.inference.export.index import NotPlain, Source, read_index
from ringpull.inference.export.operators import values_of
from ringpull.inference.export.probe import Probe
from ringpull.inference.export.replay import Replay
from ringpull.inference.schema.kinds import IdSequence
from ringpull.ps.spec import Pooling


@dataclass(frozen=True, slots=True)
class Use:
    """One look-up: ids of a feature, in a table."""

    table: str
    feature: str
    pooling: Pooling
    add: int
    """Offset of rows from ids: row = id + add."""
    padding_row: int | None = None
    """Row that bags leave out."""
    fill_row: int | None = None
    """Row at padded places of an unpooled sequence."""
    weighted: bool = False
    unpadded: bool = False
    """Whether a bag of a sequence leaves padding out, whatever id it has."""


LookUp = Callable[[Use], fx.Node]
"""Function that gives the graph's input for a look-up: float32 (B, D), or (B, L, D) for an unpooled sequence."""


class Plan(Protocol):
    """A way to do without one embedding operator."""

    def build(self, probe: Probe, graph: fx.Graph, look_up: LookUp) -> fx.Node:
        """Insert what stands for the operator's result, and return it."""


@dataclass(frozen=True, slots=True)
class Vectors:
    """A use without pooling: the vectors themselves, in the shape of the index."""

    table: str
    dim: int
    index: fx.Node
    adds: Mapping[Source, int]

    def build(self, probe: Probe, graph: fx.Graph, look_up: LookUp) -> fx.Node:
        anyone = next(iter(self.adds))

        def vectors(argument: str, column: int) -> fx.Node:
            # A column that the expression drops needs a place but no values: any other's vectors will do.
            source = next((each for each in self.adds if (each.argument, each.column) == (argument, column)), anyone)
            add, feature = self.adds[source], probe.schema[source.feature]
            fill_row = feature.pad + add if isinstance(feature, IdSequence) else None
            return look_up(Use(self.table, source.feature, Pooling.NONE, add, fill_row=fill_row))

        return Replay(probe, graph, self.dim, vectors).node(self.index)


def read_vectors(probe: Probe, node: fx.Node) -> Vectors:
    """Return the plan for an embedding without pooling.

    Raises:
        NotPlain: It cannot be a pull.
    """
    weight, index, *_ = values_of(node)
    table, dim = probe.captured.weights[weight], int(weight.meta["val"].shape[1])
    adds = read_index(probe, index)
    for source in adds:
        if probe.arguments[source.argument].part == "values":
            raise NotPlain(
                f"feature {source.feature} has any number of ids per row: pool them with nn.EmbeddingBag, or declare it"
                " IdSequence"
            )
    return Vectors(table, dim, index, adds)
