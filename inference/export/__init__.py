"""Export: splitting a torch model into tables and a dense program. `export_model` is the door."""

from ringpull.inference.export.keys import Keys
from ringpull.inference.export.model import export_model
from ringpull.inference.export.report import CheckReport, ExportReport, TableReport
from ringpull.inference.export.tables import TableOptions

__all__ = ["CheckReport", "ExportReport", "Keys", "TableOptions", "TableReport", "export_model"]
