"""Files of estimators. Reading one runs nothing: a pickle is refused, and of skops' files only known types are made."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

from ringpull.ps.errors import CorruptData, InvalidInput

Maker = Literal["sklearn", "lightgbm", "xgboost"]

MAX_BYTES: Final = 4 << 30
"""Bytes of the largest file."""

_PICKLES: Final = (".pkl", ".pickle", ".joblib", ".dill", ".cloudpickle")
_SUFFIXES: Final[dict[Maker, tuple[str, ...]]] = {
    "sklearn": (".skops",),
    "lightgbm": (".txt",),
    "xgboost": (".json", ".ubj"),
}
_TRUSTED: Final = frozenset(
    {
        "collections.OrderedDict",
        "lightgbm.basic.Booster",
        "lightgbm.sklearn.LGBMClassifier",
        "lightgbm.sklearn.LGBMRanker",
        "lightgbm.sklearn.LGBMRegressor",
        "xgboost.core.Booster",
        "xgboost.sklearn.XGBClassifier",
        "xgboost.sklearn.XGBRFClassifier",
        "xgboost.sklearn.XGBRFRegressor",
        "xgboost.sklearn.XGBRanker",
        "xgboost.sklearn.XGBRegressor",
    }
)
"""Types that are made without asking, besides those that skops trusts: plain data of models that are read here."""


def read_estimator(path: Path, maker: Maker, *, trusted: Sequence[str] = ()) -> Any:
    """Read a model.

    Args:
        path: The file.
        maker: Library that wrote it.
        trusted: More types that a file of skops may hold, by their full names.

    Raises:
        InvalidInput: It is a pickle, or a file of another kind, or holds types that are not trusted.
        CorruptData: It is damaged.
    """
    if not path.is_file():
        raise InvalidInput(f"{path}: no such file")
    if path.suffix.lower() in _PICKLES or _begins_as_pickle(path):
        raise InvalidInput(
            f"{path}: is a pickle, which runs whatever it holds when it is loaded, so it is not. Where the model was"
            " fitted, save it with skops.io.dump(model, 'model.skops') and `ringpull import sklearn`, or with"
            " Booster.save_model('model.txt') and `ringpull import lightgbm`, or Booster.save_model('model.json') and"
            " `ringpull import xgboost`; or call ringpull.export_model(model, None, OUT_DIR, VERSION) there"
        )
    wanted = _SUFFIXES[maker]
    if path.suffix.lower() not in wanted:
        raise InvalidInput(f"{path}: ringpull import {maker} reads {' and '.join(wanted)}")
    if path.stat().st_size > MAX_BYTES:
        raise InvalidInput(f"{path}: {path.stat().st_size} bytes; a model may have {MAX_BYTES}")
    if maker == "lightgbm":
        from ringpull.inference.importers.trees.lightgbm_model import read_lightgbm

        return read_lightgbm(path)
    if maker == "xgboost":
        from ringpull.inference.importers.trees.xgboost_model import read_xgboost

        return read_xgboost(path)
    return _read_skops(path, trusted)


def _read_skops(path: Path, trusted: Sequence[str]) -> Any:
    import skops.io
    from skops.io.exceptions import UntrustedTypesFoundException

    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(each.file_size for each in archive.infolist())
        if unpacked > MAX_BYTES:
            raise InvalidInput(f"{path}: unpacks to {unpacked} bytes; a model may have {MAX_BYTES}")
        try:  # one pass for what skops knows itself: of a million texts it takes half a minute, more by each type named
            return skops.io.load(path, trusted=[])
        except UntrustedTypesFoundException:
            strangers = set(skops.io.get_untrusted_types(file=path))
        if unknown := sorted(strangers - _TRUSTED - set(trusted)):
            raise InvalidInput(
                f"{path}: holds types that are not known to be harmless: {', '.join(unknown[:10])}. If you trust who"
                f" made it, name each: --trust {unknown[0]}"
            )
        return skops.io.load(path, trusted=sorted(strangers))
    except InvalidInput:
        raise
    except Exception as exc:  # of any root, for bytes that are none of skops' files, and of damaged states
        raise CorruptData(f"{path}: skops does not read it: {type(exc).__name__}: {exc!s:.300}") from exc


def _begins_as_pickle(path: Path) -> bool:
    """Return whether a file begins as a pickle of protocol 2 or later does."""
    with path.open("rb") as file:
        begin = file.read(2)
    return len(begin) == 2 and begin[0] == 0x80 and 2 <= begin[1] <= 5
