"""Columns that were categories of a DataFrame: requests bring these, and the graph makes the codes of boosters.

LightGBM and XGBoost keep the categories beside their trees, and number a DataFrame's by them. A matrix has the numbers:
who sent 20 of the categories 10, 20, 30 as a number would be given the scores of another one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from ringpull.inference.importers.trees.estimators import MATRIX, ConvertedEstimator
from ringpull.inference.schema.kinds import Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.inference.schema.transforms import Vocabulary

Categories = Mapping[int, Sequence[object]]
"""Categories in the order of their codes, by column."""

_TOLD: Final = 3
"""Codes that are told of a column that stays numbers."""


def lightgbm_categories(booster: Any) -> tuple[Categories, tuple[str, ...]]:
    """Return the categories of a LightGBM booster's columns, and what is to be said of those that cannot be told."""
    lists = booster.pandas_categorical or []
    if not lists:
        return {}, ()
    infos = booster.dump_model(num_iteration=1)["feature_infos"]
    names = booster.feature_name()
    columns = [place for place, name in enumerate(names) if infos.get(name, {}).get("values")]
    fits = len(columns) == len(lists) and all(
        max(infos[names[place]]["values"]) < len(own) for place, own in zip(columns, lists, strict=True)
    )
    if fits:
        return dict(zip(columns, lists, strict=True)), ()
    return {}, (
        f"{len(lists)} columns were categories of a DataFrame, and the file does not say which: requests bring their"
        " codes in these columns, 0 for the first category",
    )


def xgboost_categories(booster: Any) -> tuple[Categories, tuple[str, ...]]:
    """Return the categories of an XGBoost booster's columns, and what is to be said of them."""
    if "c" not in (booster.feature_types or ()):
        return {}, ()
    gradient = json.loads(bytes(booster.save_raw("json")))["learner"]["gradient_booster"]
    encoded = gradient.get("gbtree", gradient)["model"].get("cats", {}).get("enc", [])
    kept = {place: _decoded(each) for place, each in enumerate(encoded) if each.get("values")}
    found = {place: each for place, each in kept.items() if each is not None}
    notes = [
        f"column {place}: requests bring the codes of its categories, 0 for the first: XGBoost keeps texts that are not"
        " ASCII cut off"
        for place, each in kept.items()
        if each is None
    ]
    if found:
        notes.append("a category that the model does not know counts as missing; XGBoost raises an error")
    return found, tuple(notes)


def categories_of_model(model: Any) -> tuple[Categories, tuple[str, ...]]:
    """Return the categories of a model of LightGBM or XGBoost as sklearn knows them, none of any other; and notes."""
    if hasattr(model, "booster_"):
        return lightgbm_categories(model.booster_)
    return xgboost_categories(model.get_booster()) if hasattr(model, "get_booster") else ({}, ())


def _decoded(given: Mapping[str, Any]) -> Sequence[object] | None:
    """Return categories as XGBoost writes them: numbers, or the bytes of texts end to end; None: they are not whole.

    Its offsets (3.2) count characters of texts whose bytes it writes, which are the same of ASCII only.
    """
    if "offsets" not in given:
        return list(given["values"])
    content, offsets = np.array(given["values"], np.int64), given["offsets"]
    if ((content < 0) | (content > 127)).any():
        return None
    texts = content.astype(np.uint8).tobytes().decode()
    return [texts[begin:end] for begin, end in pairwise(offsets)]


def with_categories(converted: ConvertedEstimator, categories: Categories) -> ConvertedEstimator:
    """Return an estimator of one matrix whose columns of categories are features of ids: of texts, or of integers."""
    columns = len(converted.schema.features)
    numbered = {place: ids for place, each in categories.items() if (ids := _ids(each)) is not None}
    notes = [
        f"{converted.schema.features[place].name}: requests bring the codes of its categories, which are no texts and"
        f" no integers: {', '.join(f'{code} for {one!r}' for code, one in enumerate(each[:_TOLD]))}..."
        for place, each in categories.items()
        if place not in numbered
    ]
    if not numbered or columns <= max(numbered):
        return replace(converted, notes=(*converted.notes, *notes))
    features = [
        _feature(each.name, numbered[place]) if place in numbered else each
        for place, each in enumerate(converted.schema.features)
    ]
    plain = [each.name for place, each in enumerate(features) if place not in numbered]
    stack = next(iter(converted.schema.stacks), MATRIX)
    schema = Schema(features, {stack: plain} if len(plain) > 1 else {})
    numbers = stack if len(plain) > 1 else next(iter(plain), None)
    inputs = {f"{MATRIX}/numbers": numbers} if numbers is not None else {}
    by_input = {f"{MATRIX}/{place}": features[place].name for place in numbered}
    whole = next(iter(converted.arguments.values()))
    return replace(
        converted,
        graph=_encoding(converted.graph, [len(plain)] * len(inputs), list(numbered), columns),
        schema=schema,
        arguments=inputs | by_input,
        scores=lambda given: converted.scores({whole: _matrix(given, numbers, schema, list(numbered))}),
        thresholds={name: each for name, each in converted.thresholds.items() if name in plain},
        unknown=frozenset(by_input.values()),
        notes=(*converted.notes, *notes),
    )


def _ids(categories: Sequence[object]) -> tuple[str, ...] | tuple[int, ...] | None:
    """Return categories as texts or integers; None: they are neither."""
    if all(isinstance(each, str) for each in categories):
        return tuple(str(each) for each in categories)
    if all(isinstance(each, int | float) and float(each).is_integer() for each in categories):
        return tuple(int(each) for each in categories)  # type: ignore[call-overload]
    return None


def _feature(name: str, ids: tuple[str, ...] | tuple[int, ...]) -> Sparse:
    if isinstance(ids[0], str):
        return Sparse(name, dtype="string", transforms=(Vocabulary(ids),), missing="")
    return Sparse(name, transforms=(Vocabulary(ids),))


def _matrix(
    given: Mapping[str, NDArray[Any]], numbers: str | None, schema: Schema, numbered: Sequence[int]
) -> NDArray[np.float32]:
    """Return the matrix of codes that an estimator takes, of a schema's arguments."""
    rows = len(next(iter(given.values())))
    made = np.empty((rows, len(schema.features)), np.float32)
    if numbers is not None:
        others = [place for place in range(made.shape[1]) if place not in numbered]
        made[:, others] = given[numbers].reshape(rows, -1)
    for place in numbered:
        ids = given[schema.features[place].name].reshape(rows)
        made[:, place] = np.where(ids == 0, np.nan, ids - 1)
    return made


def _encoding(graph: ModelProto, widths: list[int], numbered: list[int], columns: int) -> ModelProto:
    """Return a graph that makes its matrix itself: of numbers, and of ids, of which 0 is none."""
    (matrix,) = graph.graph.input
    name = matrix.name
    inputs = [helper.make_tensor_value_info(f"{name}/numbers", TensorProto.FLOAT, [None, width]) for width in widths]
    parts = [each.name for each in inputs]
    nodes: list[NodeProto] = []
    for place in numbered:
        own = f"{MATRIX}/{place}"
        inputs.append(helper.make_tensor_value_info(own, TensorProto.INT64, [None, 1]))
        nodes += [
            helper.make_node("Equal", [own, f"{name}/none"], [f"{own}/unknown"]),
            helper.make_node("Sub", [own, f"{name}/one"], [f"{own}/code"]),
            helper.make_node("Cast", [f"{own}/code"], [f"{own}/number"], to=TensorProto.FLOAT),
            helper.make_node("Where", [f"{own}/unknown", f"{name}/nan", f"{own}/number"], [f"{own}/column"]),
        ]
        parts.append(f"{own}/column")
    order = [place for place in range(columns) if place not in numbered] + numbered
    constants = {"none": np.int64(0), "one": np.int64(1), "nan": np.float32(np.nan), "order": np.argsort(order)}
    nodes += [
        helper.make_node("Concat", parts, [f"{name}/parts"], axis=1),
        helper.make_node("Gather", [f"{name}/parts", f"{name}/order"], [name], axis=1),
    ]
    made = ModelProto()
    made.CopyFrom(graph)
    del made.graph.input[:], made.graph.node[:]
    made.graph.input.extend(inputs)
    made.graph.node.extend([*nodes, *graph.graph.node])
    made.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(each), f"{name}/{key}") for key, each in constants.items()
    )
    return made
