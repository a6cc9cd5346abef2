"""Execution of the coordinator's commands: each is a call of the member it is for."""

from __future__ import annotations

from collections.abc import Callable

from ringpull.ps.heartbeat import ShardHeartbeat
from ringpull.router.control.controls import Members
from ringpull.router.control.events import (
    Assign,
    Cancel,
    Command,
    Load,
    Member,
    Prepare,
    Route,
    StartShard,
    StopShard,
    Throttle,
)


def execute(command: Command, members: Members, heard: Callable[[Member, ShardHeartbeat], None]) -> None:
    """Execute a command, and return when it is done.

    Args:
        heard: Called with the heartbeats of shards that are asked for on the way.

    Raises:
        RingpullError: The command failed.
    """
    match command:
        case StartShard(shard, node):
            members.start_shard(shard, node)
            # The coordinator must see the shard before the command is done, or it would start it once more.
            heard(Member("shard", shard), members.shard(shard).heartbeat())
        case StopShard(shard):
            members.stop_shard(shard)
        case Prepare(shard=shard, placements=placements):
            members.shard(shard).prepare(placements)
            # The change may end before the next heartbeat; this one tells how much was copied.
            heard(Member("shard", shard), members.shard(shard).heartbeat())
        case Assign(shard=shard, epoch=epoch, served_ranges=served_ranges, versions=versions):
            members.shard(shard).assign(epoch, served_ranges, versions)
        case Throttle(shard=shard, bytes_per_s=bytes_per_s):
            members.shard(shard).throttle(bytes_per_s)
        case Cancel(shard):
            members.shard(shard).cancel()
        case Load(head=head, versions=placed, shard_map=shard_map):
            members.head(head).load(placed, shard_map)
        case Route(head=head, shard_map=shard_map, live=live, versions=versions):
            members.head(head).route(shard_map, live, versions)
