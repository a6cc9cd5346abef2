"""Estimators of sklearn that are refused by name: what no graph says as they do, and what makes it of them."""

from __future__ import annotations

from typing import Any, Final

from sklearn.base import is_classifier

from ringpull.inference.importers.trees.sklearn_columns import first_step
from ringpull.inference.importers.trees.sklearn_neighbors import NEIGHBORS, refuse_other_weights
from ringpull.ps.errors import InvalidInput

_RADIUS: Final = ("RadiusNeighborsClassifier", "RadiusNeighborsRegressor")


def refuse_what_differs(estimator: Any) -> None:
    """Refuse an estimator that would be served with other answers, or fails on rows that a request may bring.

    Raises:
        InvalidInput: It is one; the message names it, and what to do.
    """
    last = last_step(estimator)
    name = type(last).__name__
    if is_classifier(last) and isinstance(getattr(estimator, "classes_", None), list):
        raise InvalidInput(
            f"{name} has several outputs, each with classes of its own: export one estimator for each, or regressors,"
            " which may have several"
        )
    if is_classifier(last) and not hasattr(estimator, "predict_proba"):
        cure = "voting='soft' makes them" if hasattr(last, "voting") else "CalibratedClassifierCV makes them"
        raise InvalidInput(f"{name} gives no probabilities; {cure}")
    if name in _RADIUS:
        raise InvalidInput(
            f"{name} has neighbors of any number, and none far from all rows, for which there is no operator:"
            f" {NEIGHBORS[_RADIUS.index(name)]} has as many for every row"
        )
    refuse_other_weights(last)
    if name == "CategoricalNB" and first_step(estimator) is last:
        raise InvalidInput(
            f"{name} fails on numbers that it was not fitted on, and does not say which: put what does before it,"
            " make_pipeline(OrdinalEncoder(), CategoricalNB()), and fit that on a DataFrame"
        )


def last_step(estimator: Any) -> Any:
    """Return what predicts: of a pipeline its last step."""
    while hasattr(estimator, "steps"):
        estimator = estimator.steps[-1][1]
    return estimator
