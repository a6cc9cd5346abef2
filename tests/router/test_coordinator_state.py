"""The saved state comes back as it was, whatever it was, and damage is told from it."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from ringpull.ps.errors import CorruptData
from ringpull.router.control.change import CoordinatorState, Kind, Phase
from ringpull.router.control.coordinator_state import state_from_dict, state_to_dict
from ringpull.router.control.deployment_spec import DeploymentSpec, initial_spec
from ringpull.router.control.events import Abort
from tests.router.coordinated import MiniDeployment, version

GOLDEN = Path(__file__).parent / "golden"


def states() -> list[CoordinatorState]:
    """Every state that a deployment goes through while it is brought up, moved and published to."""
    deployment = MiniDeployment(Random(1), heads=2)
    seen = [deployment.saved]
    tell = deployment.tell

    def noting(event: Any) -> None:
        tell(event)
        if deployment.saved != seen[-1]:
            seen.append(deployment.saved)

    deployment.tell = noting  # type: ignore[method-assign]

    def go(kind: Kind, target: DeploymentSpec) -> None:
        assert deployment.begin(kind, target)
        deployment.settle()

    first = initial_spec(range(2), [version(1)])
    go(Kind.BRING_UP, first)
    go(Kind.REBALANCE, replace(first, ring=first.ring.with_shards([0, 1, 2])))
    assert deployment.saved.spec is not None
    go(Kind.PUBLISH, replace(deployment.saved.spec, versions=(version(1), version(2)), live={"m": 2}))
    return seen


def test_the_highest_version_that_ever_went_live_is_remembered() -> None:
    """Also when a lower one is published after it, and it is let go of."""
    deployment = MiniDeployment(Random(1), heads=1)
    assert deployment.saved.highest_live == {}
    assert deployment.begin(Kind.BRING_UP, initial_spec(range(2), [version(2)]))
    deployment.settle()
    spec = deployment.saved.spec
    assert spec is not None
    assert deployment.begin(Kind.PUBLISH, replace(spec, versions=(version(1),), live={"m": 1}))
    assert deployment.saved.highest_live == {"m": 2}
    deployment.settle()
    saved = state_from_dict(json.loads(json.dumps(state_to_dict(deployment.saved))))
    assert (saved.spec is not None and saved.spec.live, saved.highest_live) == ({"m": 1}, {"m": 2})


def test_a_version_that_never_went_live_is_not_among_them() -> None:
    deployment = MiniDeployment(Random(1), heads=1)
    first = initial_spec(range(2), [version(1)])
    assert deployment.begin(Kind.BRING_UP, first)
    deployment.settle()
    assert deployment.begin(Kind.PUBLISH, replace(first, versions=(version(1), version(2)), live={"m": 2}))
    deployment.tell(Abort("its self-check failed"))
    deployment.settle()
    assert deployment.saved.highest_live == {"m": 1}


def test_every_state_comes_back_as_it_was() -> None:
    seen = states()
    assert len(seen) > 15
    for state in seen:
        assert state_from_dict(json.loads(json.dumps(state_to_dict(state)))) == state


def test_a_state_of_an_earlier_build_still_opens_and_is_written_with_what_is_new() -> None:
    """Saved by ba8f592 while a rebalance was `guarding`: no identity is known of what it serves."""
    fields = json.loads((GOLDEN / "coordinator-ba8f592.json").read_text())["state"]
    state = state_from_dict(fields)
    assert state.spec is not None
    assert state.change is not None
    assert (state.spec.shards, state.spec_id) == ((0, 1), 1)
    assert (state.change.kind, state.change.phase) == (Kind.REBALANCE, Phase.DUAL_OWNERSHIP)
    assert state.change.target.shards == (0, 1, 2)
    written = json.loads(json.dumps(state_to_dict(state)))
    assert state_from_dict(written) == state
    for spec in (fields["world"], fields["change"]["target"]):
        for each in spec["versions"]:
            each["identity"] = ""
            each["tables"] = {name: [*row, 0] for name, row in each["tables"].items()}
    assert written == {**fields, "format": 5}


def test_labels_are_saved_and_a_state_without_any_is_written_as_before() -> None:
    bare = CoordinatorState(spec=initial_spec(range(2), [version(1)]))
    assert "labels" not in state_to_dict(bare)["world"]
    assert bare.spec is not None
    labelled = replace(bare, spec=replace(bare.spec, labels={"m": {"stable": 1}}))
    fields = json.loads(json.dumps(state_to_dict(labelled)))
    assert fields["world"]["labels"] == {"m": {"stable": 1}}
    assert state_from_dict(fields) == labelled


def test_identities_are_saved() -> None:
    placed = replace(version(1), identity="00112233445566ff")
    tables = {name: replace(table, identity=2**64 - 1) for name, table in placed.tables.items()}
    state = CoordinatorState(spec=initial_spec(range(2), [replace(placed, tables=tables)]))
    assert state_from_dict(json.loads(json.dumps(state_to_dict(state)))) == state


@pytest.mark.parametrize("state", [states()[len(states()) // 2]], ids=["in a change"])
def test_damage_is_told_whichever_field_is_gone_or_wrong(state: CoordinatorState) -> None:
    fields = state_to_dict(state)
    for name in fields.keys() - {"went_live"}:  # which may be left out
        without = copy.deepcopy(fields)
        del without[name]
        with pytest.raises(CorruptData, match="coordinator state cannot be read"):
            state_from_dict(without)
    for name in ("world", "map", "change", "leaving", "epoch", "heads"):
        with pytest.raises(CorruptData, match="coordinator state"):
            state_from_dict({**fields, name: ["wrong"]})
    with pytest.raises(CorruptData, match="has format 1; this build reads 4 and 5"):
        state_from_dict({**fields, "format": 1})
