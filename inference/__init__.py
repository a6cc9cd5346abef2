"""From request to score: the feature schema, the head that serves a model, its clients, and the export of torch models.

    from inference import Client, Dense, Ragged, Schema, Sparse, export_model

The names load on first use: a client needs neither torch nor numba, and only `export_model` needs torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from inference.client.client import AsyncClient, Client
    from inference.degrade.steps import CapCandidates, CutBags, UseDefault, UseVersion
    from inference.export import ExportReport, TableOptions, export_model
    from inference.prediction import Filled, Prediction, Timings
    from inference.schema.columns import Ragged
    from inference.schema.kinds import Cross, Dense, Sequence, Sparse
    from inference.schema.schema import Schema
    from inference.schema.transforms import Bucketize, Clip, Hash, Log, Normalize, Vocabulary

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
    "inference.client.client": ("AsyncClient", "Client"),
    "inference.schema.columns": ("Ragged",),
    "inference.degrade.steps": ("CapCandidates", "CutBags", "UseDefault", "UseVersion"),
    "inference.export": ("ExportReport", "TableOptions", "export_model"),
    "inference.schema.kinds": ("Cross", "Dense", "Sequence", "Sparse"),
    "inference.prediction": ("Filled", "Prediction", "Timings"),
    "inference.schema.schema": ("Schema",),
    "inference.schema.transforms": ("Bucketize", "Clip", "Hash", "Log", "Normalize", "Vocabulary"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
