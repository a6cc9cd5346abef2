"""Execution of the coordinator's commands: each is a call of the member it is for."""

from __future__ import annotations

from collections.abc import Callable

from ringpull.ps.fence import Order
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


def execute(
    command: Command,
    members: Members,
    *,
    order: Order,
    check: Callable[[], None],
    introduce: Callable[[Member, ShardHeartbeat], None],
    heard: Callable[[Member, ShardHeartbeat], None],
) -> None:
    """Execute a command, and return when it is done.

    Args:
        order: The order for the incarnation that the command names.
        check: Called before anything is done that no member could refuse; raises `Superseded`.
        introduce: Called with the heartbeat of a shard that was just started.
        heard: Called with the heartbeats of shards that are asked for on the way.

    Raises:
        RingpullError: The command failed.
    """
    match command:
        case StartShard(shard=shard, node=node):
            check()
            members.start_shard(shard, node)
            # The coordinator must see the shard before the command is done, or it would start it once more.
            introduce(Member("shard", shard), members.shard(shard).heartbeat())
        case StopShard(shard=shard):
            check()
            members.stop_shard(shard, order)
        case Prepare(shard=shard, placements=placements):
            members.shard(shard).prepare(order, placements)
            # The change may end before the next heartbeat; this one tells how much was copied.
            heard(Member("shard", shard), members.shard(shard).heartbeat())
        case Assign(shard=shard, epoch=epoch, served_ranges=served_ranges, versions=versions):
            members.shard(shard).assign(order, epoch, served_ranges, versions, command.pushed, command.live)
        case Throttle(shard=shard, bytes_per_s=bytes_per_s):
            members.shard(shard).throttle(order, bytes_per_s)
        case Cancel(shard=shard):
            members.shard(shard).cancel(order)
        case Load(head=head, versions=placed, shard_map=shard_map):
            members.head(head).load(order, placed, shard_map)
        case Route(head=head, shard_map=shard_map, live=live, versions=versions, labels=labels):
            members.head(head).route(order, shard_map, live, versions, labels)
