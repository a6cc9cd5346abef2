"""Pushed tables: which shards have rows that were pushed, so that their slots are given to no other shard.

Pushed rows are on one shard's disk and nowhere else, and so are the numbers of their writers, which stay when a newer
base has the rows: slots that moved without them would take a push that is sent again for a new one. A shard takes the
first push to a table only once it is saved here that it has pushed rows of it, and that is refused while owners change;
so what is saved is all there is, and a change of owners that begins knows of every pushed row.

That holds from one deployment to the next on the same folder of states, too: shards are told what they had, so that one
that finds no log of it says so, and slots stay where their pushed rows are. Pure functions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ringpull.ps.errors import UnmetCondition
from ringpull.ps.identity import number_of
from ringpull.ps.spec import ALL
from ringpull.router.control.deployment_spec import DeploymentSpec

if TYPE_CHECKING:
    from ringpull.router.control.change import CoordinatorState

Names = tuple[tuple[str, int, str], ...]
"""Tables by model, lineage and name, sorted."""


@dataclass(frozen=True, slots=True, order=True)
class PushedTable:
    """Table that has pushed rows, in all versions of a lineage."""

    model: str
    lineage: int
    table: str


def told(state: CoordinatorState, shard: int) -> Names:
    """Return the tables of which a shard is told that it has pushed rows, or may have."""
    return tuple((each.model, each.lineage, each.table) for each in state.pushed.get(shard, ()))


def noted(state: CoordinatorState, shard: int, *, has: Names, wants: Names) -> CoordinatorState:
    """Return the state that knows of the pushed rows that a shard has, and of those that it may take from now on."""
    if not (has or wants):
        return state
    change = state.change
    specs = [spec for spec in (state.spec, None if change is None else change.target) if spec is not None]
    lineages = _lineages(specs)
    known = state.pushed.get(shard, ())
    # What is there is there; what is not waits for the end of a change of owners.
    new = {PushedTable(*name) for name in has if name[:2] in lineages}
    for name in wants:
        table = PushedTable(*name)
        if name[:2] in lineages and not (len(specs) > 1 and _moves(specs[0], specs[1], [table])):
            new.add(table)
    if new <= set(known):
        return state
    return replace(state, pushed={**state.pushed, shard: tuple(sorted(new.union(known)))})


def without_closed(state: CoordinatorState) -> CoordinatorState:
    """Return the state without the tables of lineages of which no version is open any more."""
    if not state.pushed or state.spec is None or state.change is not None:
        return state
    lineages = _lineages([state.spec])
    kept = {
        shard: open_ones
        for shard, names in state.pushed.items()
        if (open_ones := tuple(each for each in names if (each.model, each.lineage) in lineages))
    }
    return state if kept == state.pushed else replace(state, pushed=kept)


def as_before(state: CoordinatorState, target: DeploymentSpec) -> DeploymentSpec:
    """Return the spec of a bring-up with the shards of the deployment before, if that left pushed rows behind.

    They had been moved, perhaps, and then are others than a new deployment of as many shards has.

    Raises:
        UnmetCondition: It has another number of shards, or copies; names the tables.
    """
    before, names = state.before, _left_behind(state, target)
    if before is None or not names:
        return target
    if len(before.shards) == len(target.shards):
        target = replace(target, ring=before.ring.with_ranks(target.ring.wanted))
    if _moves(before, target, names):
        raise UnmetCondition(
            f"rows were pushed to {_tables(names)} by the deployment before, of {len(before.shards)} shards, and lie"
            f" where its shards had them: serve with --shards {len(before.shards)} and one copy of these tables, and"
            " publish a full version that follows nothing to have others; or serve with another --state-dir, to do"
            " without what is not found then"
        )
    return target


def check_may_begin(state: CoordinatorState, target: DeploymentSpec) -> None:
    """Check that a change gives no shard the slots of another one that has pushed rows.

    Raises:
        UnmetCondition: It does; names the tables and their shards. Or it changes the shards and makes another lineage
            live at once: those that serve one of both specs only would take its lineage for live all the while.
    """
    if state.spec is not None and set(state.spec.shards) != set(target.shards):
        before = live_lineages([state.spec])
        if changed := sorted(before.keys() - live_lineages([state.spec, target]).keys()):
            raise UnmetCondition(
                f"shards come and go in one change, and another lineage of {', '.join(changed)} goes live in another:"
                " do one after the other"
            )
    names = sorted({each for names in state.pushed.values() for each in names})
    if not names or state.spec is None or not _moves(state.spec, target, names):
        return
    shards = ", ".join(map(str, sorted(state.pushed)))
    raise UnmetCondition(
        "shards and copies stay as they are while a lineage is open to which rows were pushed: their shards alone have"
        " them, and the numbers by which a push that is sent again applies once, also after `ringpull compact`. These"
        f" are of {_tables(names)}, on shards {shards}; export a full version that follows nothing and publish it:"
        " they move again once no older version is open (--keep)"
    )


def live_lineages(specs: Sequence[DeploymentSpec]) -> dict[str, int]:
    """Return the lineage that is live, by model: of those alone whose live lineage is the same in all specs.

    While a change leads from one to another no shard that stays knows any for that model: heads switch one after the
    other, and each of them knows which lineage it has live.
    """
    each = [{model: _live_lineage(spec, model) for model in spec.live} for spec in specs]
    return {
        model: lineage
        for model, lineage in each[0].items()
        if lineage and all(of.get(model) == lineage for of in each[1:])
    }


def _live_lineage(spec: DeploymentSpec, model: str) -> int:
    version = spec.version(model, spec.live[model])
    return 0 if version is None else number_of(version.lineage)


def _left_behind(state: CoordinatorState, target: DeploymentSpec) -> list[PushedTable]:
    """Return the tables that had pushed rows before, and are in lineages of the target."""
    lineages = _lineages([target])
    had = {each for names in state.pushed.values() for each in names}
    return sorted(each for each in had if (each.model, each.lineage) in lineages)


def _tables(names: Iterable[PushedTable]) -> str:
    return ", ".join(sorted({f"{each.model}/{each.table}" for each in names}))


def _moves(spec: DeploymentSpec, target: DeploymentSpec, names: Iterable[PushedTable]) -> bool:
    """Return whether slots of these tables get another first owner, or a second one."""
    for each in names:
        copies = target.replicas.get((each.model, each.table), 1)
        if (len(target.shards) if copies == ALL else min(copies, target.ring.ranks)) > 1:
            return True
    return spec.ring != target.ring and not np.array_equal(spec.ring.owner_table(1), target.ring.owner_table(1))


def _lineages(specs: Iterable[DeploymentSpec]) -> set[tuple[str, int]]:
    return {(version.model, number_of(version.lineage)) for spec in specs for version in spec.versions}
