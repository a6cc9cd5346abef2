"""What a parameter is given: a tensor of the schema, a constant, or a structure of them, built while the call runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from ringpull.inference.export.calls.record import Record

FlatTensors = Mapping[str, Tensor]
"""Tensors by name of the schema's argument."""


class Source(Protocol):
    """Recipe of one value of a call."""

    def build(self, flat: FlatTensors) -> Any:
        """Return the value, made of the schema's arguments."""

    def names(self) -> set[str]:
        """Return the schema's arguments that it is made of."""


@dataclass(frozen=True, slots=True)
class Flat:
    """One argument of the schema, as it is."""

    name: str

    def build(self, flat: FlatTensors) -> Tensor:
        """Return it."""
        return flat[self.name]

    def names(self) -> set[str]:
        """Return its name."""
        return {self.name}


@dataclass(frozen=True, slots=True)
class Constant:
    """A value that no request changes."""

    value: bool | int | float | None

    def build(self, flat: FlatTensors) -> bool | int | float | None:
        """Return it."""
        return self.value

    def names(self) -> set[str]:
        """Return nothing: no argument is read."""
        return set()


@dataclass(frozen=True, slots=True)
class Several:
    """A list or tuple."""

    kind: type[list[Any]] | type[tuple[Any, ...]]
    items: tuple[Source, ...]

    def build(self, flat: FlatTensors) -> Any:
        """Return a list or tuple of what its items build."""
        return self.kind(each.build(flat) for each in self.items)

    def names(self) -> set[str]:
        """Return the arguments of all items."""
        return set().union(*(each.names() for each in self.items))


@dataclass(frozen=True, slots=True)
class Entries:
    """A dict, whose keys are read."""

    entries: Mapping[str, Source]
    noted: set[str]
    """Keys that were read so far."""
    explain: Callable[[str], str]
    """Function that says what is wrong, of a key that is not there, or of a use as something other than a dict."""

    def build(self, flat: FlatTensors) -> Record:
        """Return a dict of what its entries build."""
        built = {key: each.build(flat) for key, each in self.entries.items()}
        return Record(built, self.noted, self.explain)

    def names(self) -> set[str]:
        """Return the arguments of all entries."""
        return set().union(*(each.names() for each in self.entries.values()))
