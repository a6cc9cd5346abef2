"""Texts, and ids that a table of look-ups numbers, as numbers of a vocabulary: the graph takes those instead.

No table of look-ups and no text can be where there is no TensorFlow. So an input of texts becomes one of codes: 0 for
any text that the model does not know, i + 1 for the i-th one that it does. Ops that move texts without looking at them
(`Reshape`, `GatherNd`) move codes as well; ops that look (`LookupTableFindV2`, `Equal`) are asked beforehand what they
make of every known text and of an unknown one, and become a look-up of the answers. Inputs that meet, in a `ConcatV2`
say, share a vocabulary.

Ops that make something else of every text there may be (hashes, lower case) have no such answers: then the caller has
to say which texts there are.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from ringpull.inference.importers.savedmodel.converter.asking import TABLES, ask, constants_of, table_keys, table_of
from ringpull.inference.importers.savedmodel.converter.crosses import CROSS
from ringpull.inference.importers.savedmodel.converter.fingerprints import buckets, fingerprints, told
from ringpull.inference.importers.savedmodel.converter.flattening import in_order
from ringpull.inference.importers.savedmodel.converter.pieces import become, built
from ringpull.inference.importers.savedmodel.converter.refusing import Refused
from ringpull.inference.importers.savedmodel.converter.text_ops import (
    BUCKETS,
    CHANGES,
    COMPARES,
    DIGITS,
    FINDS,
    HASHES,
    LOOKS,
    MOVES,
    SHAPES,
)
from ringpull.inference.importers.savedmodel.converter.vocabulary import Vocabulary

_KEEPS_ALL: Final = frozenset({"Identity", "Reshape", "ExpandDims", "Squeeze"})
"""Ops that give the values they take, each once."""
_MAX_EXCEPTIONS: Final = 4
_MAX_COMPARED: Final = 65_536
"""Known values with which each that is looked up is compared."""
_STRING, _INT64 = tf.string.as_datatype_enum, tf.int64.as_datatype_enum


@dataclass
class Coded:
    """One graph whose inputs of texts take codes."""

    graph: Any
    vocabularies: list[Vocabulary]

    def of(self, placeholder: str) -> Vocabulary | None:
        """Return the vocabulary of an input."""
        return next((each for each in self.vocabularies if placeholder in each.inputs), None)


class Coder:
    """Puts codes into one graph, in two passes: which inputs meet and what is known, then what becomes of each op."""

    def __init__(
        self, graph: Any, handles: Mapping[str, Any], given: Mapping[str, Sequence[Any]], names: Mapping[str, str]
    ) -> None:
        """Prepare for a graph.

        Args:
            handles: Tables of look-ups by their placeholder.
            given: Values that an input may have, by its placeholder, where the caller says so.
            names: Name of an input by its placeholder, for messages.
        """
        self._nodes = in_order(graph)
        self._library = graph.library
        self._by_name = {node.name: node for node in self._nodes}
        self._handles = dict(handles)
        self._given = given
        self._names = names
        self._constants = constants_of(graph)
        self._of: dict[str, Vocabulary] = {}
        self._changed: dict[str, tuple[str, ...]] = {}
        self._changes: dict[str, Any] = {}
        self._made: list[Any] = []
        self._known_keys: dict[int, list[Any]] = {}
        self._finds: dict[int, Any] = {}
        """Op that looks in a table, as it was, by the table."""

    def coded(self) -> Coded:
        """Return the graph with codes.

        Raises:
            Refused: An op of texts has no counterpart; the message names op and input.
        """
        for node in self._nodes:
            if node.op in FINDS:
                found = tf.compat.v1.NodeDef()
                found.CopyFrom(node)
                self._finds.setdefault(id(self._handle(node)), found)
        for node in self._nodes:
            if node.op == "Placeholder" and (node.attr["dtype"].type == _STRING or node.name in self._found_ids()):
                self._of[f"{node.name}:0"] = Vocabulary({node.name}, texts=node.attr["dtype"].type == _STRING)
            elif any(_tensor(each) in self._of for each in node.input):
                self._meet(node)
        for vocabulary in self._distinct():
            self._complete(vocabulary)
        for node in self._nodes:
            if f"{node.name}:0" in self._of or any(_tensor(each) in self._of for each in node.input):
                self._rewrite(node)
            elif node.op in FINDS and node.attr["Tin"].type == _INT64:
                self._find_numbers(node)
            elif node.op == "LookupTableSizeV2":
                size = len(self._keys(node))
                self._become_constant(node, np.int64(size))
        graph = tf.compat.v1.GraphDef()
        graph.node.extend(self._nodes)
        graph.node.extend(self._made)
        graph.library.CopyFrom(self._library)  # bodies of loops
        return Coded(graph, self._distinct())

    def _found_ids(self) -> set[str]:
        """Return the placeholders of integers that nothing but tables of look-ups and comparisons look at."""
        if not hasattr(self, "_ids"):
            self._ids = {
                node.name
                for node in self._nodes
                if node.op == "Placeholder" and node.attr["dtype"].type in (_INT64, tf.int32.as_datatype_enum)
                if self._only_looked_up(node.name) or self._only_hashed(node.name)
            }
        return self._ids

    def _only_looked_up(self, placeholder: str) -> bool:
        """Whether all that is done with integers is to find them in tables of look-ups."""
        uses = self._uses(placeholder, _KEEPS_ALL)
        return bool(uses) and all(node.op in FINDS and places == [1] for node, places in uses)

    def _only_hashed(self, placeholder: str) -> bool:
        """Whether all that is done with integers is to hash their digits, or to compare them."""
        uses = self._uses(placeholder, MOVES)
        others = [use for use in uses if use[0].op != DIGITS or use[0].attr["width"].i > 0]
        return len(others) < len(uses) and all(self._compares_with_constants(*use) for use in others)

    def _uses(self, placeholder: str, moves: Collection[str]) -> list[tuple[Any, list[int]]]:
        """Return the ops that take integers, wherever these `moves` and casts to integers have put them, each with the
        places of these among its inputs."""
        moved: set[str] = {placeholder}
        uses = []
        for node in self._nodes:
            places = [place for place, each in enumerate(node.input) if _source(each) in moved]
            if not places or node.op in SHAPES:
                continue
            to_integers = node.op == "Cast" and node.attr["DstT"].type in (_INT64, tf.int32.as_datatype_enum)
            if places == [0] and (to_integers or node.op in moves):
                moved.add(node.name)
            else:
                uses.append((node, places))
        return uses

    def _compares_with_constants(self, node: Any, places: list[int]) -> bool:
        others = {_source(each) for place, each in enumerate(node.input) if place not in places}
        return node.op in COMPARES and others <= self._constants.keys()

    def _meet(self, node: Any) -> None:
        """Note what an op does with coded inputs."""
        coded = [each for each in node.input if _tensor(each) in self._of]
        if node.op in SHAPES:
            return
        if node.op == CROSS:
            for each in coded:
                self._of[_tensor(each)].endless.append(node)
            return
        mine = self._of[_tensor(coded[0])]
        changed = {self._changed.get(_tensor(each), ()) for each in coded}
        if node.op in FINDS and len(coded) == 1:
            if _tensor(coded[0]) not in self._changed:
                mine.known.update(dict.fromkeys(self._keys(node)))
            return
        if node.op in HASHES | LOOKS:
            mine.endless.append(node)
            return
        if node.op in CHANGES:
            mine.endless.append(node)
            self._of[f"{node.name}:0"] = mine
            self._changes[node.name] = tf.compat.v1.NodeDef()
            self._changes[node.name].CopyFrom(node)
            self._changed[f"{node.name}:0"] = (*next(iter(changed)), node.name)
            return
        texts = self._beside(node, mine)
        if node.op in COMPARES and len(coded) == 1 and texts is not None:
            if changed == {()}:
                mine.known.update(dict.fromkeys(texts))
            return
        if node.op not in MOVES | {"Cast", DIGITS} or texts is None or len(changed) > 1 or (texts and changed != {()}):
            raise Refused(
                "refused",
                f"{node.op} ({node.name}) does something with the texts of {self._told(mine)} that only"
                " TensorFlow can; prepare them before the model, or leave this output out",
            )
        for each in coded[1:]:
            mine = self._joined(mine, self._of[_tensor(each)])
        mine.known.update(dict.fromkeys(texts))
        for tensor in _moved(node):
            self._of[tensor] = mine
            if changed != {()}:
                self._changed[tensor] = next(iter(changed))

    def _beside(self, node: Any, mine: Vocabulary) -> list[Any] | None:
        """Return the constant texts that an op takes beside coded ones; None: one of its texts is no constant."""
        if not mine.texts:
            return []
        found: list[Any] = []
        for each in node.input:
            name = _source(each)
            if _tensor(each) in self._of or not self._is_text(name):
                continue
            if name not in self._constants:
                return None
            found += self._constants[name].reshape(-1).tolist()
        return found

    def _is_text(self, name: str) -> bool:
        node = self._by_name[name]
        return node.op in MOVES | CHANGES | {"Const"} and any(value.type == _STRING for value in node.attr.values())

    def _joined(self, one: Vocabulary, other: Vocabulary) -> Vocabulary:
        if one is other:
            return one
        one.inputs |= other.inputs
        one.known.update(other.known)
        one.endless += other.endless
        for name, vocabulary in self._of.items():
            if vocabulary is other:
                self._of[name] = one
        return one

    def _told(self, vocabulary: Vocabulary) -> str:
        return ", ".join(sorted(self._names.get(each, each) for each in vocabulary.inputs))

    def _distinct(self) -> list[Vocabulary]:
        return list({id(each): each for each in self._of.values()}.values())

    def _complete(self, vocabulary: Vocabulary) -> None:
        """Take the caller's values in, and bring all in the order of what the largest table numbers them."""
        for name in sorted(vocabulary.inputs):
            given = self._given.get(name, ())
            vocabulary.known.update(
                dict.fromkeys(each.encode() if isinstance(each, str) else int(each) for each in given)
            )
            vocabulary.endless = [] if given else vocabulary.endless
        vocabulary.hashed = bool(vocabulary.endless) and all(each.op in (BUCKETS, CROSS) for each in vocabulary.endless)
        if vocabulary.hashed:
            return
        if vocabulary.endless:
            ops = "; ".join(f"{each.op} ({each.name})" for each in vocabulary.endless[:3])
            raise Refused(
                "refused",
                f"input {self._told(vocabulary)}: {ops} makes something of"
                " every text there may be, which cannot be done without TensorFlow; say which texts there are:"
                " --texts INPUT=FILE, one a line (any other will count as unknown)",
            )
        tables = [
            node for node in self._nodes if node.op in FINDS and self._of.get(_tensor(node.input[1])) is vocabulary
        ]
        if tables:
            largest = max(tables, key=lambda node: len(self._keys(node)))
            values = self._asked(largest, vocabulary)[1:]
            order = sorted(
                zip(values.tolist(), range(len(values)), vocabulary.known, strict=True), key=lambda each: each[:2]
            )
            vocabulary.known = {known: None for _, _, known in order}

    def _asked(self, node: Any, vocabulary: Vocabulary) -> NDArray[Any]:
        """Return what an op makes of each code of a vocabulary."""
        values = vocabulary.array()
        place = next(place for place, each in enumerate(node.input) if self._of.get(_tensor(each)) is vocabulary)
        for change in self._changed.get(_tensor(node.input[place]), ()):
            values = ask(self._changes[change], {0: values}, self._constants, {})
        if node.op in FINDS and not vocabulary.texts:
            values = values.astype(tf.as_dtype(node.attr["Tin"].type).as_numpy_dtype)
        handles = {_source(node.input[0]): self._handle(node)} if node.op in FINDS else {}
        return ask(node, {place: values}, self._constants, handles)

    def _rewrite(self, node: Any) -> None:
        if node.op == "Placeholder":
            node.attr["dtype"].type = _INT64
            return
        places = [place for place, each in enumerate(node.input) if _tensor(each) in self._of]
        vocabulary = self._of[_tensor(node.input[places[0]])]
        if node.op == CROSS:
            self._rewrite_cross(node, places)
            return
        if vocabulary.hashed and node.op in FINDS | HASHES:
            self._of_fingerprints(node, node.input[places[0]], vocabulary)
            return
        compared = node.op in COMPARES and _tensor(node.input[places[0]]) not in self._changed
        if node.op in FINDS | HASHES | LOOKS or (node.op in COMPARES and not compared):
            self._become_answers(node, node.input[places[0]], self._asked(node, vocabulary))
            return
        if node.op in CHANGES | {"Cast", DIGITS}:
            source = node.input[places[0]]
            node.op = "Identity"
            _clear(node, source)
            node.attr["T"].type = _INT64
            return
        for place, each in enumerate(node.input):
            if _source(each) in self._constants and (self._is_text(_source(each)) or (vocabulary.hashed and compared)):
                codes = vocabulary.codes_of(self._constants[_source(each)])
                node.input[place] = self._constant(f"{node.name}/ringpull_{place}", codes)
        for key, value in node.attr.items():
            if value.type == _STRING or (not vocabulary.texts and key in ("T", "Tparams")):
                node.attr[key].type = _INT64
        node.attr.pop("_output_shapes", None)

    def _rewrite_cross(self, node: Any, places: Sequence[int]) -> None:
        """Have a cross take fingerprints, of which `expand_crosses` makes arithmetic."""
        for place in places:
            vocabulary, codes = self._of[_tensor(node.input[place])], node.input[place]
            if not vocabulary.hashed:
                known = self._constant(f"{node.name}/ringpull_known_{place}", fingerprints(vocabulary.values))
                pieces = built(
                    f"{node.name}/ringpull_{place}",
                    [(known, tf.int64), (codes, tf.int64)],
                    lambda known, codes: tf.gather(known, codes),
                )
                self._made += pieces
                node.input[place] = f"{node.name}/ringpull_{place}/0"
            count = node.attr["N"].i
            key, at = ("sparse_types", place - count) if place < 3 * count else ("dense_types", place - 3 * count)
            node.attr[key].list.type[at] = _INT64

    def _of_fingerprints(self, node: Any, codes: str, vocabulary: Vocabulary) -> None:
        """Turn an op into arithmetic on fingerprints."""
        given = [(codes, tf.int64)]
        if node.op in HASHES:
            count = node.attr["num_buckets"].i
            self._made += built(f"{node.name}/ringpull", given, lambda each: buckets(each, count))
            become(node, f"{node.name}/ringpull/0", tf.int64)
            return
        self._find_one_by_one(node, codes, fingerprints(self._keys(node)), texts=vocabulary.texts)

    def _find_numbers(self, node: Any) -> None:
        """Turn the look-up of integers that are something else, too, into comparisons with the known ones."""
        self._find_one_by_one(node, node.input[1], np.array(self._keys(node), np.int64), texts=False)

    def _find_one_by_one(self, node: Any, given: str, known: NDArray[np.int64], *, texts: bool) -> None:
        """Turn a look-up into comparisons with `known`, which stand for the keys of its table."""
        if len(known) > _MAX_COMPARED:
            raise Refused(
                "refused",
                f"{node.op} ({node.name}): looks numbers up among {len(known):,} known ones, which without TensorFlow"
                f" are compared one by one, {_MAX_COMPARED:,} at most; look them up before the model, or"
                " list all texts: --texts INPUT=FILE",
            )
        asked = Vocabulary(known=dict.fromkeys(self._keys(node)), texts=texts).array()
        answers = ask(node, {1: asked}, self._constants, {_source(node.input[0]): self._handle(node)})
        self._made += built(
            f"{node.name}/ringpull", [(given, tf.int64)], lambda each: told(each, known, answers[1:], answers[0])
        )
        become(node, f"{node.name}/ringpull/0", answers.dtype)

    def _become_answers(self, node: Any, codes: str, answers: NDArray[Any]) -> None:
        """Turn an op into the look-up of what it makes of each code."""
        others = _exceptions(answers) if answers.dtype == np.int64 and answers.ndim == 1 else None
        if others is not None:
            self._become_numbers(node, codes, answers, *others)
            return
        known = self._constant(f"{node.name}/ringpull_answers", answers)
        axis = self._constant(f"{node.name}/ringpull_axis", np.int32(0))
        node.op = "GatherV2"
        _clear(node, known, codes, axis)
        node.attr["Tparams"].type = tf.as_dtype(answers.dtype).as_datatype_enum
        node.attr["Tindices"].type, node.attr["Taxis"].type = _INT64, tf.int32.as_datatype_enum

    def _become_numbers(self, node: Any, codes: str, answers: NDArray[Any], added: int, others: list[int]) -> None:
        """Turn an op into arithmetic: a number is added to all codes but a few, which are told one by one.

        What is looked up by such numbers can be looked up by the codes; by what a gather gives it could not.
        """
        last = codes
        if added:
            last = self._op(
                f"{node.name}/ringpull_sum",
                "AddV2",
                codes,
                self._constant(f"{node.name}/ringpull_add", np.int64(added)),
            )
        for code in others:
            one = self._constant(f"{node.name}/ringpull_code_{code}", np.int64(code))
            is_one = self._op(f"{node.name}/ringpull_is_{code}", "Equal", codes, one)
            value = self._constant(f"{node.name}/ringpull_value_{code}", answers[code])
            last = self._op(f"{node.name}/ringpull_or_{code}", "SelectV2", is_one, value, last)
        node.op = "Identity"
        _clear(node, last)
        node.attr["T"].type = _INT64

    def _op(self, name: str, op: str, *inputs: str) -> str:
        made = tf.compat.v1.NodeDef(name=name, op=op, input=list(inputs))
        made.attr["T"].type = _INT64
        self._made.append(made)
        return name

    def _become_constant(self, node: Any, value: Any) -> None:
        node.op = "Const"
        _clear(node)
        node.attr["dtype"].type = tf.as_dtype(value.dtype).as_datatype_enum
        node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))

    def _constant(self, name: str, value: Any) -> str:
        node = tf.compat.v1.NodeDef(name=name)
        self._become_constant(node, np.asarray(value))
        self._made.append(node)
        return name

    def _keys(self, node: Any) -> list[Any]:
        """Return the keys of the table that an op looks in."""
        handle = self._handle(node)
        if id(handle) not in self._known_keys:
            if id(handle) not in self._finds:
                raise Refused("refused", f"{node.op} ({node.name}): nothing is looked up in its table")
            self._known_keys[id(handle)] = table_keys(handle, self._finds[id(handle)])
        return self._known_keys[id(handle)]

    def _handle(self, node: Any) -> Any:
        """Return the table of a look-up."""
        name = _source(node.input[0])
        while name not in self._handles:
            inner = self._by_name.get(name)
            if inner is not None and inner.op in TABLES:
                self._handles[name] = table_of(inner)
                break
            if inner is None or inner.op != "Identity":
                raise Refused("refused", f"{node.op} ({node.name}): its table cannot be found in the graph")
            name = _source(inner.input[0])
        return self._handles[name]


def _exceptions(answers: NDArray[np.int64]) -> tuple[int, list[int]] | None:
    """Return what is added to codes to give these answers, and the few codes of which it is not so; None: many."""
    added, counts = np.unique(answers - np.arange(len(answers)), return_counts=True)
    most = added[int(np.argmax(counts))]
    others = np.flatnonzero(answers - np.arange(len(answers)) != most)
    return (int(most), others.tolist()) if len(others) <= _MAX_EXCEPTIONS else None


def _clear(node: Any, *inputs: str) -> None:
    node.attr.clear()
    del node.input[:]
    node.input.extend(inputs)


def _moved(node: Any) -> list[str]:
    """Return the outputs of an op that moves texts which hold these."""
    if node.op in ("SparseFillEmptyRows", "SparseConcat", "SparseReorder"):
        return [f"{node.name}:1"]
    count = 1
    for key in ("num", "num_split"):
        if key in node.attr:
            count = node.attr[key].i
    return [f"{node.name}:{place}" for place in range(count)]


def _tensor(given: str) -> str:
    """Return the whole name of a tensor."""
    name = given.lstrip("^")
    return name if ":" in name else f"{name}:0"


def _source(tensor: str) -> str:
    """Return the node that a tensor is of."""
    return tensor.lstrip("^").split(":")[0]
