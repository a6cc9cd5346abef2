"""`import_estimator`: a pipeline of sklearn, or a booster of LightGBM or XGBoost, as a version that serves.

What it does is a graph, and goes the way of any graph (`ringpull.inference.importers.onnx`). Before that both are asked
on rows that lie on the thresholds of its trees, and next to them, and on rows with NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from ringpull.inference.export.estimators import is_estimator
from ringpull.inference.export.report import ExportReport
from ringpull.inference.export.stages import stage
from ringpull.inference.importers.onnx.model import import_onnx
from ringpull.inference.importers.trees.boosters import converted_lightgbm, converted_xgboost
from ringpull.inference.importers.trees.estimators import LABEL, ConvertedEstimator, ScoredOnce
from ringpull.inference.importers.trees.threshold_rows import MAX_ROWS, nan_rows, threshold_rows
from ringpull.inference.schema.columns import Column, as_column
from ringpull.inference.schema.kinds import Dense, Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.inference.schema.transforms import Vocabulary
from ringpull.ps.errors import ExportError, InvalidInput

Array = NDArray[Any]

TOLERANCE: Final = 1e-4
"""Largest difference from scores that came with rows, or that part of them."""

_FAR: Final = 1000.0
"""Factor that numbers are multiplied by, for rows far from those that a model was fitted on."""
_TIES: Final = 1 / 64
"""Part of rows far out that may have another label: single ones are ties as float32 in any model."""
_ONE_HOT_NUMBERS: Final = 1 << 24
"""Numbers of one-hot vectors that are held at once."""


def import_estimator(
    estimator: Any,
    out_dir: str | Path,
    version: int,
    *,
    schema: Schema | None = None,
    name: str | None = None,
    check_rows: int = 64,
    check_columns: Mapping[str, Column] | None = None,
    check_scores: Mapping[str, Array] | None = None,
    quiet: bool = False,
) -> ExportReport:
    """Write an estimator as the version `out_dir/VERSION/`.

    Features are called like its columns; where it knows no names, there is one, `features`, as wide as its matrix. A
    column of texts has the vocabulary that the estimator was fitted with. Outputs are `prediction`, what a booster or
    a regressor predicts, or of a classifier `probabilities` (B, classes) and, where classes are numbers, `label`.

    Args:
        estimator: A fitted estimator or pipeline of sklearn; a model or a booster of LightGBM or XGBoost.
        out_dir: The model's folder.
        version: Number from 1, which must not exist yet.
        schema: Schema of the features, in place of the one that is made of its columns.
        name: The model's name; default: the name of `out_dir`.
        check_rows: Made-up rows for the check, besides those on thresholds; 0: none.
        check_columns: Rows of the source's own, by feature. Columns called like an output are scores of them.
        check_scores: More scores of these rows, by output.
        quiet: Print no report and no progress.

    Raises:
        InvalidInput: It is none, or is not fitted, or has a part that there is no operator for; the message names it.
        ExportError: What was made of it gives other scores. Nothing is written then.
    """
    console = None if quiet else Console()
    with stage(console, f"converting {type(estimator).__name__}"):
        converted = _converted(estimator)
    converted = replace(converted, scores=ScoredOnce(converted.scores))
    if schema is not None:
        converted = replace(converted, schema=schema, thresholds={})
    converted, notes = _without_what_differs(converted, told=schema is not None)
    given, scores = _given(converted, dict(check_columns or {}), dict(check_scores or {}))
    for note in notes if console is not None else ():
        console.print(note, markup=False, style="yellow", highlight=False)  # type: ignore[union-attr]
    rows = threshold_rows(converted.schema, converted.thresholds, converted.values, converted.unknown)
    for each in given, rows:
        try:
            _hold(converted, each, scores if each is given else {})
        except ValueError as exc:  # of the estimator
            which = "the rows given" if each is given else "made-up rows"
            raise ExportError(f"{type(estimator).__name__} fails on {which}, so it cannot be checked: {exc}") from exc
    return import_onnx(
        converted.graph,
        converted.schema,
        out_dir,
        version,
        name=name,
        arguments={key: value for key, value in converted.arguments.items() if key != value},
        outputs=dict(converted.outputs),
        reference=converted.scores,
        within=converted.within,
        classes=converted.classes,
        check_rows=check_rows,
        check_columns=given or rows or None,
        quiet=quiet,
    )


def _without_what_differs(converted: ConvertedEstimator, *, told: bool) -> tuple[ConvertedEstimator, list[str]]:
    """Return what is served of an estimator: NaN and the label only where its graph does the same; and notes.

    Whether it takes NaN is not asked where its schema was `told`.
    """
    notes = list(converted.notes)
    takes_nan = [
        each.name for each in converted.schema.features if isinstance(each, Dense) and each.missing is not None
    ]
    if takes_nan and not told and (why := _nan_differs(converted)):
        converted = replace(converted, schema=_without_nan(converted.schema))
        notes.append(f"NaN is refused: {why}")
    if (why := _label_differs(converted)) is not None:
        converted = replace(converted, outputs={key: each for key, each in converted.outputs.items() if each != LABEL})
        notes.append(f"label is left out: {why}; the class of the largest probability is it but for ties")
    return converted, notes


def _converted(estimator: Any) -> ConvertedEstimator:
    maker = {each.__module__.partition(".")[0]: each.__name__ for each in reversed(type(estimator).__mro__)}
    if maker.get("lightgbm") == "Booster":
        return converted_lightgbm(estimator)
    if maker.get("xgboost") == "Booster":
        return converted_xgboost(estimator)
    if not is_estimator(estimator) or not hasattr(estimator, "get_params"):
        raise InvalidInput(
            f"{type(estimator).__name__} is no estimator or pipeline of sklearn, and no booster of LightGBM or XGBoost"
        )
    from ringpull.inference.importers.trees.sklearn_model import converted_sklearn

    return converted_sklearn(estimator)


def _graph_scores(converted: ConvertedEstimator, arguments: Mapping[str, Array]) -> dict[str, Array]:
    """Return what the graph makes of arguments, by served output, as onnxruntime runs it."""
    from ringpull.inference.importers.onnx.binding import bind_inputs
    from ringpull.inference.importers.onnx.outputs import open_batch, plain_outputs
    from ringpull.inference.importers.onnx.sessions import Session
    from ringpull.inference.importers.onnx.source import read_source

    source = open_batch(plain_outputs(read_source(converted.graph, None)))
    bound = bind_inputs(source, converted.schema, converted.arguments)
    session = Session(source.model, source.weights, "the estimator's graph")
    rows = len(next(iter(arguments.values())))
    parts = []
    for begin in range(0, rows, step := _rows_at_once(converted.schema)):
        feeds = bound.feeds({name: each[begin : begin + step] for name, each in arguments.items()})
        parts.append(session.run(feeds, list(converted.outputs)))
    return {
        name: np.concatenate([part[place] for part in parts]) for place, name in enumerate(converted.outputs.values())
    }


def _rows_at_once(schema: Schema) -> int:
    """Return how many rows a graph is given at once, that may make one-hot vectors of categories."""
    last = [each.transforms[-1] for each in schema.features if isinstance(each, Sparse) and each.transforms]
    categories = sum(len(each.ids) for each in last if isinstance(each, Vocabulary))
    return max(1, min(MAX_ROWS, _ONE_HOT_NUMBERS // max(1, categories)))


def _hold(converted: ConvertedEstimator, columns: Mapping[str, Column], scores: Mapping[str, Array]) -> None:
    """Hold the graph against the estimator on rows, and both against scores that came with them.

    Raises:
        ExportError: They differ; the message names output, row and both values.
    """
    if not columns:
        return
    rows = len(next(iter(columns.values())))
    arguments = converted.schema.arguments(converted.schema.prepare(columns, rows))
    own, graph = converted.scores(arguments), _graph_scores(converted, arguments)
    for output, found in graph.items():
        _compare(output, found, own[output], "the estimator says")
        if output in scores:
            _compare(output, found, scores[output], "the scores given with the rows say")


def _compare(output: str, found: Array, expected: Array, who: str) -> None:
    one, other = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    if one.size != other.size:
        raise ExportError(f"output {output} has the shape {one.shape}; {who} {other.shape}")
    other = other.reshape(one.shape)
    same = np.isclose(one, other, TOLERANCE, TOLERANCE, equal_nan=True)
    if not same.all():
        place = np.unravel_index(int(np.argmin(same)), same.shape)
        raise ExportError(
            f"output {output} of row {int(place[0])} of the check is {one[place]:.6g} as a graph, and {who}"
            f" {other[place]:.6g}: it cannot be served as it is. Either its graph is not the same model, or numbers"
            " that it computes before trees (a scaler's, a mean) lie on thresholds as float32: then train on float32"
        )


def _nan_differs(converted: ConvertedEstimator) -> str | None:
    """Return why NaN cannot be taken; None: the graph treats it as the estimator does."""
    columns = nan_rows(converted.schema, converted.thresholds, converted.values)
    arguments = converted.schema.arguments(converted.schema.prepare(columns, len(next(iter(columns.values())))))
    try:
        own = converted.scores(arguments)
    except ValueError:
        return "the estimator takes none"
    graph = _graph_scores(converted, arguments)
    try:
        for output, found in graph.items():
            _compare(output, found, own[output], "")
    except ExportError:
        return "the graph would treat it in another way than the estimator"
    return None


def _label_differs(converted: ConvertedEstimator) -> str | None:
    """Return why the graph's label cannot be served, where its probabilities are the estimator's; None: it can.

    Estimators choose among equal probabilities by numbers of their own, and skl2onnx by these.
    """
    if LABEL not in converted.outputs.values():
        return None
    near = threshold_rows(converted.schema, converted.thresholds, converted.values, converted.unknown)
    for rows in near, _far(converted.schema, near):
        arguments = converted.schema.arguments(converted.schema.prepare(rows, len(next(iter(rows.values())))))
        try:
            with np.errstate(all="ignore"):
                own = converted.scores(arguments)
        except ValueError:
            return None  # it is told which rows it fails on where it is held against them
        graph = _graph_scores(converted, arguments)
        same = _rows_alike(graph, own)
        if rows is near and not same.all():
            return None
        if graph[LABEL].shape[:1] != own[LABEL].shape[:1]:
            return "its graph gives no label for each row"
        labels = [each[LABEL].reshape(len(same), -1) for each in (graph, own)]
        different = np.count_nonzero(same & (labels[0] != labels[1]).any(axis=1))
        if different > (0 if rows is near else len(same) * _TIES):
            return f"of {len(same)} rows {different} have another one in a graph"
    return None


def _rows_alike(graph: Mapping[str, Array], own: Mapping[str, Array]) -> NDArray[np.bool_]:
    """Return which rows have the same outputs but for the label."""
    same = np.ones(len(next(iter(own.values()))), np.bool_)
    for output in graph.keys() - {LABEL}:
        if graph[output].size != own[output].size:
            return np.zeros_like(same)
        alike = np.isclose(
            graph[output].reshape(len(same), -1), own[output].reshape(len(same), -1), TOLERANCE, TOLERANCE
        )
        same &= alike.all(axis=1)
    return same


def _far(schema: Schema, rows: Mapping[str, Column]) -> dict[str, Column]:
    """Return rows whose numbers are so large that probabilities of several classes are the same float32."""
    far = dict(rows)
    largest = np.finfo(np.float32).max
    for feature in schema.features:
        numbers = rows[feature.name]
        if isinstance(feature, Dense) and isinstance(numbers, np.ndarray):
            with np.errstate(over="ignore"):
                far[feature.name] = np.clip(numbers.astype(np.float32) * np.float32(_FAR), -largest, largest)
    return far


def _without_nan(schema: Schema) -> Schema:
    features = [
        replace(each, missing=None) if isinstance(each, Dense) and each.missing is not None and math.isnan(each.missing)
        else each
        for each in schema.features
    ]  # fmt: skip
    return Schema(features, schema.stacks)


def _given(
    converted: ConvertedEstimator, columns: dict[str, Column], scores: dict[str, Array]
) -> tuple[dict[str, Column], dict[str, Array]]:
    """Return rows of the source's own by feature, columns of its own names too, and scores among them by output."""
    if not columns:
        return {}, scores
    names = {each.name for each in converted.schema.features}
    own = {name: as_column(name, each) for name, each in columns.items() if name in names}
    if not own:
        raise InvalidInput(
            f"check rows: no column is called like a feature ({', '.join(sorted(names))});"
            f" they are {', '.join(columns)}"
        )
    outputs = set(converted.outputs.values())
    return own, {**{name: np.asarray(each) for name, each in columns.items() if name in outputs - names}, **scores}
