"""Columns of a fitted estimator of sklearn: their names, and of which type each is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import Pipeline

from ringpull.inference.importers.trees.estimators import feature_names
from ringpull.inference.schema.kinds import Dense, SentFeature, Sparse
from ringpull.inference.schema.transforms import Vocabulary
from ringpull.ps.errors import InvalidInput

_TEXT_READERS: Final = ("CountVectorizer", "TfidfVectorizer", "HashingVectorizer")


@dataclass(frozen=True, slots=True, eq=False)
class InputColumn:
    """One column that an estimator takes by name."""

    name: str
    """Its own name, as the estimator has it."""
    feature: SentFeature
    strict: bool = False
    """Whether the estimator fails on a category that it does not know."""
    values: NDArray[np.int64] | None = None
    """Categories that are integers."""

    @property
    def within(self) -> tuple[int, int] | None:
        """Prepared ids [low, high) that the estimator takes; None: any, or no bounds tell which."""
        if not self.strict or not isinstance(self.feature, Sparse):
            return None
        if self.values is None:
            vocabulary = self.feature.transforms[-1]
            assert isinstance(vocabulary, Vocabulary)
            return 1, vocabulary.size
        low, high = int(self.values.min()), int(self.values.max()) + 1
        return (low, high) if len(self.values) == high - low else None


def named_columns(estimator: Any) -> list[InputColumn] | None:
    """Return the columns of an estimator that takes each by its name and type; None: it takes one matrix of numbers.

    Raises:
        InvalidInput: It is not fitted, or a column is a text that it takes apart into words.
    """
    first = _first(estimator)
    if not isinstance(first, ColumnTransformer):
        return None
    names = getattr(first, "feature_names_in_", None)
    if names is None:
        if any(categories.dtype.kind not in "iuf" for _, categories, _ in _categories(first)):
            raise InvalidInput(
                "the ColumnTransformer was fitted on a matrix of objects, whose columns have no names: fit it on a"
                " DataFrame"
            )
        return None
    categories: dict[object, tuple[NDArray[Any], bool]] = {}
    for column, values, strict in _categories(first):
        before = categories.get(column)
        if before is not None and set(before[0].tolist()) != set(values.tolist()):
            raise InvalidInput(f"column {column!r} is encoded twice, by different categories")
        categories[column] = values, strict or (before is not None and before[1])
    features = feature_names(names)
    return [
        _column(str(name), feature, *categories.get(name, (None, False)))
        for name, feature in zip(names, features, strict=True)
    ]


def matrix_columns(estimator: Any) -> tuple[list[str], int]:
    """Return the names that an estimator knows of the columns of its matrix, and how many there are.

    Raises:
        InvalidInput: It is not fitted.
    """
    columns = getattr(estimator, "n_features_in_", None)
    if columns is None:
        raise InvalidInput(f"{type(estimator).__name__} is not fitted, or does not say how many columns it takes")
    return feature_names(getattr(estimator, "feature_names_in_", ())), int(columns)


def _first(estimator: Any) -> Any:
    while isinstance(estimator, Pipeline):
        estimator = next((step for _, step in estimator.steps if step not in (None, "passthrough")), None)
    return estimator


def _categories(transformer: Any) -> Iterator[tuple[object, NDArray[Any], bool]]:
    """Yield columns that are encoded, with their categories, and whether another one is an error."""
    if not hasattr(transformer, "transformers_"):
        raise InvalidInput("the ColumnTransformer is not fitted")
    names = getattr(transformer, "feature_names_in_", None)
    for name, step, columns in transformer.transformers_:
        own = _resolved(columns, names, transformer)
        for encoder in _steps(step):
            kind = type(encoder).__name__
            if kind in _TEXT_READERS:
                raise InvalidInput(
                    f"{name}: {kind} takes texts apart into words, which a request's vocabulary cannot: make the words"
                    " a feature of many ids, and a model that takes those"
                )
            if hasattr(encoder, "categories_"):
                strict = getattr(encoder, "handle_unknown", "ignore") == "error"
                known = zip(own, encoder.categories_, strict=False)  # an encoder behind others may have fewer
                yield from ((column, np.asarray(each), strict) for column, each in known)
                break


def _steps(step: Any) -> list[BaseEstimator]:
    """Return what a column goes through first: imputers, and what is behind them."""
    if isinstance(step, Pipeline):
        return [inner for _, each in step.steps for inner in _steps(each)]
    return [step] if isinstance(step, BaseEstimator) else []


def _resolved(columns: Any, names: Any, transformer: Any) -> list[object]:
    """Return the columns of a transformer as names, or numbers where there are none."""
    everything = list(range(transformer.n_features_in_)) if names is None else list(names)
    if isinstance(columns, str | int):
        columns = [columns]
    if isinstance(columns, slice):
        if isinstance(columns.start, str) or isinstance(columns.stop, str):
            begin = 0 if columns.start is None else everything.index(columns.start)
            end = len(everything) if columns.stop is None else everything.index(columns.stop) + 1
            return everything[begin : end : columns.step]
        return everything[columns]
    given = list(columns)
    if given and all(isinstance(each, bool | np.bool_) for each in given):
        return [name for name, chosen in zip(everything, given, strict=True) if chosen]
    return [each if isinstance(each, str) else everything[int(each)] for each in given]


def _column(name: str, feature: str, categories: NDArray[Any] | None, strict: bool) -> InputColumn:
    if categories is None:
        return InputColumn(name, Dense(feature, missing=math.nan))
    if categories.dtype.kind in "iu":
        return InputColumn(name, Sparse(feature), strict, categories.astype(np.int64))
    if categories.dtype.kind == "f":
        return InputColumn(name, Dense(feature, missing=math.nan), strict)
    texts = [each for each in categories.tolist() if isinstance(each, str)]
    if not texts or len(texts) < len(categories):
        raise InvalidInput(
            f"column {name!r} has categories that are no texts (None, NaN, or of several types); fill them before it is"
            " encoded, as by SimpleImputer(strategy='constant')"
        )
    return InputColumn(name, Sparse(feature, dtype="string", transforms=(Vocabulary(tuple(texts)),)), strict)
