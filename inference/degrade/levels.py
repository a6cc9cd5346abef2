"""Levels of a version's degrade steps: what each means for a request, worked out once, when the version is loaded.

A `Degradation` is one level: the first n steps together, by feature. It is bound to the schema of the version that was
asked for, and travels with the request, whichever version answers it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ringpull.inference.degrade.steps import MAX_STEPS, CapCandidates, CutBags, Step, UseDefault, UseVersion
from ringpull.inference.schema.kinds import Feature, IdSequence, MadeFeature, Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.ps.errors import InvalidInput


@dataclass(frozen=True, slots=True, kw_only=True)
class Degradation:
    """The effect of the first so many steps on a request. Requests of one level share one object."""

    steps: tuple[Step, ...]
    """Steps in force, in the order declared."""
    sent: frozenset[str]
    """Features that a request for the version may carry; another version that answers leaves some out."""
    cuts: Mapping[str, CutBags] = field(default_factory=dict)
    """Tightest cut of each feature that is cut."""
    defaults: Mapping[str, UseDefault] = field(default_factory=dict)
    """Step that withholds the ids of each feature which takes default vectors."""
    cap: CapCandidates | None = None
    other: UseVersion | None = None

    def rows(self, candidates: int) -> int:
        """Return how many of so many candidates are scored."""
        return candidates if self.cap is None else min(candidates, self.cap.most)


def levels(steps: Sequence[Step], schema: Schema) -> tuple[Degradation | None, ...]:
    """Return the levels of a version with steps that `check_steps` accepted: None at 0, one more for each step."""
    sent = frozenset(each.name for each in schema.features if not isinstance(each, MadeFeature))
    level = Degradation(steps=(), sent=sent)
    found: list[Degradation | None] = [None]
    for step in steps:
        level = _with(level, step, schema)
        found.append(level)
    return tuple(found)


def check_steps(steps: object, schema: Schema, looked_up: Sequence[str], version: int) -> tuple[Step, ...]:
    """Return the steps, if the version can take them.

    Args:
        steps: Steps as declared.
        schema: Schema that is served.
        looked_up: Features whose ids are looked up in tables.
        version: Number of the version that declares them.

    Raises:
        InvalidInput: They are no steps, name features that are not of the kind, or one takes nothing that those before
            it have not taken. The message says which, and what is wrong.
    """
    if not isinstance(steps, list | tuple) or not all(isinstance(step, Step) for step in steps):
        raise InvalidInput(f"degrade is {steps!r:.200}; it must be a list of degrade steps, as UseDefault('history')")
    if len(steps) > MAX_STEPS:
        raise InvalidInput(f"degrade has {len(steps)} steps; it may have {MAX_STEPS}")
    level = Degradation(steps=(), sent=frozenset())
    for place, step in enumerate(steps):
        where = f"degrade[{place}]: {type(step).__name__}"
        if (problem := _problem(step, schema, looked_up, version)) is not None:
            raise InvalidInput(f"{where}: {problem}")
        before, level = level, _with(level, step, schema)
        if replace(level, steps=before.steps) == before:
            raise InvalidInput(f"{where}: takes nothing that the schema or a step before it has not taken: {step}")
    return tuple(steps)


def _problem(step: Step, schema: Schema, looked_up: Sequence[str], version: int) -> str | None:
    if isinstance(step, UseVersion):
        return f"version is {version}, the one that declares it; name another" if step.version == version else None
    if isinstance(step, CapCandidates):
        return None
    if isinstance(step, UseDefault):
        possible, kind = list(dict.fromkeys(looked_up)), "that is looked up in a table"
    else:
        possible, kind = [each.name for each in schema.features if _is_list(each)], "with a list per row"
    for name in step.features:
        if name not in possible:
            return f"features has {name!r}, which is no feature {kind}; those are: {', '.join(possible) or 'none'}"
    return None if possible else f"the model has no feature {kind}"


def _with(level: Degradation, step: Step, schema: Schema) -> Degradation:
    """Return the level after `level`."""
    steps = (*level.steps, step)
    if isinstance(step, UseDefault):
        return replace(level, steps=steps, defaults={**dict.fromkeys(step.features, step), **level.defaults})
    if isinstance(step, CutBags):
        names = step.features or [each.name for each in schema.features if _is_list(each)]
        shorter = {name: step for name in names if step.most < _longest(level, schema[name])}
        return replace(level, steps=steps, cuts={**level.cuts, **shorter})
    if isinstance(step, CapCandidates):
        tighter = level.cap is None or step.most < level.cap.most
        return replace(level, steps=steps, cap=step if tighter else level.cap)
    return replace(level, steps=steps, other=level.other or step)


def _is_list(feature: Feature) -> bool:
    return isinstance(feature, IdSequence) or (isinstance(feature, Sparse) and feature.many)


def _longest(level: Degradation, feature: Feature) -> float:
    """Return how many values a row of a list feature may have at a level."""
    if feature.name in level.cuts:
        return level.cuts[feature.name].most
    own = feature.length if isinstance(feature, IdSequence) else getattr(feature, "max_length", None)
    return float("inf") if own is None else own
