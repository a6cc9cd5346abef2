"""The package that is installed: the names for users, and the five folders of the repository as its sub-packages.

    from ringpull import Client, Dense, Ragged, Schema, Sparse, export_model

The names load on first use: a client needs neither torch nor Ray nor numba, and only `export_model` needs torch. In the
repository `ringpull.ps` is a link to `ps/` beside this folder, and so on; everything imports it under the long name.

Type checkers and editors read the imports below, Python reads `_HOMES`. A test holds that they name the same.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from ringpull.extras import needing

if TYPE_CHECKING:
    from ringpull.inference.client.client import AsyncClient as AsyncClient
    from ringpull.inference.client.client import Client as Client
    from ringpull.inference.degrade.steps import CapCandidates as CapCandidates
    from ringpull.inference.degrade.steps import CutBags as CutBags
    from ringpull.inference.degrade.steps import UseDefault as UseDefault
    from ringpull.inference.degrade.steps import UseVersion as UseVersion
    from ringpull.inference.export.delta.export import export_delta as export_delta
    from ringpull.inference.export.model import export_model as export_model
    from ringpull.inference.export.report import ExportReport as ExportReport
    from ringpull.inference.export.table_options import TableOptions as TableOptions
    from ringpull.inference.export.tables_alone import export_tables as export_tables
    from ringpull.inference.importers.compose.composing import compose as compose
    from ringpull.inference.importers.tables.import_tables import import_tables as import_tables
    from ringpull.inference.prediction import Filled as Filled
    from ringpull.inference.prediction import Prediction as Prediction
    from ringpull.inference.prediction import Timings as Timings
    from ringpull.inference.push_answer import PushAnswer as PushAnswer
    from ringpull.inference.push_answer import PushStamp as PushStamp
    from ringpull.inference.rows_answer import RowsAnswer as RowsAnswer
    from ringpull.inference.schema.columns import Ragged as Ragged
    from ringpull.inference.schema.kinds import Cross as Cross
    from ringpull.inference.schema.kinds import Dense as Dense
    from ringpull.inference.schema.kinds import IdSequence as IdSequence
    from ringpull.inference.schema.kinds import Sparse as Sparse
    from ringpull.inference.schema.schema import Schema as Schema
    from ringpull.inference.schema.transforms import Bucketize as Bucketize
    from ringpull.inference.schema.transforms import Clip as Clip
    from ringpull.inference.schema.transforms import Hash as Hash
    from ringpull.inference.schema.transforms import Log as Log
    from ringpull.inference.schema.transforms import Normalize as Normalize
    from ringpull.inference.schema.transforms import Vocabulary as Vocabulary
    from ringpull.inference.top_k_answer import TopK as TopK
    from ringpull.ps.bytes_rows import BytesRows as BytesRows

__version__ = "0.2.0"

_HOMES: Final[dict[str, tuple[str, ...]]] = {
    "ringpull.inference.client.client": ("AsyncClient", "Client"),
    "ringpull.inference.degrade.steps": ("CapCandidates", "CutBags", "UseDefault", "UseVersion"),
    "ringpull.inference.export.delta.export": ("export_delta",),
    "ringpull.inference.export.model": ("export_model",),
    "ringpull.inference.export.report": ("ExportReport",),
    "ringpull.inference.export.table_options": ("TableOptions",),
    "ringpull.inference.export.tables_alone": ("export_tables",),
    "ringpull.inference.importers.compose.composing": ("compose",),
    "ringpull.inference.importers.tables.import_tables": ("import_tables",),
    "ringpull.inference.prediction": ("Filled", "Prediction", "Timings"),
    "ringpull.inference.push_answer": ("PushAnswer", "PushStamp"),
    "ringpull.inference.rows_answer": ("RowsAnswer",),
    "ringpull.inference.schema.columns": ("Ragged",),
    "ringpull.inference.schema.kinds": ("Cross", "Dense", "IdSequence", "Sparse"),
    "ringpull.inference.schema.schema": ("Schema",),
    "ringpull.inference.schema.transforms": ("Bucketize", "Clip", "Hash", "Log", "Normalize", "Vocabulary"),
    "ringpull.inference.top_k_answer": ("TopK",),
    "ringpull.ps.bytes_rows": ("BytesRows",),
}

__all__ = sorted({name for names in _HOMES.values() for name in names})


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            with needing("export", f"ringpull.{name}"):
                return getattr(import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
