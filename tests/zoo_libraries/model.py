"""One model of a library: how it is built, what its features are, and how its own users call it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ringpull.inference.schema.schema import Schema

ROWS = 16_500
"""Rows of a table: a megabyte of 16 float32 each."""
DIM = 16

Ask = Callable[[nn.Module, Mapping[str, Tensor]], Any]
"""Function that calls a module as its library does, given the schema's arguments by name: the oracle."""


@dataclass(frozen=True, kw_only=True)
class ZooModel:
    """One model of a library."""

    name: str
    build: Callable[[], nn.Module]
    schema: Schema
    ask: Ask
    ids: Mapping[str, int] = field(default_factory=dict)
    """Number of ids of a feature; `ROWS` where it is not named. Those of sequences are drawn from 1."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of `export_model` besides module and schema: method, arguments, once, ..."""
    prepare: Callable[[nn.Module], None] | None = None
    """Function that does what training would have, besides weights: the oracle and the export both get the result."""


def by_name(models: Sequence[ZooModel]) -> dict[str, ZooModel]:
    """Return models by name, which must differ."""
    found = {model.name: model for model in models}
    assert len(found) == len(models), sorted(model.name for model in models)
    return found
