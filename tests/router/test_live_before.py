"""What a deployment takes over of the one before it on the same folder: what was live, and what had been."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ringpull.router.control.change import Change, CoordinatorState, Kind, Phase
from ringpull.router.control.coordinator_state import state_from_dict, state_to_dict
from ringpull.router.control.deployment_spec import DeploymentSpec, PlacedTable, PlacedVersion, initial_spec
from ringpull.router.control.live_before import live_version, not_gone_on_with, pinned_as_before

SERVED = CoordinatorState(went_live=(("gone", 7), ("m", 4)))


def version(number: int, model: str = "m", identity: str = "") -> PlacedVersion:
    placed = {"t": PlacedTable(folder=f"/{model}/{number}/t", replicas=1)}
    return PlacedVersion(model, number, f"/{model}/{number}", placed, identity or f"{number:016x}")


def of(*versions: PlacedVersion) -> DeploymentSpec:
    return initial_spec(range(2), versions)


def saved(state: CoordinatorState) -> CoordinatorState:
    return state_from_dict(json.loads(json.dumps(state_to_dict(state))))


def test_what_was_live_is_left_behind_also_by_one_that_never_served() -> None:
    left = saved(replace(SERVED, spec=of(version(3))).left_behind)
    was = live_version(left.before, "m")
    assert was is not None
    assert was.version == 3
    assert left.went_live == (("gone", 7), ("m", 4))
    assert saved(left.left_behind) == left


@pytest.mark.parametrize("phase", Phase)
def test_amid_a_publish_it_is_what_nobody_could_abort(phase: Phase) -> None:
    change = Change(2, Kind.PUBLISH, "m/5", of(version(5)), phase)
    was = live_version(replace(SERVED, spec=of(version(3)), change=change).left_behind.before, "m")
    assert was is not None
    assert was.version == (3 if phase.reversible else 5)


def test_a_model_goes_on_where_the_very_version_is_live_again() -> None:
    left = replace(SERVED, spec=replace(of(version(3)), pinned=("m",))).left_behind
    assert not_gone_on_with(left, of(version(3))) == ("gone",)
    assert pinned_as_before(left, of(version(3))).pinned == ("m",)
    for other in (version(4), version(3, identity="f" * 16), version(3, "other")):
        assert not_gone_on_with(left, of(other)) == ("gone", "m")
        assert pinned_as_before(left, of(other)).pinned == ()
    assert not_gone_on_with(replace(SERVED, spec=of(version(3))), of(version(4))) == ()  # a change of one that serves
