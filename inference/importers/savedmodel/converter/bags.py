"""Feature columns: what they compute in twenty ops of sparse tensors is `table[ids]`, or a bag of it, and is found so.

`embedding_column` finds the ids that are there (`Where`), each once (`Unique`), takes their rows and puts these
together again by `SparseSegmentMean`. Such a look-up cannot be cut, and is often turned into ONNX wrongly. So the graph
is run with every tensor behind the look-up as output, for all ids that there are, the ones below zero and the unknown
ones: the last tensor that is rows of the table and zeros, row by row, is replaced by a plain gather of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from ringpull.inference.importers.savedmodel.converter.codes import Coded
from ringpull.inference.importers.savedmodel.converter.fingerprints import fingerprints
from ringpull.inference.importers.savedmodel.converter.flattening import in_order
from ringpull.inference.importers.savedmodel.converter.id_rules import NO_ROW, IdRule, rule_of

_PASSES: Final = frozenset({"Identity", "Cast", "Reshape", "Squeeze", "ExpandDims"})
_MAX_PROBES: Final = 50_000
"""Ids that are tried of one table: all, up to so many."""
_BAGS: Final = 257
"""Rows of random ids, by which a combiner is told."""
_ANY_LENGTH: Final = 3
"""Values of a row where there may be any number."""
_ABSENT: Final = (b"", -1)
"""What stands for no value: of texts, and of integers."""

Combiner = Literal["mean", "sum", "sqrtn"]


@dataclass(frozen=True)
class Site:
    """One look-up of ids each of which is looked up once."""

    node: Any
    table: str
    """Constant or placeholder whose rows are taken."""
    ids: str
    """Placeholder that alone says which."""


@dataclass(frozen=True)
class Found:
    """A tensor that is rows of a table."""

    tensor: str
    rows: NDArray[np.int64]
    """Row of each id that was tried; -1: zeros."""
    rule: IdRule
    combiner: Combiner | None
    """How the rows of a bag are put together; None: there is one id a row."""


class BagFinder:
    """Looks for the bags of one graph."""

    def __init__(
        self, coded: Coded, variables: Mapping[str, Any], inputs: Mapping[str, Any], derived: Sequence[str]
    ) -> None:
        """Prepare for a graph.

        Args:
            coded: The graph, no input of which is of texts.
            variables: Big variables by their placeholder.
            inputs: Type and shape of each input, by its placeholder.
            derived: Tensors of ids that are looked up as an input's are, -1 standing for none.
        """
        self._coded = coded
        self._graph = coded.graph
        self._nodes = in_order(coded.graph)
        self._by_name = {node.name: node for node in self._nodes}
        self._variables = variables
        self._rng = np.random.default_rng(20_251)
        self._imported = tf.Graph()
        with self._imported.as_default():
            tf.import_graph_def(coded.graph, name="")
        given = {name: self._imported.get_tensor_by_name(f"{name}:0") for name in derived if name in self._by_name}
        self._derived = {name: tf.TensorSpec(each.shape, each.dtype) for name, each in given.items()}
        self._inputs = {**inputs, **self._derived}
        self.pads: dict[str, int] = {}
        """Id that stands for none, by placeholder of bags."""
        self.notes: list[str] = []

    def replace(self) -> None:
        """Replace in the graph what is found."""
        for site in self._sites():
            try:
                found = self._find(site)
            except tf.errors.OpError as exc:
                self.notes.append(f"{site.node.name}: probing failed: {str(exc)[:200]}")
                continue
            if found is None:
                self.notes.append(
                    f"{site.node.name}: no tensor behind it is rows of its table by {site.ids}: it stays as it is"
                )
            else:
                self._put(site, found)

    def _sites(self) -> list[Site]:
        sites = []
        for node in self._nodes:
            if node.op != "GatherV2":
                continue
            table, index = self._origin(node.input[0], {"Identity"}), self._origin(node.input[1], _PASSES)
            shape = self._imported.get_tensor_by_name(f"{table.name}:0").shape
            if table.op not in ("Const", "Placeholder") or shape.rank != 2 or index.op not in ("Unique", "UniqueV2"):
                continue
            above = self._above(index) & self._inputs.keys()
            if len(above) == 1:
                sites.append(Site(node, table.name, above.pop()))
        return sites

    def _origin(self, tensor: str, through: frozenset[str] | set[str]) -> Any:
        node = self._by_name[tensor.split(":")[0]]
        while node.op in through:
            node = self._by_name[node.input[0].split(":")[0]]
        return node

    def _above(self, node: Any) -> set[str]:
        reached, due = {node.name}, [node]
        while due:
            for each in due.pop().input:
                name = each.split(":")[0]
                if name not in reached:
                    reached.add(name)
                    if name not in self._derived:
                        due.append(self._by_name[name])
        return reached

    def _below(self, site: Site, dim: int) -> list[str]:
        """Return the tensors behind a look-up that may be its rows, in the order in which they are computed."""
        reached = {site.node.name}
        below = []
        for node in self._nodes:
            if node.name not in reached and not any(each.split(":")[0] in reached for each in node.input):
                continue
            reached.add(node.name)
            tensor = self._imported.get_tensor_by_name(f"{node.name}:0") if self._has_output(node.name) else None
            if tensor is None or tensor.dtype != tf.float32:
                continue
            if tensor.shape.rank is None or (tensor.shape.rank >= 1 and tensor.shape[-1] in (dim, None)):
                below.append(node.name)
        return below

    def _has_output(self, name: str) -> bool:
        return bool(self._imported.get_operation_by_name(name).outputs)

    def _find(self, site: Site) -> Found | None:
        dtype = self._imported.get_tensor_by_name(f"{site.ids}:0").dtype
        if not dtype.is_integer:
            return None
        with tf.compat.v1.Session(graph=self._imported) as session:
            table = self._rows_of(site.table)
            shape = self._inputs[site.ids].shape
            length = 1 if shape.rank in (None, 1) else shape[1] or _ANY_LENGTH
            below = self._below(site, table.shape[1])
            tries = [each[each <= dtype.max] for each in self._tries(site.ids, len(table))]
            for tried in tries:
                try:
                    if length == 1:
                        found = self._run(session, site.ids, below, tried)
                        return self._last(site.ids, below, found, table, tried, None)
                    return self._find_bags(session, site, table, below, tried, length)
                except tf.errors.OpError:
                    if tried is tries[-1]:
                        raise
        return None

    def _find_bags(
        self, session: Any, site: Site, table: NDArray[Any], below: list[str], tried: NDArray[np.int64], length: int
    ) -> Found | None:
        """Return the tensor that is bags, and the id that stands for none."""
        vocabulary = self._coded.of(site.ids)
        pads = [-1] if vocabulary is None else [*map(vocabulary.number, _ABSENT), 0]
        for pad in dict.fromkeys(pads):
            if pad is None:
                continue
            empty = self._run(session, site.ids, below, np.full((2, length), pad))
            below = [name for name in below if _shaped(empty[name], 2) and not empty[name].any()] or below
            alone = np.full((len(tried), length), pad)
            alone[:, 0] = tried
            singles = self._run(session, site.ids, below, alone)
            found = self._last(site.ids, below, singles, table, tried, "mean")
            if found is None:
                continue
            places = self._rng.integers(0, len(tried), (_BAGS, length))
            bags = self._run(session, site.ids, below, tried[places])
            if (combiner := _combiner(bags[found.tensor], table, found.rows[places])) is not None:
                self.pads[site.ids] = int(pad)
                return Found(found.tensor, found.rows, found.rule, combiner)
        return None

    def _tries(self, ids: str, rows: int) -> list[NDArray[np.int64]]:
        """Return ids to try; those that come first may be such that the graph fails on."""
        vocabulary = self._coded.of(ids)
        low = np.arange(min(rows, _MAX_PROBES))
        if vocabulary is not None and vocabulary.hashed:
            known = fingerprints([*_ABSENT, *vocabulary.known])
            return [np.concatenate([known, low, self._rng.integers(-(2**63), 2**63 - 1, _BAGS)]).astype(np.int64)]
        if vocabulary is not None:
            return [np.arange(len(vocabulary.values), dtype=np.int64)]
        if rows > _MAX_PROBES:
            low = np.unique(np.concatenate([self._rng.choice(rows, _MAX_PROBES - 2, replace=False), [0, rows - 1]]))
        if ids in self._derived:
            return [np.concatenate([[-1], low]).astype(np.int64), low.astype(np.int64)]
        beyond = [rows, rows + 5, 2**31 - 1]
        return [
            np.concatenate([[-2, -1], low, beyond]).astype(np.int64),
            np.concatenate([[-2, -1], low]).astype(np.int64),
            np.concatenate([[-1], low]).astype(np.int64),
        ]

    def _rows_of(self, table: str) -> NDArray[Any]:
        if table in self._variables:
            dtype = self._imported.get_tensor_by_name(f"{table}:0").dtype.as_numpy_dtype
            found: NDArray[Any] = np.asarray(self._variables[table].numpy(), dtype)
        else:
            found = tf.make_ndarray(self._by_name[table].attr["value"].tensor)
        return found

    def _run(self, session: Any, ids: str, below: Sequence[str], values: NDArray[np.int64]) -> dict[str, Any]:
        """Run the graph for ids of one input, the others being as plain as can be."""
        feeds = {f"{name}:0": self._rows_of(name) for name in self._variables if name in self._by_name}
        for name, spec in self._inputs.items():
            if name not in self._by_name:
                continue
            shape = [
                len(values),
                *(3 if each is None else each for each in (spec.shape.as_list()[1:] if spec.shape.rank else [])),
            ]
            dtype = self._imported.get_tensor_by_name(f"{name}:0").dtype.as_numpy_dtype
            feeds[f"{name}:0"] = values.reshape(shape).astype(dtype) if name == ids else np.zeros(shape, dtype)
        outputs = session.run({name: f"{name}:0" for name in below}, feeds)
        return dict(outputs)

    def _rows_by_rule(self, ids: str, tried: NDArray[np.int64], rows: int) -> NDArray[np.int64]:
        """Return the row that each id has by its number, or as a fingerprint; none needs to be one of the table."""
        vocabulary = self._coded.of(ids)
        if vocabulary is not None and vocabulary.hashed:
            return (tried.view(np.uint64) % np.uint64(rows)).view(np.int64)
        return tried

    def _last(
        self,
        ids: str,
        below: Sequence[str],
        found: Mapping[str, Any],
        table: NDArray[Any],
        tried: NDArray[np.int64],
        combiner: Combiner | None,
    ) -> Found | None:
        vocabulary = self._coded.of(ids)
        by_rule = self._rows_by_rule(ids, tried, len(table))
        for name in reversed(below):
            values = found[name]
            if not _shaped(values, len(tried)) or values.size != len(tried) * table.shape[1]:
                continue
            rows = _matched(values.reshape(len(tried), -1), table, by_rule)
            if rows is None:
                continue
            if vocabulary is not None and vocabulary.hashed:
                rule = rule_of(tried, rows, len(table), known=fingerprints(list(vocabulary.known)))
            else:
                rule = rule_of(tried, rows, len(table), codes=vocabulary is not None)
            if rule is not None:
                return Found(name, rows, rule, combiner)
        return None

    def _put(self, site: Site, found: Found) -> None:
        """Put a plain gather in the place of what was found."""
        made = tf.Graph()
        ids = self._imported.get_tensor_by_name(f"{site.ids}:0")
        shape = self._inputs[site.ids].shape
        target = self._imported.get_tensor_by_name(f"{found.tensor}:0")
        dim = self._imported.get_tensor_by_name(f"{site.table}:0").shape[1]
        with made.as_default():
            given = tf.compat.v1.placeholder(ids.dtype, shape if shape.rank else [None], name="ids")
            table = tf.compat.v1.placeholder(
                tf.float32, self._imported.get_tensor_by_name(f"{site.table}:0").shape, "table"
            )
            bag = found.combiner is not None
            flat = tf.cast(given if bag else tf.reshape(given, [-1]), tf.int64)
            place, there = found.rule.put(flat)
            rows = tf.gather(table, place)
            mask = tf.cast(tf.expand_dims(there, -1), tf.float32)
            if bag:
                count = tf.reduce_sum(mask, 1)
                rows = tf.reduce_sum(rows * mask, 1)
                if found.combiner == "mean":
                    rows = rows / tf.maximum(count, 1.0)
                elif found.combiner == "sqrtn":
                    rows = rows / tf.sqrt(tf.maximum(count, 1.0))
            else:
                rows = tf.where(there[:, None], rows, tf.zeros_like(rows))
            if target.shape.rank == 3:
                rows = tf.reshape(rows, [-1, 1, dim])
            tf.identity(rows, name="rows")
        prefix = f"ringpull_bag/{site.node.name}"
        names = {"ids": site.ids, "table": site.table}
        for node in made.as_graph_def().node:
            if node.name in names:
                continue
            added = self._graph.node.add()
            added.CopyFrom(node)
            added.name = f"{prefix}/{node.name}"
            renamed = [names.get(each, f"{prefix}/{each}") for each in node.input]
            del added.input[:]
            added.input.extend(renamed)
        for node in self._graph.node:
            if not node.name.startswith(prefix):
                taken = [f"{prefix}/rows" if each.split(":")[0] == found.tensor else each for each in node.input]
                del node.input[:]
                node.input.extend(taken)


def _shaped(values: NDArray[Any], rows: int) -> bool:
    return values.ndim in (2, 3) and values.shape[0] == rows and (values.ndim == 2 or values.shape[1] == 1)


def _matched(values: NDArray[Any], table: NDArray[Any], by_rule: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Return which row of the table each of `values` is, -1 where it is zeros; None: one is neither.

    Where the row that an id has by rule is the same, it is that one.
    """
    inside = (by_rule >= 0) & (by_rule < len(table))
    own = np.where(inside, by_rule, 0)
    rows = np.where((table[own] == values).all(axis=1) & inside, own, -2)
    rows[(rows == -2) & ~values.any(axis=1)] = NO_ROW
    if (rows == -2).any():
        known = {row.tobytes(): number for number, row in reversed(list(enumerate(table)))}
        for place in np.flatnonzero(rows == -2):
            rows[place] = known.get(values[place].tobytes(), -2)
    if (rows == -2).any() or (rows == NO_ROW).all():
        return None
    return rows.astype(np.int64)


def _combiner(values: NDArray[Any], table: NDArray[Any], rows: NDArray[np.int64]) -> Combiner | None:
    """Return how bags of rows are put together; None: in no way that is known."""
    there = (rows >= 0)[..., None]
    total = np.where(there, table[np.maximum(rows, 0)].astype(np.float64), 0.0).sum(axis=1)
    count = np.maximum(there.sum(axis=1), 1)
    ways: dict[Combiner, NDArray[Any]] = {"mean": total / count, "sum": total, "sqrtn": total / np.sqrt(count)}
    scale = max(1.0, float(np.abs(table).max()))
    for name, wanted in ways.items():
        if np.abs(values.reshape(wanted.shape) - wanted).max() <= 1e-5 * scale:
            return name
    return None
