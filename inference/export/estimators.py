"""Estimators given to `export_model`: trees and pipelines go to the importer that turns them into a graph."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Final, ParamSpec

from ringpull.extras import needing
from ringpull.inference.export.report import ExportReport
from ringpull.ps.errors import InvalidInput

P = ParamSpec("P")

_MAKERS: Final = ("lightgbm", "xgboost", "sklearn")
_OPTIONS: Final = ("name", "check_rows", "check_columns", "quiet")


def is_estimator(given: object) -> bool:
    """Return whether something is a model of sklearn, LightGBM or XGBoost, or is made of theirs."""
    return any(each.__module__.partition(".")[0] in _MAKERS for each in type(given).__mro__)


def estimators_too(export: Callable[P, ExportReport]) -> Callable[P, ExportReport]:
    """Return an export of modules that takes estimators as well, of whom only some of its options make sense."""

    @wraps(export)
    def export_any(*args: P.args, **options: P.kwargs) -> ExportReport:
        first = args[0] if args else options.get("module")
        return _import(*args, **options) if is_estimator(first) else export(*args, **options)

    return export_any


def _import(
    module: Any, schema: Any = None, out_dir: Any = "", version: Any = 1, keys: Any = None, **options: Any
) -> ExportReport:
    with needing("trees", f"export_model of a {type(module).__name__}"):
        from ringpull.inference.importers.trees.model import import_estimator

    others = [name for name, value in options.items() if name not in _OPTIONS and value]
    if keys or others:
        raise InvalidInput(
            f"{'keys' if keys else others[0]}: is for modules of torch; of an estimator there are {', '.join(_OPTIONS)}"
        )
    chosen = {name: value for name, value in options.items() if name in _OPTIONS}
    return import_estimator(module, out_dir, version, schema=schema, **chosen)
