"""Planned move: the consequences of a `ringpull rebalance` before it begins, and copies chosen by the planner. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ringpull.deploy.planned_tables import PROCESS_BYTES, heads_have_shards_beside_them, tables_that_serve
from ringpull.deploy.view.move_view import PlannedMove
from ringpull.ps.errors import InvalidInput
from ringpull.ps.spec import Replicas
from ringpull.ps.text.byte_size import size
from ringpull.router.control.moves import MoveSummary, move_plan
from ringpull.router.control.operations import DeploymentStatus, Rebalance
from ringpull.router.control.planner import Layout, plan, predicted_cost


def planned_move(
    status: DeploymentStatus, request: Rebalance, moves: MoveSummary, dims: Mapping[str, int], *, memory: int | None
) -> PlannedMove:
    """Return the move that a request leads to.

    Args:
        moves: The coordinator's plan for it.
        dims: `MODEL/TABLE` -> numbers per row.
        memory: Upper bound on the memory of one shard; None: not checked, since tables may be larger than memory.

    Raises:
        InvalidInput: A shard would take more than `memory`.
    """
    before = {f"{model}/{table}": copies for (model, table), copies in sorted(status.spec.replicas.items())}
    after = {name: _wanted(request, name, copies) for name, copies in before.items()}
    shards = len(status.spec.shards)
    shards_after = shards if request.shards is None else request.shards
    beside = heads_have_shards_beside_them(status)
    tables = tables_that_serve(status, dims)
    tables_after = tables_that_serve(status, dims, shards=shards_after, drained=request.drain_node)
    move = PlannedMove(
        shards_before=shards,
        shards_after=shards_after,
        replicas_before=before,
        replicas_after=after,
        moves=moves,
        cost_before=predicted_cost(tables, before, shards, beside_heads=beside) if status.requests else None,
        cost_after=predicted_cost(tables_after, after, shards_after, beside_heads=beside) if status.requests else None,
        process_bytes=PROCESS_BYTES,
    )
    taken = move.memory_bytes(moves.shard_bytes_after)
    fullest = max(taken, key=lambda shard: taken[shard])
    if memory is not None and taken[fullest] > memory:
        raise InvalidInput(
            f"shard {fullest} would take {size(taken[fullest])}, of --memory {size(memory)}: more shards or fewer"
            " copies would do"
        )
    return move


def automatic(
    status: DeploymentStatus, request: Rebalance, dims: Mapping[str, int], *, memory: int | None, min_copies: int | None
) -> tuple[Rebalance, tuple[str, ...]]:
    """Return the request with the numbers of copies that the planner chooses, and its reasons.

    Args:
        memory: Upper bound on the memory of one shard; None: that of the fullest one now.
        min_copies: See `tables_that_serve`.

    Raises:
        InvalidInput: Nothing was looked up yet, or the tables do not fit.
    """
    if status.requests == 0 or not status.traffic:
        raise InvalidInput("--auto plans by what is looked up, and no request was answered yet")
    if memory is None:
        stored = move_plan(status.spec, status.spec, streamed=False).shard_bytes_before
        # With a margin, because an even share of the same tables must fit even where the ring assigns a few rows more.
        memory = PROCESS_BYTES + round(max(stored.values()) * 1.05)
    shards = len(status.spec.shards) if request.shards is None else request.shards
    beside = heads_have_shards_beside_them(status)
    found = plan(
        tables_that_serve(status, dims, shards=shards, drained=request.drain_node, min_copies=min_copies),
        Layout(shards, memory, process_bytes=PROCESS_BYTES, beside_heads=beside),
    )
    reasons = tuple(choice.reason for choice in found.choices)
    changed = {
        name: copies for name, copies in found.replicas.items() if copies != status.spec.replicas.get(_key(name), 1)
    }
    return replace(request, replicas=changed), reasons


def _wanted(request: Rebalance, name: str, copies: Replicas) -> Replicas:
    """Return the number of copies requested of a table, `MODEL/TABLE`, which `TABLE` may name too."""
    return request.replicas.get(name, request.replicas.get(name.partition("/")[2], copies))


def _key(name: str) -> tuple[str, str]:
    model, _, table = name.partition("/")
    return model, table
