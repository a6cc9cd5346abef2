"""All faults of surroundings, by kind, and why one cannot be done here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from ringpull.loadtest.chaos.kinds.clock_stepped import step_clock
from ringpull.loadtest.chaos.kinds.coordinator_held import hold_coordinator
from ringpull.loadtest.chaos.kinds.disk_full import fill_disk
from ringpull.loadtest.chaos.kinds.everything_killed import kill_all
from ringpull.loadtest.chaos.kinds.folder_away import logs_away, state_away, version_away
from ringpull.loadtest.chaos.kinds.raylet_stopped import stop_raylet
from ringpull.loadtest.chaos.kinds.scene import Folders, Injected, Scene
from ringpull.loadtest.chaos.kinds.stranger_on_port import impersonate_shard
from ringpull.loadtest.chaos.kinds.version_reexported import reexport_version
from ringpull.loadtest.chaos.kinds.version_removed import remove_version
from ringpull.loadtest.chaos.schedule import Fault, Kind

INJECT: Final[Mapping[Kind, Callable[[Scene, Fault, Injected], Awaitable[None]]]] = {
    Kind.STOP_RAYLET: stop_raylet,
    Kind.KILL_ALL: kill_all,
    Kind.HOLD_COORDINATOR: hold_coordinator,
    Kind.AWAY_STATE: state_away,
    Kind.AWAY_LOGS: logs_away,
    Kind.AWAY_VERSION: version_away,
    Kind.FILL_DISK: fill_disk,
    Kind.STEP_CLOCK: step_clock,
    Kind.REEXPORT_VERSION: reexport_version,
    Kind.REMOVE_VERSION: remove_version,
    Kind.IMPERSONATE_SHARD: impersonate_shard,
}
"""What injects a fault: it calls `injected` as the fault begins, and returns when all is healthy again."""


def impossible(folders: Folders) -> dict[Kind, str]:
    """Return the kinds that cannot be done with these folders, and why."""
    return {Kind.FILL_DISK: folders.no_small_disk} if folders.no_small_disk else {}
