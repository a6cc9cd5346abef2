"""Signatures of a SavedModel: put together into one graph, turned into ONNX, and described as JSON."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import tensorflow as tf
import tf2onnx

from ringpull.inference.importers.savedmodel.converter.bags import BagFinder
from ringpull.inference.importers.savedmodel.converter.checkpoint import place_of, stored_tensors
from ringpull.inference.importers.savedmodel.converter.codes import Coder
from ringpull.inference.importers.savedmodel.converter.crosses import expand_crosses
from ringpull.inference.importers.savedmodel.converter.dense_again import take_dense
from ringpull.inference.importers.savedmodel.converter.examples import without_examples
from ringpull.inference.importers.savedmodel.converter.flattening import (
    Flat,
    flatten,
    pruned,
    take_directly,
)
from ringpull.inference.importers.savedmodel.converter.loading import inputs_of, outputs_of
from ringpull.inference.importers.savedmodel.converter.plain_ops import (
    BUCKETIZE,
    CHOICES,
    widen_bfloat16,
    write_plainly,
)
from ringpull.inference.importers.savedmodel.converter.refusing import Refused, brief
from ringpull.inference.importers.savedmodel.converter.vocabulary import Vocabulary

OPSET: Final = 17
_WEIGHTED: Final = re.compile(r"(?:^|/)([^/]+?)_weighted_by_([^/]+?)_(?:embedding|indicator|shared_embedding)")
"""What TensorFlow calls the nodes of a column that weights its ids by another input."""
CROSSES_OPSET: Final = 18
"""The first that has a bitwise xor."""
_CHUNK_BYTES: Final = 64 << 20


@dataclass
class Joined:
    """Signatures that take the same inputs, in one graph."""

    graph: Any = field(default_factory=tf.compat.v1.GraphDef)
    inputs: dict[str, tuple[str, Any]] = field(default_factory=dict)
    """Placeholder and type with shape of each input that a signature has, whether it is needed or not."""
    outputs: list[tuple[str, str, str, Any]] = field(default_factory=list)
    """Signature, name in it, tensor, and type with shape of each output."""
    weights: dict[str, Any] = field(default_factory=dict)
    """Variable by its constant, or its placeholder."""
    variables: dict[str, Any] = field(default_factory=dict)
    """Variables that are placeholders, because they are big."""
    handles: dict[str, Any] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)
    """Features of the examples that a signature takes."""
    pads: dict[str, Any] = field(default_factory=dict)
    """What stands for none in a feature of an example that has any number of values."""
    signatures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What is left out, and why."""


def join(signatures: Mapping[str, Any], wanted: Sequence[str] | None, big_bytes: int) -> Joined:
    """Return signatures in one graph: those that are wanted, or the default one and all that take no other inputs.

    Raises:
        Refused: There is no such signature, or those wanted take different inputs.
    """
    if not signatures:
        raise Refused(
            "invalid", "it has no signature, so it cannot be served; save it by model.export() or with signatures="
        )
    if missing := [name for name in wanted or () if name not in signatures]:
        raise Refused("invalid", f"there is no signature {missing[0]}; there are: {', '.join(signatures)}")
    joined = Joined()
    for place, name in enumerate(wanted or signatures):
        try:
            flat = flatten(name, signatures[name], big_bytes)
            flat, parsed, pads = without_examples(name, flat)
            specs = parsed or inputs_of(signatures[name])
            _check_inputs(name, specs, joined)
            _add(joined, place, name, flat, specs, outputs_of(signatures[name]))
        except Refused as exc:
            if wanted or place == 0:
                raise
            joined.notes.append(f"signature {name} is left out: {exc}")
            continue
        joined.signatures.append(name)
        if parsed:
            joined.examples[name] = list(parsed)
            joined.pads |= pads
    if not joined.outputs:
        raise Refused("refused", "none of its outputs is numbers by row: " + "; ".join(joined.notes))
    return joined


def _check_inputs(name: str, specs: Mapping[str, Any], joined: Joined) -> None:
    """Check that a signature takes nothing but what those before it take."""
    for key, spec in specs.items():
        if not isinstance(spec, tf.TensorSpec):
            raise Refused("refused", f"signature {name}: input {key} is no plain tensor but {type(spec).__name__}")
        if spec.shape.rank == 0:
            raise Refused("refused", f"signature {name}: input {key} has no rows: its shape is {spec.shape}")
        if spec.shape.rank and spec.shape[0] is not None:
            raise Refused(
                "refused",
                f"signature {name}: input {key} takes {spec.shape[0]} rows, no more and no fewer; save it"
                " with a first dimension of None",
            )
        if not joined.signatures:
            continue
        known = joined.inputs.get(key)
        if known is None or known[1].dtype != spec.dtype or _values(known[1]) != _values(spec):
            raise Refused(
                "invalid",
                f"it takes {key} {spec.dtype.name} {spec.shape}, which {joined.signatures[0]} does not; import it as a"
                f" model of its own: --signature {name}",
            )


def _values(spec: Any) -> list[Any]:
    """Return the shape of a row, as clients count it: one value is one, in a list of its own or not."""
    shape = spec.shape.as_list()[1:] if spec.shape.rank else []
    return [] if shape == [1] else shape


def _add(
    joined: Joined, place: int, name: str, flat: Flat, specs: Mapping[str, Any], outputs: Mapping[str, Any]
) -> None:
    """Add a signature's graph to others, its inputs, variables and tables being the same nodes as theirs."""
    names: dict[str, str] = {}
    for key, spec in specs.items():
        joined.inputs.setdefault(key, (f"ringpull_input_{len(joined.inputs)}", spec))
        if key in flat.inputs:
            names[flat.inputs[key]] = _shaped(joined, key, spec)
    for inner, handle in flat.handles.items():
        found = next((each for each, known in joined.handles.items() if known is handle), None)
        names[inner] = found or f"ringpull_table_{len(joined.handles)}"
        joined.handles[names[inner]] = handle
    for inner, variable in flat.weights.items():
        found = next((each for each, known in joined.weights.items() if known is variable), None)
        names[inner] = found or _free_name(variable.name, joined)
        joined.weights[names[inner]] = variable
        if inner in flat.variables:
            joined.variables[names[inner]] = variable
    there = {node.name for node in joined.graph.node}
    for node in flat.graph.node:
        names.setdefault(node.name, f"signature_{place}/{node.name}")
        if names[node.name] in there:
            continue
        added = joined.graph.node.add()
        added.CopyFrom(node)
    for node in joined.graph.node:
        if node.name in there:
            continue
        node.name = names[node.name]
        renamed = [_renamed(each, names) for each in node.input]
        del node.input[:]
        node.input.extend(renamed)
    known = {each.signature.name for each in joined.graph.library.function}
    joined.graph.library.function.extend(
        each for each in flat.graph.library.function if each.signature.name not in known
    )
    for key, tensor in flat.outputs.items():
        spec = outputs[key]
        if spec.dtype == tf.string or spec.dtype.is_complex:
            joined.notes.append(f"output {key} of {name} is left out: it is of {spec.dtype.name}, an answer of numbers")
        elif spec.shape.rank == 0 or (spec.shape.rank and spec.shape[0] is not None):
            joined.notes.append(f"output {key} of {name} is left out: its shape {spec.shape} has no rows")
        else:
            joined.outputs.append((name, key, _renamed(tensor, names), spec))


def _free_name(variable: str, joined: Joined) -> str:
    """Return a name for a variable in the graph: its own, without what all embeddings' end in."""
    plain = variable.split(":")[0].removesuffix("/embeddings").removesuffix("/embedding_weights") or "variable"
    plain = plain if plain[0].isalnum() else f"variable_{plain}"
    tried = (plain, *(f"{plain}_{number}" for number in range(2, len(joined.weights) + 3)))
    return next(each for each in tried if each not in joined.weights)


def _shaped(joined: Joined, key: str, spec: Any) -> str:
    """Return the node that has an input in the shape that a signature takes it in."""
    name, first = joined.inputs[key]
    rank = spec.shape.rank or 1
    if (first.shape.rank or 1) == rank <= 2:
        return name
    sizes = [1 if each is None else each for each in spec.shape.as_list()[1:]] if rank > 1 else []
    shaped = f"{name}_{rank}"
    there = {node.name for node in joined.graph.node}
    if name not in there:
        joined.graph.node.add(name=name, op="Placeholder").attr["dtype"].type = spec.dtype.as_datatype_enum
    if shaped not in there:
        shape = joined.graph.node.add(name=f"{shaped}_shape", op="Const")
        shape.attr["dtype"].type = tf.int64.as_datatype_enum
        shape.attr["value"].tensor.CopyFrom(tf.make_tensor_proto([-1, *sizes], tf.int64))
        node = joined.graph.node.add(name=shaped, op="Reshape", input=[name, shape.name])
        node.attr["T"].type, node.attr["Tshape"].type = spec.dtype.as_datatype_enum, tf.int64.as_datatype_enum
    return shaped


def _renamed(tensor: str, names: Mapping[str, str]) -> str:
    node, colon, place = tensor.lstrip("^").partition(":")
    return names.get(node, node) + colon + place


def convert(
    joined: Joined, folder: Path, out: Path, texts: Mapping[str, Sequence[Any]]
) -> tuple[dict[str, Any], dict[str, Vocabulary]]:
    """Write `out/model.onnx`, and big variables that the checkpoint has not in one piece; return what is known of it.

    Args:
        folder: The SavedModel's.
        texts: Values that an input may have, where the caller says so.

    Raises:
        Refused: An op has no counterpart in ONNX; the message names it.
    """
    given = {joined.inputs[key][0]: values for key, values in texts.items() if key in joined.inputs}
    if unknown := sorted(texts.keys() - joined.inputs.keys()):
        raise Refused("invalid", f"--texts {unknown[0]}: there is no such input; there are: {', '.join(joined.inputs)}")
    for name, spec in joined.inputs.values():
        _give_shape(joined.graph, name, spec)
    for place, (_, _, tensor, _) in enumerate(joined.outputs):
        _add_output(joined.graph, place, tensor, joined.outputs[place][3])
    tensors = [f"ringpull_output_{place}:0" for place in range(len(joined.outputs))]
    graph = pruned(joined.graph, tensors)
    _check_weighted(graph)
    take_directly(graph, joined.weights)
    coded = Coder(graph, joined.handles, given, {place: key for key, (place, _) in joined.inputs.items()}).coded()
    crosses = expand_crosses(coded.graph)
    widen_bfloat16(coded.graph)
    take_dense(coded.graph)
    counted = [node.name for node in coded.graph.node if node.op == BUCKETIZE]
    bags = BagFinder(coded, joined.variables, dict(joined.inputs.values()), [*crosses, *counted])
    bags.replace()
    write_plainly(coded.graph)
    graph = pruned(coded.graph, tensors)
    left = {node.name: node for node in graph.node if node.op == "Placeholder"}
    for node in graph.node:
        if any(each.split(":")[0] in left.keys() & joined.handles.keys() for each in node.input):
            raise Refused(
                "refused",
                f"{node.op} ({node.name}): uses a table of look-ups in a way that only TensorFlow can; look its keys up"
                " before the model, or leave this output out (--signature)",
            )
    model = _to_onnx(graph, [f"{name}:0" for name in left], tensors, CROSSES_OPSET if crosses else OPSET)
    onnx.save(model, str(out / "model.onnx"))
    vocabularies = {
        key: vocabulary for key, (name, _) in joined.inputs.items() if (vocabulary := coded.of(name)) is not None
    }
    known = {
        "tensorflow": tf.__version__,
        "tf2onnx": tf2onnx.__version__,
        "signatures": joined.signatures,
        "inputs": [
            _input(key, name, spec, left, vocabularies.get(key), bags.pads.get(name), joined.pads.get(key))
            for key, (name, spec) in joined.inputs.items()
        ],
        "outputs": [
            {"signature": signature, "name": key, "tensor": tensors[place], "dtype": spec.dtype.name}
            for place, (signature, key, _, spec) in enumerate(joined.outputs)
        ],
        "variables": _placed(folder, out, {name: each for name, each in joined.variables.items() if name in left}),
        "notes": joined.notes + bags.notes,
    }
    return known, vocabularies


def _check_weighted(graph: Any) -> None:
    """Check that no feature column weights its ids by another input: ids and weights are told apart by their zeros.

    Raises:
        Refused: There is such a column.
    """
    for node in graph.node:
        if (found := _WEIGHTED.search(node.name)) is not None:
            of, by = found.groups()
            raise Refused(
                "refused",
                f"feature column {of}_weighted_by_{by} (weighted_categorical_column) cannot be turned into ONNX; build"
                f" the model with an embedding of {of}, (batch, n, dim), times {by}, (batch, n, 1), summed over n: the"
                " same scores, and a table of its own",
            )


def _give_shape(graph: Any, name: str, spec: Any) -> None:
    """Say the shape of an input: of one that may have any, a value a row; of one of many dimensions, one of two."""
    shape = spec.shape if spec.shape.rank else tf.TensorShape([None])
    if shape.rank > 2:
        shape = tf.TensorShape([None, shape[1:].num_elements()])
    for node in graph.node:
        if node.name == name:
            node.attr["shape"].shape.CopyFrom(shape.as_proto())


def _add_output(graph: Any, place: int, tensor: str, spec: Any) -> None:
    node = graph.node.add(name=f"ringpull_output_{place}", op="Cast", input=[tensor])
    node.attr["SrcT"].type, node.attr["DstT"].type = spec.dtype.as_datatype_enum, tf.float32.as_datatype_enum


def _input(
    key: str,
    name: str,
    spec: Any,
    left: Mapping[str, Any],
    vocabulary: Vocabulary | None,
    pad: int | None,
    nothing: Any,
) -> dict[str, Any]:
    """Return what is known of an input; `tensor` is None where no output needs it.

    Args:
        pad: Code or id that stands for none in its bags, where these were found.
        nothing: Value that stands for none, where the way in which examples are parsed says so.
    """
    if nothing is not None:
        pad = vocabulary.number(nothing) if vocabulary is not None else nothing
    hashed = vocabulary is not None and vocabulary.hashed
    known: dict[str, Any] = {
        "name": key,
        "tensor": f"{name}:0" if name in left else None,
        "dtype": spec.dtype.name,
        "shape": [None, *(spec.shape.as_list()[1:] if spec.shape.rank else [])],
        "known": None,
        "hashed": hashed,
        "pad": pad,
    }
    if vocabulary is not None and hashed:
        known["pad"] = vocabulary.number(b"" if vocabulary.texts else -1)
    elif vocabulary is not None:
        known["known"] = [_text(each) if vocabulary.texts else each for each in vocabulary.known]
    return known


def _text(value: bytes) -> str:
    """Return a text of a vocabulary. One that is no UTF-8 is what no client can send: it stands as an unlikely one."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return f"\x1d{value.hex()}"


def _to_onnx(graph: Any, inputs: list[str], outputs: list[str], opset: int) -> Any:
    try:
        model, _ = tf2onnx.convert.from_graph_def(
            graph, input_names=inputs, output_names=outputs, opset=opset, custom_op_handlers=CHOICES
        )
    except Exception as exc:  # tf2onnx raises whatever comes
        raise Refused("refused", f"tf2onnx {tf2onnx.__version__} cannot turn it into ONNX: {brief(exc)}") from exc
    odd = sorted({f"{node.domain}.{node.op_type}" for node in model.graph.node if node.domain not in ("", "ai.onnx")})
    if odd:
        raise Refused("refused", f"tf2onnx leaves ops that are no ONNX: {', '.join(odd[:5])}")
    return model


def _placed(folder: Path, out: Path, variables: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return where the values of big variables lie: in the checkpoint as they are, or in a file of their own."""
    prefix = folder / "variables" / "variables"
    stored = stored_tensors(prefix) if variables else {}
    placed = []
    for place, (name, variable) in enumerate(variables.items()):
        shape, dtype = tuple(variable.shape.as_list()), variable.dtype.base_dtype
        written = tf.float32 if dtype == tf.bfloat16 else dtype
        known = {"tensor": f"{name}:0", "name": variable.name, "shape": list(shape), "dtype": written.name}
        for each in stored.values() if written == dtype else ():
            if each.shape == shape and each.dtype == dtype.as_datatype_enum and _same(each, variable):
                placed.append(known | place_of(each))
                break
        else:
            file = out / f"variable_{place}.raw"
            with file.open("wb") as opened:
                for rows in _rows(variable):
                    opened.write(np.ascontiguousarray(rows, written.as_numpy_dtype).tobytes())
            placed.append(known | {"file": str(file), "offset": 0})
    return placed


def _same(stored: Any, variable: Any) -> bool:
    """Whether a tensor of the checkpoint holds the values of a variable, to the last bit."""
    dtype = variable.dtype.base_dtype.as_numpy_dtype
    there = np.memmap(stored.file, dtype, "r", stored.offset, stored.shape)
    at = 0
    for rows in _rows(variable):
        if there[at : at + len(rows)].tobytes() != rows.tobytes():
            return False
        at += len(rows)
    return True


def _rows(variable: Any) -> Any:
    """Yield a variable's rows, some at a time."""
    count, dim = variable.shape.as_list()
    step = max(1, _CHUNK_BYTES // max(1, dim * variable.dtype.size))
    for at in range(0, count, step):
        yield variable.sparse_read(np.arange(at, min(at + step, count))).numpy()
