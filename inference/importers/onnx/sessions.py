"""Sessions of onnxruntime for imports: on the CPU, the tensors that are kept apart given in memory, errors named."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, ValueInfoProto

from ringpull.inference.importers.onnx.source import all_nodes
from ringpull.ps.errors import ExportError

Array = NDArray[Any]


_FOLDER: Final = "session.model_external_initializers_file_folder_path"


class GraphFailed(ExportError):
    """Raised when onnxruntime cannot load or run a graph. The message has what it said, in a line."""


class GraphNotLoaded(GraphFailed):
    """Raised when onnxruntime cannot load a graph, whatever it would be given."""


class Session:
    """A graph that can be run."""

    def __init__(self, model: ModelProto, weights: Mapping[str, Array], what: str, *, optimised: bool = True) -> None:
        """Load a graph.

        Args:
            model: The graph.
            weights: Its tensors that are kept apart; others than it has are let be.
            what: What to call it in messages.
            optimised: Whether onnxruntime may change it first.

        Raises:
            GraphNotLoaded: It cannot be loaded.
        """
        self._what = what
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        if not optimised:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        apart = [each for each in model.graph.initializer if each.data_location == TensorProto.EXTERNAL]
        # Those that no node takes any more are gone from onnxruntime's graph before it is given others.
        taken = {name for node in all_nodes(model.graph) for name in node.input}
        taken |= {each.name for each in model.graph.output}
        apart = [each for each in apart if each.name in weights and each.name in taken]
        self._kept = {}
        folders: dict[str, None] = {}
        for each in apart:
            location = next(entry.value for entry in each.external_data if entry.key == "location")
            file = getattr(weights[each.name], "filename", None)
            if file is None:
                self._kept[each.name] = onnxruntime.OrtValue.ortvalue_from_numpy(weights[each.name])
            else:  # onnxruntime maps it; what it is given in memory it copies
                folders[str(file).removesuffix(location)] = None
        for folder in folders:  # one: a graph's external data lies in its folder
            options.add_session_config_entry(_FOLDER, folder)
        if self._kept:
            options.add_external_initializers(list(self._kept), list(self._kept.values()))
        try:
            self._session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as exc:  # onnxruntime's have no root of their own
            raise GraphNotLoaded(f"{what}: onnxruntime cannot load it: {_said(exc)}") from exc
        self.inputs = tuple(each.name for each in self._session.get_inputs())
        """Names of what it takes."""

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> list[Any]:
        """Run it, and return `outputs`, or all, in their order.

        Raises:
            GraphFailed: It fails on these inputs.
        """
        options = onnxruntime.RunOptions()
        options.log_severity_level = 4
        try:
            given = {name: feeds[name] for name in self.inputs}
            return list(self._session.run(outputs, given, options))
        except Exception as exc:  # onnxruntime's have no root of their own
            raise GraphFailed(f"{self._what}: onnxruntime fails: {_said(exc)}") from exc


def with_outputs(model: ModelProto, names: Iterable[str]) -> ModelProto:
    """Return a graph with other outputs: tensors of it by name."""
    copy = ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    typed = {each.name: each for each in (*model.graph.output, *model.graph.value_info)}
    for name in names:
        copy.graph.output.append(typed.get(name) or ValueInfoProto(name=name))
    return copy


def _said(exc: Exception) -> str:
    text = str(exc).replace("\n", " ").strip()
    return text.split("Status Message: ")[-1][:400]
