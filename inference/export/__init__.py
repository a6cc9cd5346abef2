"""Export: splitting a torch model into tables and a dense program. `export_model` is the door."""

from inference.export.keys import Keys
from inference.export.model import export_model
from inference.export.report import CheckReport, ExportReport, TableReport
from inference.export.tables import TableOptions

__all__ = ["CheckReport", "ExportReport", "Keys", "TableOptions", "TableReport", "export_model"]
