"""Saved form of the coordinator's state: plain JSON values, with a format version.

The keys are the names of the dataclasses' fields. A field that is renamed keeps its key (`plain_name`), and so the
format: the deployment spec is `world` there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ringpull.ps.errors import CorruptData, InvalidInput
from ringpull.ps.identity import UNKNOWN
from ringpull.router.control.change import CoordinatorState
from ringpull.router.control.deployment_spec import PlacedPart, PlacedTable
from ringpull.router.control.plain_values import PlainValues

FORMAT: Final = 5

EARLIER_FORMATS: Final = (4,)
"""Formats that are read, too. A state is written in the newest."""

VALUES: Final = PlainValues(rows=(PlacedTable, PlacedPart))
"""Form in which dataclasses are written: here, and where they travel between operators and the coordinator."""


def state_to_dict(state: CoordinatorState) -> dict[str, Any]:
    """Return plain JSON values; `state_from_dict` reads them back."""
    return {"format": FORMAT, **VALUES.encode(CoordinatorState, state)}


def state_from_dict(fields: Mapping[str, Any]) -> CoordinatorState:
    """Read what `state_to_dict` wrote.

    Raises:
        CorruptData: A field is missing or wrong, or another format wrote it.
    """
    if "format" not in fields:
        raise CorruptData("coordinator state cannot be read: format is missing")
    if fields["format"] not in (FORMAT, *EARLIER_FORMATS):
        known = " and ".join(map(str, (*EARLIER_FORMATS, FORMAT)))
        raise CorruptData(f"coordinator state has format {fields['format']!r}; this build reads {known}")
    plain = {name: value for name, value in fields.items() if name != "format"}
    try:
        return VALUES.decode(CoordinatorState, plain if fields["format"] == FORMAT else _from_format_4(plain))
    except InvalidInput as exc:
        raise CorruptData(f"coordinator state cannot be read: {exc}") from exc


def _from_format_4(plain: dict[str, Any]) -> dict[str, Any]:
    """Return a state of format 4 as of this one. What is damaged is left as it is, for the decoder to name."""
    upgraded = {**plain, "world": _spec_from_format_4(plain.get("world"))}
    if isinstance(change := plain.get("change"), dict):
        upgraded["change"] = {**change, "target": _spec_from_format_4(change.get("target"))}
    return upgraded if "world" in plain else plain


def _spec_from_format_4(spec: Any) -> Any:
    """Versions and tables have no identities there: they are not known."""
    if not isinstance(spec, dict) or not isinstance(spec.get("versions"), list):
        return spec
    return {**spec, "versions": [_version_from_format_4(version) for version in spec["versions"]]}


def _version_from_format_4(version: Any) -> Any:
    if not isinstance(version, dict) or not isinstance(version.get("tables"), dict):
        return version
    tables = {name: [*row, UNKNOWN] if isinstance(row, list) else row for name, row in version["tables"].items()}
    return {**version, "tables": tables, "identity": ""}
