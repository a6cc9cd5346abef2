"""`tensorflow.serving.ModelSpec`: which model a request names, and which version of it."""

from __future__ import annotations

from typing import Any, NamedTuple

from ringpull.ps.errors import InvalidInput, NotFound


class Named(NamedTuple):
    """What a request names."""

    model: str
    version: int
    """Version; 0: none is named."""
    label: str
    """Label of a version; empty: none."""


def named_by(request: Any) -> Named:
    """Return what a request's `model_spec` names.

    Raises:
        InvalidInput: It has none.
        NotFound: The version is 0.
    """
    if not request.HasField("model_spec"):
        raise InvalidInput("model_spec: Missing ModelSpec")
    spec = request.model_spec
    version = spec.version.value
    if not version and spec.name and spec.HasField("version"):
        # Elsewhere here it stands for the live one, and no version has it.
        raise NotFound(f"Servable not found for request: Specific({spec.name}, 0)")
    return Named(spec.name, version, spec.version_label)
