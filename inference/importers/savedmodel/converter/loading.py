"""A SavedModel, read and loaded by TensorFlow: what may not be run is refused before anything of it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.core.protobuf import saved_model_pb2

from ringpull.inference.importers.savedmodel.converter.checking import check_model
from ringpull.inference.importers.savedmodel.converter.checkpoint import stored_tensors
from ringpull.inference.importers.savedmodel.converter.refusing import Refused, brief

_MAX_PROTO_BYTES: Final = 2**31 - 1
_TRAIN_OPS: Final = frozenset({"__saved_model_init_op", "__saved_model_train_op"})


def read_proto(folder: Path) -> Any:
    """Return the `SavedModel` message of a folder, of which nothing was run.

    Raises:
        Refused: There is none, it is damaged, or it has what is never run (`checking`).
    """
    file = folder / "saved_model.pb"
    if not file.is_file():
        if (folder / "saved_model.pbtxt").is_file():
            raise Refused("invalid", f"{folder}: has saved_model.pbtxt; save it again, as saved_model.pb")
        numbers = sorted(each.name for each in folder.iterdir() if (each / "saved_model.pb").is_file())
        hint = f"; {folder / numbers[-1]} has one" if numbers else ""
        raise Refused("invalid", f"{folder}: has no saved_model.pb, so it is no SavedModel{hint}")
    if file.stat().st_size > _MAX_PROTO_BYTES:
        raise Refused("corrupt", f"{file}: larger than 2 GiB, so no SavedModel")
    try:
        proto = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    except Exception as exc:
        raise Refused("corrupt", f"{file}: cannot be parsed; it was cut short, or is no SavedModel") from exc
    if not proto.meta_graphs or not any(_has_ops(each) for each in proto.meta_graphs):
        raise Refused("corrupt", f"{file}: holds no graph; it was cut short, or is no SavedModel")
    check_model(folder, proto)
    return proto


def load(folder: Path, tags: Sequence[str] | None) -> Any:
    """Return a SavedModel as TensorFlow loads it.

    Raises:
        Refused: It cannot be loaded: damaged variables, an op that this TensorFlow has not; the message says which.
    """
    proto = read_proto(folder)
    found = [tuple(sorted(each.meta_info_def.tags)) for each in proto.meta_graphs]
    chosen = tuple(sorted(tags)) if tags else ("serve",) if ("serve",) in found else found[0]
    if chosen not in found:
        raise Refused("invalid", f"{folder}: no graph has the tags {','.join(chosen)}; there are: {_listed(found)}")
    prefix = folder / "variables" / "variables"
    if prefix.with_name("variables.index").is_file():
        stored_tensors(prefix)
    try:
        return tf.saved_model.load(str(folder), tags=list(chosen))
    except Exception as exc:  # errors of TensorFlow have no root of their own
        text = brief(exc)
        if "Op type not registered" in text:
            raise Refused("refused", f"{folder}: needs an op that TensorFlow has not: {text}") from exc
        raise Refused(
            "corrupt", f"{folder}: TensorFlow {tf.__version__} cannot load it: {text}. Save it again, or copy it whole"
        ) from exc


def signatures_of(loaded: Any) -> dict[str, Any]:
    """Return the signatures of a loaded SavedModel, `serving_default` first."""
    names = [name for name in loaded.signatures if name not in _TRAIN_OPS]
    names.sort(key=lambda name: name != "serving_default")
    return {name: loaded.signatures[name] for name in names}


def inputs_of(function: Any) -> dict[str, tf.TensorSpec]:
    """Return the inputs of a signature by name."""
    return dict(function.structured_input_signature[1])


def outputs_of(function: Any) -> dict[str, Any]:
    """Return the outputs of a signature by name."""
    outputs = function.structured_outputs
    return dict(outputs) if isinstance(outputs, Mapping) else {"output": outputs}


def scores(function: Any, given: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return a signature's outputs for rows.

    Raises:
        Refused: TensorFlow fails on them.
    """
    specs = inputs_of(function)
    try:
        outputs = function(**{name: tf.constant(given[name], spec.dtype) for name, spec in specs.items()})
        return {name: np.asarray(value) for name, value in outputs.items()}
    except Exception as exc:  # as in `load`
        raise Refused("refused", f"TensorFlow fails on the rows of the check: {brief(exc)}") from exc


def _has_ops(graph: Any) -> bool:
    return bool(graph.graph_def.node) or any(each.node_def for each in graph.graph_def.library.function)


def _listed(found: Sequence[tuple[str, ...]]) -> str:
    return "; ".join(",".join(each) or "(none)" for each in found)
