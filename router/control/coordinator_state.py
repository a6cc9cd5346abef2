"""Saved form of the coordinator's state: plain JSON values, with a format version.

The keys are the names of the dataclasses' fields. A field that is renamed keeps its key (`plain_name`), and so the
format: the deployment spec is `world` there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ringpull.ps.errors import CorruptData, InvalidInput
from ringpull.router.control.change import CoordinatorState
from ringpull.router.control.deployment_spec import PlacedTable
from ringpull.router.control.plain_values import PlainValues

FORMAT: Final = 4

VALUES: Final = PlainValues(rows=(PlacedTable,))
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
    if fields["format"] != FORMAT:
        raise CorruptData(f"coordinator state has format {fields['format']!r}; this build reads {FORMAT}")
    try:
        return VALUES.decode(CoordinatorState, {name: value for name, value in fields.items() if name != "format"})
    except InvalidInput as exc:
        raise CorruptData(f"coordinator state cannot be read: {exc}") from exc
