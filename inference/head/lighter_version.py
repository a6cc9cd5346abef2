"""Lighter version of a model: whether it can answer the requests made for another (`UseVersion`).

It can when every request that the other takes is one that it takes too, once features it does not know are left out,
and when it gives the same outputs. Else a valid request would be refused, or answered by something else, under load.
"""

from __future__ import annotations

from ringpull.inference.model.version import LoadedVersion
from ringpull.inference.schema.kinds import Dense, Feature, IdSequence, MadeFeature, Sparse
from ringpull.inference.schema.schema import Schema


def can_stand_in(lighter: LoadedVersion, asked: LoadedVersion) -> bool:
    """Return whether `lighter` takes every request of `asked`, and gives its outputs."""
    gives = {output.name: output.shape for output in lighter.manifest.outputs}
    same_outputs = all(gives.get(output.name) == output.shape for output in asked.manifest.outputs)
    return same_outputs and all(
        _takes(each, asked.schema) for each in lighter.schema.features if not isinstance(each, MadeFeature)
    )


def _takes(feature: Feature, asked: Schema) -> bool:
    """Return whether every column that `asked` takes for a feature, or does without, is right for `feature` too."""
    other = asked.get(feature.name)
    if other is None:
        return _missing(feature) is not None
    if _form(feature) != _form(other):
        return False
    return _missing(other) in (None, _missing(feature))


def _form(feature: Feature) -> tuple[object, ...]:
    """Return what the columns of a feature look like: numbers of a width, or ids of a type, one or a list per row."""
    if isinstance(feature, Dense):
        return "numbers", feature.width
    if isinstance(feature, IdSequence):
        return feature.dtype, True, False
    if isinstance(feature, Sparse):
        return feature.dtype, feature.many, feature.weighted
    return ("made by the server",)


def _missing(feature: Feature) -> str | None:
    """Return what a feature does without a value: None refuses, "empty" takes no list, "value" stands something in."""
    missing = getattr(feature, "missing", None)
    return None if missing is None else "empty" if missing == () else "value"
