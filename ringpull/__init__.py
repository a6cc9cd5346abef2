"""The package that is installed: the names for users, and the five folders of the repository as its sub-packages.

    from ringpull import Client, Dense, Ragged, Schema, Sparse, export_model

The names load on first use: a client needs neither torch nor Ray nor numba, and only `export_model` needs torch. In the
repository `ringpull.ps` is a link to `ps/` beside this folder, and so on; everything imports it under the long name.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from ringpull.extras import needing

if TYPE_CHECKING:
    from ringpull.inference.client.client import AsyncClient, Client
    from ringpull.inference.degrade.steps import CapCandidates, CutBags, UseDefault, UseVersion
    from ringpull.inference.export import ExportReport, TableOptions, export_model
    from ringpull.inference.prediction import Filled, Prediction, Timings
    from ringpull.inference.schema.columns import Ragged
    from ringpull.inference.schema.kinds import Cross, Dense, Sequence, Sparse
    from ringpull.inference.schema.schema import Schema
    from ringpull.inference.schema.transforms import Bucketize, Clip, Hash, Log, Normalize, Vocabulary

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "Bucketize",
    "CapCandidates",
    "Client",
    "Clip",
    "Cross",
    "CutBags",
    "Dense",
    "ExportReport",
    "Filled",
    "Hash",
    "Log",
    "Normalize",
    "Prediction",
    "Ragged",
    "Schema",
    "Sequence",
    "Sparse",
    "TableOptions",
    "Timings",
    "UseDefault",
    "UseVersion",
    "Vocabulary",
    "export_model",
]

_HOMES: Final[dict[str, tuple[str, ...]]] = {
    "ringpull.inference.client.client": ("AsyncClient", "Client"),
    "ringpull.inference.schema.columns": ("Ragged",),
    "ringpull.inference.degrade.steps": ("CapCandidates", "CutBags", "UseDefault", "UseVersion"),
    "ringpull.inference.export": ("ExportReport", "TableOptions", "export_model"),
    "ringpull.inference.schema.kinds": ("Cross", "Dense", "Sequence", "Sparse"),
    "ringpull.inference.prediction": ("Filled", "Prediction", "Timings"),
    "ringpull.inference.schema.schema": ("Schema",),
    "ringpull.inference.schema.transforms": ("Bucketize", "Clip", "Hash", "Log", "Normalize", "Vocabulary"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            with needing("export", f"ringpull.{name}"):
                return getattr(import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
