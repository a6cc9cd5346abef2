"""What was live in the deployment before, on the same folder of states: the next one goes on with it.

A model *goes on* where a bring-up serves the very version of it that was live: not only its number, but its content.
Then whoever watches folders goes on, too: what had been live before a rollback is not published again, and a model that
was asked for by number stays with it. Of any other model nothing is taken over: its folder may have been filled anew,
with numbers from 1. Pure functions.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ringpull.ps.identity import differ, number_of
from ringpull.router.control.deployment_spec import DeploymentSpec, PlacedVersion

if TYPE_CHECKING:
    from ringpull.router.control.change import CoordinatorState


def live_version(spec: DeploymentSpec | None, model: str) -> PlacedVersion | None:
    """Return the version of a model that is live; None: there is none."""
    return None if spec is None or model not in spec.live else spec.version(model, spec.live[model])


def pinned_as_before(state: CoordinatorState, target: DeploymentSpec) -> DeploymentSpec:
    """Return the spec of a bring-up in which models that go on, and had been asked for by number, stay so."""
    if state.before is None:
        return target
    gone_on = set(target.live) - set(not_gone_on_with(state, target))
    return replace(target, pinned=tuple(sorted({*target.pinned, *gone_on.intersection(state.before.pinned)})))


def not_gone_on_with(state: CoordinatorState, target: DeploymentSpec) -> tuple[str, ...]:
    """Return the models that were live before a bring-up and do not go on in it, sorted."""
    if state.spec is not None:
        return ()
    known = {model for model, _ in state.went_live}
    return tuple(sorted(model for model in known if not _goes_on(state.before, target, model)))


def _goes_on(before: DeploymentSpec | None, target: DeploymentSpec, model: str) -> bool:
    was, now = live_version(before, model), live_version(target, model)
    if was is None or now is None or was.version != now.version:
        return False
    return not differ(number_of(was.identity), number_of(now.identity))
