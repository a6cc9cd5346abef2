"""What a parameter is given: a tensor of the schema, a constant, or a structure of them, built while the call runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ringpull.inference.export.calls.record import Explain, Record


class FlatTensors(dict[str, Tensor]):
    """Tensors by name of the schema's argument."""

    def __init__(self, tensors: Mapping[str, Tensor], other_types: bool = False) -> None:
        """Take tensors; `other_types` says that ids side by side are floats where they were integers, and so on."""
        super().__init__(tensors)
        self.other_types = other_types


class Source(Protocol):
    """Recipe of one value of a call."""

    def build(self, flat: FlatTensors) -> Any:
        """Return the value, made of the schema's arguments."""

    def names(self) -> set[str]:
        """Return the schema's arguments that it is made of."""

    def turns(self) -> bool:
        """Return whether there are ids side by side in it, of which the module may take either type."""


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

    def turns(self) -> bool:
        """Return that it has one type."""
        return False


@dataclass(frozen=True, slots=True)
class Stack:
    """Single ids side by side: integers, or floats where a module takes no integers."""

    name: str

    def build(self, flat: FlatTensors) -> Tensor:
        """Return the ids."""
        return flat[self.name].to(torch.float32) if flat.other_types else flat[self.name]

    def names(self) -> set[str]:
        """Return its name."""
        return {self.name}

    def turns(self) -> bool:
        """Return that it may turn."""
        return True


@dataclass(frozen=True, slots=True)
class Matrix:
    """Members side by side, in one tensor of floats; or of integers, where a module takes no floats for ids alone."""

    members: tuple[str, ...]
    ids_alone: bool

    def build(self, flat: FlatTensors) -> Tensor:
        """Lay the members side by side, (B, columns)."""
        integers = self.ids_alone and flat.other_types
        columns = [flat[name] if integers else flat[name].to(torch.float32) for name in self.members]
        return torch.cat([each.unsqueeze(1) if each.dim() == 1 else each for each in columns], dim=1)

    def turns(self) -> bool:
        """Return whether all are ids."""
        return self.ids_alone

    def names(self) -> set[str]:
        """Return the members."""
        return set(self.members)


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

    def turns(self) -> bool:
        """Return that it has one type."""
        return False


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

    def turns(self) -> bool:
        """Return whether an item may turn."""
        return any(each.turns() for each in self.items)


@dataclass(frozen=True, slots=True)
class Entries:
    """A dict, whose keys are read."""

    entries: Mapping[str, Source]
    noted: set[object]
    """Keys that were read so far, and such as were asked for in vain."""
    explain: Explain

    def build(self, flat: FlatTensors) -> Record:
        """Return a dict of what its entries build."""
        built = {key: each.build(flat) for key, each in self.entries.items()}
        return Record(built, self.noted, self.explain)

    def names(self) -> set[str]:
        """Return the arguments of all entries."""
        return set().union(*(each.names() for each in self.entries.values()))

    def turns(self) -> bool:
        """Return whether an entry may turn."""
        return any(each.turns() for each in self.entries.values())
