"""From what an operator asks of `ringpull rebalance` to a move that can be looked at; the planner's choice. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ringpull.deploy.planned_tables import PROCESS_BYTES, tables_that_serve
from ringpull.deploy.view.move_view import PlannedMove
from ringpull.ps.errors import InvalidInput
from ringpull.ps.spec import Replicas
from ringpull.router.control.moves import MovePlan, move_plan
from ringpull.router.control.operations import DeploymentStatus, Rebalance
from ringpull.router.control.planner import Layout, amount, plan, predicted_cost


def planned_move(
    status: DeploymentStatus, request: Rebalance, moves: MovePlan, dims: Mapping[str, int], *, memory: int | None
) -> PlannedMove:
    """Return what a request leads to.

    Args:
        moves: What the coordinator says of it.
        dims: `MODEL/TABLE` -> numbers per row.
        memory: Most that one shard may take; None: not checked, since tables may be larger than memory.

    Raises:
        InvalidInput: It does not fit.
    """
    tables = tables_that_serve(status, dims)
    before = {f"{model}/{table}": copies for (model, table), copies in sorted(status.spec.replicas.items())}
    after = {name: _wanted(request, name, copies) for name, copies in before.items()}
    shards = len(status.spec.shards)
    shards_after = shards if request.shards is None else request.shards
    move = PlannedMove(
        shards_before=shards,
        shards_after=shards_after,
        replicas_before=before,
        replicas_after=after,
        moves=moves,
        cost_before=predicted_cost(tables, before, shards) if status.requests else None,
        cost_after=predicted_cost(tables, after, shards_after) if status.requests else None,
        process_bytes=PROCESS_BYTES,
    )
    taken = move.memory_bytes(moves.shard_bytes_after)
    fullest = max(taken, key=lambda shard: taken[shard])
    if memory is not None and taken[fullest] > memory:
        raise InvalidInput(
            f"shard {fullest} would take {amount(taken[fullest])}, of --memory {amount(memory)}: more shards or fewer"
            " copies would do"
        )
    return move


def automatic(
    status: DeploymentStatus, request: Rebalance, dims: Mapping[str, int], *, memory: int | None, min_copies: int | None
) -> tuple[Rebalance, tuple[str, ...]]:
    """Return the request with the copies that the planner chooses, and why.

    Args:
        memory: Most that one shard may take; None: as much as the fullest one holds now.
        least: See `tables_that_serve`.

    Raises:
        InvalidInput: Nothing was looked up yet, or the tables do not fit.
    """
    if status.requests == 0 or not status.traffic:
        raise InvalidInput("--auto plans by what is looked up, and no request was answered yet")
    if memory is None:
        held = move_plan(status.spec, status.spec, streamed=False).shard_bytes_before
        # A little above: an even share of the same tables must fit wherever the ring has put a row more.
        memory = PROCESS_BYTES + round(max(held.values()) * 1.05)
    shards = len(status.spec.shards) if request.shards is None else request.shards
    found = plan(
        tables_that_serve(status, dims, min_copies=min_copies), Layout(shards, memory, process_bytes=PROCESS_BYTES)
    )
    reasons = tuple(choice.reason for choice in found.choices)
    changed = {
        name: copies for name, copies in found.replicas.items() if copies != status.spec.replicas.get(_key(name), 1)
    }
    return replace(request, replicas=changed), reasons


def _wanted(request: Rebalance, name: str, copies: Replicas) -> Replicas:
    """Return how many copies a table, `MODEL/TABLE`, is to have; `TABLE` names it too."""
    return request.replicas.get(name, request.replicas.get(name.partition("/")[2], copies))


def _key(name: str) -> tuple[str, str]:
    model, _, table = name.partition("/")
    return model, table
