"""Warnings of shards when a deployment starts, such as of pushed rows that are not found; `status` has them, too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ringpull.ps.errors import RingpullError

ANSWER_S: Final = 5.0
"""Longest wait for a shard that has just told that it is ready."""


def shard_warnings(shards: Mapping[int, Any]) -> list[str]:
    """Return what shards warn of, given their handles; of those that do not answer soon nothing is known."""
    from ringpull.deploy.cluster.calls import result

    calls = {shard: handle.invoke.remote("heartbeat") for shard, handle in shards.items()}
    found = []
    for shard, call in calls.items():
        try:
            found += [f"shard {shard}: {warning}" for warning in result(call, timeout_s=ANSWER_S).warnings]
        except (RingpullError, TimeoutError):
            continue
    return found
