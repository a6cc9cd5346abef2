"""`export_delta`: from a torch module to a version that has only what changed since another one, and its dense program.

A delta is checked, served, published and rolled back like any version. Its rows are found by comparing all of them with
those of the version that it follows, as stored, or are told by whoever trained them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ringpull.inference.export.delta.following import Following, Ids
from ringpull.inference.export.model import export_model
from ringpull.inference.export.report import ExportReport
from ringpull.inference.schema.schema import Schema


def export_delta(
    module: Any,
    schema: Schema | None,
    folder: str | Path,
    version: int,
    follows: int,
    changed: Mapping[str, Ids] | None = None,
    gone: Mapping[str, Ids] | None = None,
    includes: Mapping[int, int] | None = None,
    **options: Any,
) -> ExportReport:
    """Export a module as a delta: `folder/VERSION/` holds the rows that are not those of `folder/FOLLOWS/`.

    What is served is what a full export of the module would give, bit for bit, but for a default vector that is the
    mean of a table's rows: that stays the other version's.

    Args:
        module, schema: As for `export_model`; the schema and the tables must be those of the other version.
        folder: The model's folder, in which the other version lies.
        version: Number of the new version, above that of the other one.
        follows: Number of the version that it is a delta of; that may be one itself.
        changed: By table, the ids of all rows that are new or may have changed, as a tracker counts them: no other row
            of these tables is read. Of a table that is not named all rows are compared.
        gone: By table of `changed`, ids that have no row in the module any more. Of other tables they are found.
        includes: Up to which pushed rows the module had read them, as a push's stamp: those are replaced, later ones
            stay. None: the delta's rows go before all that were pushed before it was opened.
        options: Those of `export_model`. Of the other version's only the model's name is taken over, and how tables are
            deployed: copies, policy, and whether they take pushes.

    Raises:
        InvalidInput: `follows` is not there, not before `version`, of another model or of a chain that is too long for
            one more; or an id or an option is not valid.
        ExportError: Schema, tables or dims are not those of the other version, or the module cannot be exported.
            Nothing is written then.
        CorruptData, OtherContent: The other version, or one that it is made of, is damaged or another one.
    """
    following = Following.of(Path(folder), version, follows, changed=changed, gone=gone, includes=includes)
    options["name"] = following.model(options.get("name"))
    return export_model(module, schema, folder, version, following=following, **options)
