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
from sklearn.preprocessing import OneHotEncoder

from ringpull.inference.importers.trees.estimators import feature_names
from ringpull.inference.importers.trees.threshold_rows import UNKNOWN_TEXT
from ringpull.inference.schema.kinds import Dense, SentFeature, Sparse
from ringpull.inference.schema.transforms import Vocabulary
from ringpull.ps.errors import InvalidInput

LARGE: Final = 10_000
"""Categories from which on integers are numbered by a vocabulary, as texts always are: rows of a table."""

_TEXT_READERS: Final = ("CountVectorizer", "TfidfVectorizer", "HashingVectorizer", "FeatureHasher", "DictVectorizer")


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
    missing: tuple[object, ...] = ()
    """What the estimator is given for an empty text; none: the text."""

    @property
    def vocabulary(self) -> Vocabulary | None:
        """Categories that it is sent as numbers of; None: it is sent as it is."""
        last = self.feature.transforms[-1:] if isinstance(self.feature, Sparse) else ()
        return last[0] if last and isinstance(last[0], Vocabulary) else None

    @property
    def takes_unknown(self) -> bool:
        """Whether the estimator takes a category that it does not know."""
        return isinstance(self.feature, Sparse) and not self.strict

    def given(self, prepared: NDArray[Any]) -> NDArray[Any]:
        """Return what the estimator is given, (B,), of the feature as it is prepared."""
        values = prepared.reshape(len(prepared))
        if self.vocabulary is None:
            return values
        if self.values is None:
            known = self.vocabulary.ids[: len(self.vocabulary.ids) - len(self.missing)]
            texts = np.empty(1 + len(self.vocabulary.ids), object)
            texts[:] = [UNKNOWN_TEXT, *known, *self.missing]
        else:
            texts = self.integers
        taken: NDArray[Any] = texts[values]
        return taken

    @property
    def integers(self) -> NDArray[np.int64]:
        """Integers by their numbers in the vocabulary; of what is none of them, one that is none."""
        assert self.values is not None
        known = set(self.values.tolist())
        unknown = next(each for each in range(int(self.values.max()), -(2**63), -1) if each not in known)
        return np.array([unknown, *self.values.tolist()], np.int64)

    @property
    def within(self) -> tuple[int, int] | None:
        """Prepared ids [low, high) that the estimator takes; None: any, or no bounds tell which."""
        if not self.strict or not isinstance(self.feature, Sparse):
            return None
        if self.vocabulary is not None:
            return 1, self.vocabulary.size
        assert self.values is not None
        low, high = int(self.values.min()), int(self.values.max()) + 1
        return (low, high) if len(self.values) == high - low else None


def named_columns(estimator: Any) -> list[InputColumn] | None:
    """Return the columns of an estimator that takes each by its name and type; None: it takes one matrix of numbers.

    Raises:
        InvalidInput: It is not fitted, or a column is a text that it takes apart into words.
    """
    first = first_step(estimator)
    _refuse_words(first, "")
    if not isinstance(first, ColumnTransformer) and not hasattr(first, "categories_"):
        return None
    names = getattr(first, "feature_names_in_", None)
    if names is None:
        if any(each.values.dtype.kind not in "biuf" for _, each in _categories(first)):
            raise InvalidInput(
                f"the {type(first).__name__} was fitted on a matrix of objects, whose columns have no names: fit it on"
                " a DataFrame"
            )
        return None
    categories: dict[object, _Categories] = {}
    for column, own in _categories(first):
        before = categories.get(column)
        if before is not None and set(map(repr, before.values.tolist())) != set(map(repr, own.values.tolist())):
            raise InvalidInput(f"column {column!r} is encoded twice, by different categories")
        strict = own.strict or (before is not None and before.strict)
        missing = own.missing and (before is None or before.missing)
        categories[column] = _Categories(own.values, strict, missing)
    features = feature_names(names)
    return [_column(str(name), feature, categories.get(name)) for name, feature in zip(names, features, strict=True)]


def matrix_columns(estimator: Any) -> tuple[list[str], int]:
    """Return the names that an estimator knows of the columns of its matrix, and how many there are.

    Raises:
        InvalidInput: It is not fitted.
    """
    columns = getattr(estimator, "n_features_in_", getattr(first_step(estimator), "n_features_in_", None))
    if columns is None:
        raise InvalidInput(f"{type(estimator).__name__} is not fitted, or does not say how many columns it takes")
    return feature_names(getattr(estimator, "feature_names_in_", ())), int(columns)


def first_step(estimator: Any) -> Any:
    """Return what rows go through first: of a pipeline its first step that does anything."""
    while isinstance(estimator, Pipeline):
        estimator = next((step for _, step in estimator.steps if step not in (None, "passthrough")), None)
    return estimator


@dataclass(frozen=True, slots=True, eq=False)
class _Categories:
    """Categories that a column is encoded by."""

    values: NDArray[Any]
    strict: bool
    """Whether another one is an error."""
    missing: bool
    """Whether None or NaN may be among them."""

    @classmethod
    def of(cls, encoder: Any, values: NDArray[Any]) -> _Categories:
        strict = getattr(encoder, "handle_unknown", "ignore") == "error"
        return cls(np.asarray(values), strict, isinstance(encoder, OneHotEncoder))


def _categories(transformer: Any) -> Iterator[tuple[object, _Categories]]:
    """Yield columns that are encoded, with their categories."""
    if hasattr(transformer, "categories_"):
        names = getattr(transformer, "feature_names_in_", range(transformer.n_features_in_))
        yield from zip(names, (_Categories.of(transformer, each) for each in transformer.categories_), strict=True)
        return
    if not hasattr(transformer, "transformers_"):
        raise InvalidInput("the ColumnTransformer is not fitted")
    names = getattr(transformer, "feature_names_in_", None)
    for name, step, columns in transformer.transformers_:
        own = _resolved(columns, names, transformer)
        for encoder in _steps(step):
            _refuse_words(encoder, f"{name}: ")
            if hasattr(encoder, "categories_"):
                known = zip(own, encoder.categories_, strict=False)  # an encoder behind others may have fewer
                yield from ((column, _Categories.of(encoder, each)) for column, each in known)
                break


def _refuse_words(encoder: Any, where: str) -> None:
    kind = type(encoder).__name__
    if kind in _TEXT_READERS:
        raise InvalidInput(
            f"{where}{kind} takes texts apart into words, or hashes them, which a request's vocabulary cannot: make"
            " them a feature of many ids, and a model that takes those"
        )


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


def _column(name: str, feature: str, given: _Categories | None) -> InputColumn:
    if given is None:
        return InputColumn(name, Dense(feature, missing=math.nan))
    categories, strict = given.values, given.strict
    if categories.dtype.kind in "biu":
        integers = categories.astype(np.int64)
        numbered = (Vocabulary(tuple(integers.tolist())),) if len(integers) > LARGE else ()
        return InputColumn(name, Sparse(feature, transforms=numbered), strict, integers)
    if categories.dtype.kind == "f":
        return InputColumn(name, Dense(feature, missing=math.nan), strict)
    texts = [each for each in categories.tolist() if isinstance(each, str)]
    others = [each for each in categories.tolist() if not isinstance(each, str)]
    missing = given.missing and len(others) == 1 and (others[0] is None or others[0] != others[0]) and "" not in texts
    if not texts or (others and not missing):
        raise InvalidInput(
            f"column {name!r} has categories that are no texts (None, NaN, or of several types); fill them before it is"
            " encoded, as by SimpleImputer(strategy='constant')"
        )
    if not others:
        return InputColumn(name, Sparse(feature, dtype="string", transforms=(Vocabulary(tuple(texts)),)), strict)
    words = Vocabulary((*texts, ""))
    return InputColumn(
        name, Sparse(feature, dtype="string", transforms=(words,), missing=""), strict, missing=(others[0],)
    )
