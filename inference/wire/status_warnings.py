"""Warnings that the numbers of a status give rise to. A head tells them itself; one of an earlier build does not."""

from __future__ import annotations

from ringpull.inference.proto import ringpull_pb2 as pb


def warnings_seen(status: pb.ClusterStatus) -> list[str]:
    """Return what its own warnings do not say: dead shards and heads, old epochs, fewer copies than wanted, degraded
    answers."""
    found = [
        f"shard {shard.shard} at {shard.address} does not answer: {shard.error}"
        for shard in status.shards
        if not shard.alive
    ]
    # Without for how long: that is another sentence at every look.
    found += [
        f"head {head.head} at {head.address} is not heard" if head.address else f"head {head.head} is not up"
        for head in status.heads
        if not head.alive
    ]
    found += [
        f"shard {shard.shard} is at epoch {shard.epoch}, the head still at {status.epoch}"
        for shard in status.shards
        if shard.alive and shard.epoch > status.epoch
    ]
    found += [
        f"table {table.model}/{table.table} wants {table.replicas_wanted} copies and has {table.replicas_effective}:"
        f" there are {len(status.shards)} shards"
        for table in status.tables
        if short_of_copies(table)
    ]
    found += [
        f"model {each.model} version {each.version} answers degraded, level {each.level} of {len(each.steps)}:"
        f" {'; '.join(step.step for step in each.steps[: each.level])}"
        for each in status.degrade
        if each.level
    ]
    return [each for each in found if each not in status.warnings]


def short_of_copies(table: pb.TableStatus) -> bool:
    """Return whether a table has fewer copies than it should."""
    return table.replicas_wanted.isdecimal() and int(table.replicas_wanted) > table.replicas_effective
