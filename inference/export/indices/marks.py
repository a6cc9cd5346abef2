"""Marks: what each element of an index is of the ids of the input, and of which row and place of theirs.

An index is read by running its part of the graph on marks instead of ids: what moves elements moves marks, and what
computes one element of others makes a mark of theirs. So any way to write the moves is understood, and what an element
is made of is known exactly: a `KeyExpression` of the ids of one row, or of one place of a sequence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, fx

from ringpull.inference.export.examples import example
from ringpull.inference.export.indices.elementwise import RULES, TYPES, Operand, Types, number_type
from ringpull.inference.export.indices.row_moves import RowMove
from ringpull.inference.export.operators import (
    CASTS,
    FILLS,
    JOINS,
    LIKES,
    MOVES,
    PLACED,
    SHAPED_LIKE,
    SIZES,
    TRIANGLES,
    VIEWS,
    aten,
    getitem,
    inputs_read,
    values_of,
)
from ringpull.inference.export.probe import Probe, with_inputs
from ringpull.inference.export.refusals import NotPlain
from ringpull.inference.schema.key_expressions import KeyExpression
from ringpull.inference.schema.kinds import IdSequence
from ringpull.ps.errors import InvalidInput

ID_PARTS: Final = ("id", "values", "sequence", "id_stack")
"""Parts of arguments that hold ids."""

MAX_DIFFERENT: Final = 4096
"""Different expressions that one operator may make; more are no key transform."""

NO_ROW: Final = -1
"""Row of a constant, and of ids that any number of a row may have; place of what stands once in its row."""


@dataclass(frozen=True, slots=True)
class Source:
    """One column of ids that an index reads."""

    argument: str
    column: int
    """Column of a stack; 0 otherwise."""
    feature: str
    moved: RowMove | None = None
    """Move that takes a few of a sequence's ids; None: they are all of them."""


@dataclass(frozen=True, slots=True)
class Unread:
    """What an element is that no expression of ids gives."""

    reason: str


Meaning = KeyExpression | Unread


@dataclass(frozen=True, slots=True, eq=False)
class Marks:
    """Elements of a tensor, each marked: three int64 tensors of its shape."""

    meanings: Tensor
    """Numbers of meanings (`MarkReader.meaning`)."""
    rows: Tensor
    places: Tensor
    """Place in the row's sequence, or in ragged values."""

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """The three tensors."""
        return self.meanings, self.rows, self.places


class MarkReader:
    """Evaluates nodes of one captured graph on marks; what was evaluated once is known."""

    _of_probe: ClassVar[WeakKeyDictionary[Probe, MarkReader]] = WeakKeyDictionary()

    def __init__(self, probe: Probe) -> None:
        self._probe = probe
        self._known: dict[int, dict[fx.Node, Any]] = {}
        """What each node is, by numbers of rows; a `NotPlain` where it is not known."""
        self.sources: list[Source] = []
        """Sources by their number in expressions."""
        self._source_numbers: dict[Source, int] = {}
        self._meanings: list[Meaning] = []
        self._meaning_numbers: dict[Meaning, int] = {}

    @classmethod
    def of(cls, probe: Probe) -> MarkReader:
        """Return the reader of a probe's graph."""
        reader = cls._of_probe.get(probe)
        if reader is None:
            reader = cls._of_probe[probe] = cls(probe)
        return reader

    def meaning(self, number: int) -> Meaning:
        """Return a meaning: an expression whose features are numbers of `sources`, or the reason why there is none."""
        return self._meanings[number]

    def read(self, node: fx.Node, rows: int) -> Any:
        """Return what a node is for so many rows: marks, or, where it reads no ids, its value.

        Raises:
            NotPlain: It is computed by an operator that is neither a move nor elementwise.
        """
        known = self._known.setdefault(rows, {})
        for each in with_inputs(node, known, lambda each: each.all_input_nodes):
            try:
                known[each] = self._evaluated(each, rows, known)
            except NotPlain as reason:
                known[each] = reason
        if isinstance(known[node], NotPlain):
            raise known[node]
        return known[node]

    def _evaluated(self, node: fx.Node, rows: int, known: Mapping[fx.Node, Any]) -> Any:
        if node.op == "placeholder":
            return self._argument(node, rows)
        if node.op == "get_attr":
            return getattr(self._probe.captured.graph_module, str(node.target))
        if node.target in JOINS:
            return self._joined(node, rows, known)
        target: Any = node.target
        move = RowMove.of(self._probe, node)
        if move is not None and (taken := self._taken(move, rows, known[move.moved])) is not None:
            return taken
        shapes = {}
        for each in node.all_input_nodes:
            if isinstance(known[each], NotPlain):
                if each in inputs_read(node):
                    raise known[each]
                shapes[each] = self._probe.evaluate(each, self._probe.example(rows))
        known = {each: shapes.get(each, known[each]) for each in node.all_input_nodes}
        given: Any = fx.node.map_arg((node.args, node.kwargs), known.__getitem__)
        args, kwargs = given
        if not any(_is_marked(known[each]) for each in node.all_input_nodes):
            with torch.no_grad():
                return target(*args, **kwargs)
        if target in SIZES:
            return target(args[0].rows, *args[1:])
        if target in LIKES:
            return target(args[0].rows, *args[1:], **kwargs).to(node.meta["val"].dtype)
        if target in FILLS and isinstance(args[1], int | float | Tensor):
            return torch.empty(args[0].rows.shape, dtype=node.meta["val"].dtype).fill_(args[1])
        if target is aten.copy.default:  # elements of the second, in the type and shape of the first
            copied = args[1] if isinstance(args[1], Marks) else self._constants(args[1])
            return self._cast(self._operand(copied, _shape(args[0])), node.meta["val"].dtype)
        if target is getitem:
            return args[0][args[1]]
        if target in CASTS:
            return self._cast(args[0], node.meta["val"].dtype)
        if target in MOVES:
            return _moved(target, args, kwargs)
        if target in PLACED:
            return self._placed(node, PLACED[target], known)
        if target in TRIANGLES:
            return self._triangle(node, args, kwargs)
        if target in RULES:
            values: Any = fx.node.map_arg(values_of(node), known.__getitem__)
            return self._combined(node, values)
        raise NotPlain(f"its index is computed, by {target}")

    def _number(self, meaning: Meaning) -> int:
        if meaning not in self._meaning_numbers:
            self._meaning_numbers[meaning] = len(self._meanings)
            self._meanings.append(meaning)
        return self._meaning_numbers[meaning]

    def _source(self, source: Source) -> int:
        if source not in self._source_numbers:
            self._source_numbers[source] = len(self.sources)
            self.sources.append(source)
        return self._number(KeyExpression.ids(self._source_numbers[source]))

    def _argument(self, node: fx.Node, rows: int) -> Marks:
        argument = self._probe.argument(node)
        made = example(self._probe.schema, {argument.name: argument}, rows, lambda each, column: 0, torch.device("cpu"))
        shape = made[argument.name].shape
        nowhere = torch.full(shape, NO_ROW)
        if argument.part not in ID_PARTS:
            unread = self._number(Unread(f"its index is made of {node.target}, which holds no ids"))
            return Marks(torch.full(shape, unread), nowhere, nowhere)
        columns = [
            self._source(Source(argument.name, column, feature)) for column, feature in enumerate(argument.features)
        ]
        by_row = torch.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1)).expand(shape)
        if argument.part == "values":
            return Marks(torch.full(shape, columns[0]), nowhere, by_row)
        if argument.part == "sequence":
            return Marks(torch.full(shape, columns[0]), by_row, torch.arange(shape[1]).expand(shape))
        return Marks(torch.tensor(columns).expand(shape), by_row, nowhere)

    def _joined(self, node: fx.Node, rows: int, known: Mapping[fx.Node, Any]) -> Any:
        """Return a join; a part that cannot be read spoils only its own elements."""
        parts: Any = node.args[0]
        read = [self._unread(each, rows, known[each]) for each in parts]
        target: Any = node.target
        others: Any = fx.node.map_arg(node.args[1:], known.__getitem__)
        if not any(isinstance(each, Marks) for each in read):
            return target(read, *others, **node.kwargs)
        kind = node.meta["val"].dtype
        marked = [self._cast(each if isinstance(each, Marks) else self._constants(each), kind) for each in read]
        return Marks(*(target([each.parts[which] for each in marked], *others, **node.kwargs) for which in range(3)))

    def _taken(self, move: RowMove, rows: int, marks: Any) -> Marks | None:
        """Return what a move takes of a whole sequence, as a source of its own; None if it moves anything else."""
        meaning = self._meaning_of_sequence(marks, rows)
        shape = None if meaning is None else move.shape(self._probe, rows)
        if meaning is None or shape is None:
            return None
        (number,) = meaning.features
        source = replace(self.sources[number], moved=move)
        self._source(source)
        own = self._number(meaning.renumbered({number: self._source_numbers[source]}))
        by_row = torch.arange(rows).reshape(-1, *[1] * (len(shape) - 1)).expand(shape)
        places = torch.arange(shape[1]).expand(shape) if len(shape) == 2 else torch.full(shape, NO_ROW)
        return Marks(torch.full(shape, own), by_row, places)

    def _meaning_of_sequence(self, marks: Any, rows: int) -> KeyExpression | None:
        """Return what each element of marks is, if they are a whole sequence, all its places alike."""
        if not isinstance(marks, Marks) or marks.rows.dim() != 2 or not marks.rows.numel():
            return None
        meaning = self.meaning(int(marks.meanings[0, 0]))
        if (
            isinstance(meaning, Unread)
            or len(meaning.features) != 1
            or not bool((marks.meanings == marks.meanings[0, 0]).all())
        ):
            return None
        source = self.sources[next(iter(meaning.features))]
        feature = self._probe.schema[source.feature]
        length = feature.length if isinstance(feature, IdSequence) else 0
        if source.moved is not None or tuple(marks.rows.shape) != (rows, length):
            return None
        in_place = (marks.rows == torch.arange(rows)[:, None]) & (marks.places == torch.arange(length))
        return meaning if bool(in_place.all()) else None

    def _placed(self, node: fx.Node, places: tuple[int, ...], known: Mapping[fx.Node, Any]) -> Marks:
        """Return elements of one tensor, with others or a constant in some of their places."""
        values: Any = fx.node.map_arg(values_of(node), known.__getitem__)
        kind = node.meta["val"].dtype
        held: dict[int, Marks | int] = {}
        for place in places:
            value = values[place]
            if isinstance(value, Marks | Tensor):
                held[place] = self._cast(value if isinstance(value, Marks) else self._constants(value), kind)
            else:
                given = torch.tensor(0 if value is None else value, dtype=kind)
                held[place] = int(self._constants(given).meanings)
        others = [value for place, value in enumerate(values) if place not in places]
        accumulates = node.target is aten.index_put.default and values[3]
        patterned = node.target is aten.pad.default and values[2] != "constant"
        if any(map(_is_marked, others)) or accumulates or patterned:
            raise NotPlain(f"its index is computed, by {node.target}")

        def part_of(value: Marks | int, which: int) -> Tensor | int:
            if isinstance(value, Marks):
                return value.parts[which]
            return NO_ROW if which else value

        target: Any = node.target
        parts = []
        for which in range(3):
            arguments = [part_of(held[at], which) if at in held else value for at, value in enumerate(values)]
            parts.append(target(*arguments))
        return Marks(*parts)

    def _triangle(self, node: fx.Node, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Marks:
        """Return the elements of a triangle, zeros elsewhere."""
        given: Marks = args[0]
        target: Any = node.target
        kept = target(torch.ones(given.rows.shape, dtype=torch.bool), *args[1:], **kwargs)
        zero = self._constants(torch.tensor(0, dtype=node.meta["val"].dtype))
        return Marks(*(torch.where(kept, own, none) for own, none in zip(given.parts, zero.parts, strict=True)))

    def _unread(self, node: fx.Node, rows: int, value: Any) -> Any:
        if not isinstance(value, NotPlain):
            return value
        made = self._probe.evaluate(node, self._probe.example(rows))
        unread = torch.full(made.shape, self._number(Unread(str(value))))
        return Marks(unread, torch.full_like(unread, NO_ROW), torch.full_like(unread, NO_ROW))

    def _constants(self, values: Tensor) -> Marks:
        kind = TYPES.get(values.dtype)
        plain = values.detach().cpu().numpy() if kind else np.zeros(0)
        distinct, inverse = np.unique(plain, return_inverse=True)
        if kind is None or len(distinct) > MAX_DIFFERENT or not np.isfinite(distinct).all():
            numbers = np.full(tuple(values.shape), self._number(Unread("its index is computed with other numbers")))
        else:
            made = [self._number(KeyExpression.constant(each, kind)) for each in distinct.tolist()]
            numbers = np.asarray(np.array(made, np.int64)[inverse.reshape(values.shape)])
        meanings = torch.from_numpy(numbers)
        return Marks(meanings, torch.full_like(meanings, NO_ROW), torch.full_like(meanings, NO_ROW))

    def _cast(self, marks: Marks, dtype: torch.dtype) -> Marks:
        kind = TYPES.get(dtype)

        def converted(meaning: Meaning) -> Meaning:
            if isinstance(meaning, Unread):
                return meaning
            return Unread(f"its index is cast to {dtype}") if kind is None else meaning.cast(kind)

        distinct, inverse = np.unique(marks.meanings.numpy(), return_inverse=True)
        cast = np.array([self._number(converted(self._meanings[each])) for each in distinct.tolist()], np.int64)
        return Marks(
            torch.from_numpy(np.asarray(cast[inverse.reshape(marks.meanings.shape)])), marks.rows, marks.places
        )

    def _combined(self, node: fx.Node, values: Sequence[Any]) -> Marks:
        """Return what an elementwise operator makes of its operands, the marked among them element by element."""
        tensors = [place for place, each in enumerate(values) if isinstance(each, Marks | Tensor)]
        shape = torch.broadcast_shapes(*(_shape(values[place]) for place in tensors))  # type: ignore[no-untyped-call]
        operands = [self._operand(values[place], shape) for place in tensors]
        rows = _of_same([each.rows for each in operands], "its index combines ids of different rows")
        places = _of_same([each.places for each in operands], "its index combines ids of different places of a row")
        columns = np.stack([each.meanings.reshape(-1).numpy() for each in operands], axis=1)
        distinct, inverse = np.unique(columns, axis=0, return_inverse=True)
        if len(distinct) > MAX_DIFFERENT:
            raise NotPlain("its index computes more than one thing of each id")
        types = _types_of(node, values)
        made = []
        for numbers in distinct.tolist():
            arguments = list(values)
            for place, number in zip(tensors, numbers, strict=True):
                arguments[place] = self._meanings[number]
            made.append(self._number(_applied(node, types, arguments)))
        meanings = np.asarray(np.array(made, np.int64)[inverse.reshape(-1)].reshape(tuple(shape)))
        return Marks(torch.from_numpy(meanings), rows, places)

    def _operand(self, value: Marks | Tensor, shape: torch.Size) -> Marks:
        marks = value if isinstance(value, Marks) else self._constants(value)
        return Marks(*(each.expand(shape) for each in marks.parts))


def _is_marked(value: Any) -> bool:
    return isinstance(value, Marks) or (isinstance(value, list | tuple) and any(map(_is_marked, value)))


def _shape(value: Marks | Tensor) -> torch.Size:
    return value.rows.shape if isinstance(value, Marks) else value.shape


def _moved(target: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    first, *rest = args
    if target in SHAPED_LIKE:
        shape = list(_shape(rest[0]))
        target, rest = (aten.expand.default if target is aten.expand_as.default else aten.reshape.default), [shape]
    if not isinstance(first, Marks) or any(map(_is_marked, rest)):
        raise NotPlain(f"its index is computed, by {target}")
    if target in VIEWS:  # marks lie in memory otherwise than ids
        target = aten.reshape.default
    with torch.no_grad():
        moved = [target(each, *rest, **kwargs) for each in first.parts]
    if isinstance(moved[0], list | tuple):
        return [Marks(*each) for each in zip(*moved, strict=True)]
    return Marks(*moved)


def _of_same(parts: Sequence[Tensor], problem: str) -> Tensor:
    """Return the row, or place, that elements have in common: that of constants fits any."""
    found = parts[0]
    for part in parts[1:]:
        if bool(((found != part) & (found != NO_ROW) & (part != NO_ROW)).any()):
            raise NotPlain(problem)
        found = torch.maximum(found, part)
    return found


def _types_of(node: fx.Node, values: Sequence[Any]) -> Types:
    """Return the types of an elementwise operator, by torch's rules."""
    stand_ins: list[Any] = []
    for given, value in zip(values_of(node)[:2], values[:2], strict=False):
        if isinstance(value, int | float):  # a number, that may be a node of its own: the number of rows
            stand_ins.append(value)
        elif isinstance(given, fx.Node):
            kind = given.meta["val"]
            stand_ins.append(torch.empty([1] * kind.dim(), dtype=kind.dtype))
    result = number_type(node.meta["val"].dtype)
    return Types(result, number_type(torch.result_type(*stand_ins)) if len(stand_ins) == 2 else result)


def _applied(node: fx.Node, types: Types, arguments: Sequence[Operand | Unread]) -> Meaning:
    unread = next((each for each in arguments if isinstance(each, Unread)), None)
    if unread is not None:
        return unread
    try:
        return RULES[node.target](types, *arguments)
    except NotPlain as reason:
        return Unread(str(reason))
    except InvalidInput as problem:
        return Unread(f"its index is computed, by {node.target}: {problem}")
