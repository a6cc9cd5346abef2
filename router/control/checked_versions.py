"""Checked versions: those whose rows a change has held against their checksums before they are served."""

from __future__ import annotations

from typing import Final

from ringpull.router.control.change import CoordinatorState, Kind
from ringpull.router.control.missing_versions import names_in

CHECKED: Final = (Kind.PUBLISH, Kind.LOAD, Kind.SERVE)
"""Kinds of change that open versions, whose rows are held against their checksums."""


def unchecked(state: CoordinatorState) -> frozenset[tuple[str, int]]:
    """Return the versions whose rows must be checked before they are served: those that the change opens, and the one
    that a publish makes live."""
    change, spec = state.change, state.spec
    if change is None or spec is None or change.kind not in CHECKED or change.trust_files:
        return frozenset()
    opened = names_in(change.target) - names_in(spec)
    return opened | (change.target.live.items() - spec.live.items() if change.kind is Kind.PUBLISH else frozenset())
