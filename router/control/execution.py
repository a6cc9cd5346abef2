"""One command of the coordinator, carried out by calling the member it is for."""

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
    """Carry a command out; return when that is done.

    Args:
        heard: Takes what a shard answers on the way.

    Raises:
        RingpullError: It could not be.
    """
    match command:
        case StartShard(shard, node):
            members.start_shard(shard, node)
            # Seen before this is done: the machine would start it again otherwise.
            heard(Member("shard", shard), members.shard(shard).heartbeat())
        case StopShard(shard):
            members.stop_shard(shard)
        case Prepare(shard=shard, placements=placements):
            members.shard(shard).prepare(placements)
            # So that what it copied is known from here on, however soon the change ends.
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
