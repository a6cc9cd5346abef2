"""Reference of an import: the graph as it was, run by onnxruntime as it is told to by default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from ringpull.inference.importers.onnx.binding import Bound
from ringpull.inference.importers.onnx.sessions import Session, with_outputs
from ringpull.inference.importers.onnx.source import SourceGraph

Array = NDArray[Any]


class GraphReference:
    """The graph as it was, run by onnxruntime."""

    def __init__(self, source: SourceGraph, bound: Bound, outputs: Mapping[str, str]) -> None:
        self._bound = bound
        self._outputs = dict(outputs)
        tensors = list(dict.fromkeys(self._outputs.values()))
        self._session = Session(with_outputs(source.model, tensors), source.weights, source.where)
        self._tensors = tensors

    def __call__(self, arguments: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs by name, of the schema's arguments."""
        found = dict(zip(self._tensors, self._session.run(self._bound.feeds(arguments), self._tensors), strict=True))
        return {name: found[tensor] for name, tensor in self._outputs.items()}
