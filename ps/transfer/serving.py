"""Serving: what local copies need of the shard that serves from them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from ringpull.ps.open_versions import TableKey
from ringpull.ps.placement import VersionPlacement
from ringpull.ps.slot_mask import SlotMask
from ringpull.ps.store.base import BadBlock, Base


class Serving(Protocol):
    """Shard that serves from the copies, as `ringpull.ps.shard.Shard` does."""

    def is_open(self, model: str, version: int) -> bool:
        """Return whether the version is served."""
        ...

    def holds(self, placement: VersionPlacement) -> bool:
        """Return whether the version is served with the content that the placement asks for."""
        ...

    def owned(self, model: str, table: str) -> SlotMask | None:
        """Return the slots that are served; None before the first assignment."""
        ...

    def base(self, key: TableKey) -> Base | None:
        """Return the base that a table, or a part of one, is served from; None if it is not served."""
        ...

    def install(
        self,
        model: str,
        version: int,
        bases: Mapping[str, Base],
        *,
        identity: str = "",
        placed: VersionPlacement | None = None,
    ) -> None:
        """Serve these bases from now on, in place of those of the same names, and of any other content."""
        ...

    def quarantine(self, key: TableKey, base: Base, bad: Collection[BadBlock]) -> bool:
        """Refuse pulls of the slots of these blocks, if the table is served from this base; return whether it is."""
        ...
