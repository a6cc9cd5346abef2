"""sklearn's OneHotEncoder for skl2onnx: every column of any type, what is infrequent, dropped, missing or not known.

skl2onnx has one, which takes neither infrequent categories of one column, nor such as are unknown, nor numbers that are
no integers.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto
from skl2onnx import update_registered_converter
from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType
from sklearn.preprocessing import OneHotEncoder

from ringpull.inference.importers.forest import ML_DOMAIN

_OPSET: Final = 13


def register_one_hot() -> None:
    """Make it known to skl2onnx in place of its own."""
    update_registered_converter(
        OneHotEncoder, "RingpullOneHotEncoder", _shapes, _convert, options={"categories": None}, overwrite=True
    )


def _shapes(operator: Any) -> None:
    encoder = operator.raw_operator
    rows = operator.inputs[0].get_first_dimension()
    operator.outputs[0].type = FloatTensorType([rows, len(encoder.get_feature_names_out())])


def _convert(scope: Any, operator: Any, container: Any) -> None:
    encoder = operator.raw_operator
    writer = _Columns(scope, container)
    parts: list[str] = []
    place = 0
    for given in operator.inputs:
        width = int(given.type.shape[1])
        for column in range(width):
            name = given.full_name if width == 1 else writer.chosen(given.full_name, [column])
            parts.append(writer.encoded(encoder, place, name, given.type))
            place += 1
    container.add_node(
        "Concat",
        parts,
        operator.outputs[0].full_name,
        axis=1,
        op_version=_OPSET,
        name=scope.get_unique_operator_name("c"),
    )


class _Columns:
    """A writer of nodes."""

    def __init__(self, scope: Any, container: Any) -> None:
        self._scope = scope
        self._container = container

    def encoded(self, encoder: Any, place: int, given: str, kind: Any) -> str:
        """Return what becomes of one column (B, 1): (B, n)."""
        categories: NDArray[Any] = encoder.categories_[place]
        strict = encoder.handle_unknown == "error"
        made = self._hot(given, kind, categories, strict)
        rare = _infrequent(encoder, place, categories)
        if rare.any():
            often = self.chosen(made, np.flatnonzero(~rare).tolist()) if not rare.all() else None
            if encoder.handle_unknown in ("infrequent_if_exist", "warn"):  # what is not known is infrequent
                others = self._constant(np.ones((1, 1), np.float32))
                one = self._sum(often) if often is not None else self._node("Mul", [self._sum(made), self._zero()])
                total = self._node("Sub", [others, one])
            else:
                total = self._sum(self.chosen(made, np.flatnonzero(rare).tolist()))
            made = total if often is None else self._node("Concat", [often, total], axis=1)
        drop = None if encoder.drop_idx_ is None else encoder.drop_idx_[place]
        if drop is None:
            return made
        size = len(categories) if not rare.any() else int((~rare).sum()) + 1
        return self.chosen(made, [each for each in range(size) if each != drop])

    def chosen(self, given: str, columns: list[int]) -> str:
        """Return some columns of a matrix."""
        return self._node("Gather", [given, self._constant(np.array(columns, np.int64))], axis=1)

    def _hot(self, given: str, kind: Any, categories: NDArray[Any], strict: bool) -> str:
        flat = self._constant(np.array([-1, len(categories)], np.int64))
        if isinstance(kind, StringTensorType):
            texts = ["" if each is None or each != each else str(each) for each in categories.tolist()]
            made = self._node("OneHotEncoder", [given], ML_DOMAIN, cats_strings=texts, zeros=int(not strict))
            return self._node("Reshape", [made, flat])
        if isinstance(kind, Int64TensorType):
            numbers = categories.astype(np.int64).tolist()
            made = self._node("OneHotEncoder", [given], ML_DOMAIN, cats_int64s=numbers, zeros=int(not strict))
            return self._node("Reshape", [made, flat])
        double = self._node("Cast", [given], to=TensorProto.DOUBLE)
        values = categories.astype(np.float64)
        same = self._node("Equal", [double, self._constant(values[None])])
        if np.isnan(values).any():
            missing = self._node("And", [self._node("IsNaN", [double]), self._constant(np.isnan(values)[None])])
            same = self._node("Or", [same, missing])
        return self._node("Cast", [same], to=TensorProto.FLOAT)

    def _sum(self, given: str) -> str:
        return self._node("ReduceSum", [given, self._constant(np.array([1], np.int64))], keepdims=1)

    def _zero(self) -> str:
        return self._constant(np.zeros((1, 1), np.float32))

    def _constant(self, values: NDArray[Any]) -> str:
        name = self._scope.get_unique_variable_name("constant")
        kind = {"i": TensorProto.INT64, "b": TensorProto.BOOL}.get(values.dtype.kind)
        kind = kind or (TensorProto.DOUBLE if values.dtype == np.float64 else TensorProto.FLOAT)
        self._container.add_initializer(name, kind, list(values.shape), values.reshape(-1).tolist())
        return str(name)

    def _node(self, kind: str, inputs: list[str], domain: str = "", **attributes: Any) -> str:
        name = self._scope.get_unique_variable_name(kind.lower())
        self._container.add_node(
            kind,
            inputs,
            name,
            op_domain=domain,
            op_version=1 if domain else _OPSET,
            name=self._scope.get_unique_operator_name(kind),
            **attributes,
        )
        return str(name)


def _infrequent(encoder: Any, place: int, categories: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which categories are put together as infrequent (n,)."""
    found = getattr(encoder, "infrequent_categories_", None) if encoder._infrequent_enabled else None
    rare = None if found is None else found[place]
    if rare is None:
        return np.zeros(len(categories), np.bool_)
    own = set(rare.tolist())
    return np.array([each in own for each in categories.tolist()])
