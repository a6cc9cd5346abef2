"""Brought versions: those that a change brings, with the number by which shards know it.

A delta that names no stamp goes before the pushes that were there when it was first opened. A shard may be killed amid
a publish, or be away when one is given up, so it has to be told whether a version that it has opened before is opened
for the same publish now.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import xxhash

from ringpull.router.control.change import CoordinatorState

_NO_NAME: Final = 2
"""Bit that is set in every number: 0 and 1 are of no change (`ringpull.ps.live.record`)."""


def brought_versions(state: CoordinatorState, deployment: str) -> Mapping[tuple[str, int], int]:
    """Return the number of the change under way, by each version that it brings, (model, version).

    No other change has it, of this deployment or of another one whose logs its shards go on with.
    """
    change = state.change
    if change is None:
        return {}
    served = () if state.spec is None else {(each.model, each.version, each.identity) for each in state.spec.versions}
    number = xxhash.xxh3_64_intdigest(f"{deployment} {change.id}".encode()) | _NO_NAME
    return {
        (each.model, each.version): number
        for each in change.target.versions
        if (each.model, each.version, each.identity) not in served
    }
