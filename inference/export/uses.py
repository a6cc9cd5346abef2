"""Uses of embeddings by a model: a `Use` is one look-up, in the module's own row numbers.

`ringpull.inference.export.keys` turns row numbers into keys; `ringpull.inference.export.bags` reads pooled uses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import fx

from ringpull.inference.export.indices.assembly import assemble
from ringpull.inference.export.indices.fixed_rows import is_copy
from ringpull.inference.export.indices.index import Index, NotPlain, Part, read_index
from ringpull.inference.export.probe import Probe
from ringpull.inference.model.manifest_parts import KeptBy
from ringpull.inference.schema.key_expressions import KeyExpression
from ringpull.inference.schema.kinds import IdSequence
from ringpull.ps.spec import Pooling


@dataclass(frozen=True, slots=True)
class Use:
    """One look-up: ids of a feature, in a table."""

    table: str
    feature: str
    pooling: Pooling
    add: int = 0
    """Offset of rows from ids: row = id + add."""
    padding_row: int | None = None
    """Row that bags leave out."""
    fill_row: int | None = None
    """Row at padded places of an unpooled sequence."""
    weighted: bool = False
    unpadded: bool = False
    """Whether a bag of a sequence leaves padding out, whatever id it has."""
    key: KeyExpression | None = None
    """Row of ids, where it is no sum of id and constant."""
    kept_by: KeptBy | None = None
    """Other sequence that says which places a bag of a sequence holds, in its prepared ids."""
    more: tuple[str, ...] = ()
    """Features whose ids `key` takes besides those of `feature`, in their order."""

    @property
    def features(self) -> tuple[str, ...]:
        """Features whose ids say the row."""
        return (self.feature, *self.more)

    def row_of(self, *ids: int) -> int:
        """Return the row for one id of each feature."""
        return ids[0] + self.add if self.key is None else self.key.row_of(*ids)


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
    weight: fx.Node
    node: fx.Node
    """The index, in the graph."""
    index: Index

    def build(self, probe: Probe, graph: fx.Graph, look_up: LookUp) -> fx.Node:
        assert self.index.layout is not None  # the values of ragged features are pooled
        vectors, lengths = [], []
        dim = int(self.weight.meta["val"].shape[1])
        for part in self.index.parts:
            pulled = look_up(unpooled(probe, self.table, part))
            first = part.sources[0]
            feature = probe.schema[first.feature]
            if first.moved is not None:
                pulled = first.moved.build(graph, pulled, dim)
                lengths.append(first.moved.many)
            else:
                lengths.append(feature.length if isinstance(feature, IdSequence) else 0)
            vectors.append(pulled)
        return assemble(probe, graph, self.weight, self.index.layout, vectors, lengths)


def unpooled(probe: Probe, table: str, part: Part) -> Use:
    """Return the use that gives the vectors of one part of an index."""
    feature, *more = (source.feature for source in part.sources)
    declared = probe.schema[feature]
    fill_row = part.row_of(declared.pad) if isinstance(declared, IdSequence) else None
    return Use(table, feature, Pooling.NONE, part.add, fill_row=fill_row, key=part.key, more=tuple(more))


def read_vectors(probe: Probe, weight: fx.Node, index: fx.Node) -> Vectors:
    """Return the plan for an embedding without pooling.

    Raises:
        NotPlain: It cannot be a pull.
    """
    total, dim = map(int, weight.meta["val"].shape)
    read = read_index(probe, index, total)
    if read.layout is None:
        raise NotPlain(
            f"feature {read.parts[0].sources[0].feature} has any number of ids per row: pool them with"
            " nn.EmbeddingBag, or declare it IdSequence"
        )
    constants = len({row for row in read.layout.fixed.tolist() if row >= 0})
    if is_copy(constants, total, dim):
        raise NotPlain(f"its index has constants among ids, which read {constants} of {total} rows")
    return Vectors(probe.captured.weights[weight], weight, index, read)
