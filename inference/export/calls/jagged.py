"""Jagged features by key: one object that holds the bags of several features, of which a module takes each by key.

Libraries define such a class, whose constructor takes `keys`, `values` and `lengths` or `offsets`. Its own code splits
the values by sizes that are known only at run time, which no graph can hold. So a module is given an instance of a
subclass that keeps each feature's bags apart, as the schema makes them, and answers in the class's place.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ringpull.inference.export.calls.sources import FlatTensors
from ringpull.ps.errors import ExportError


@dataclass(frozen=True, slots=True)
class Bags:
    """The bags of one feature, as a module takes them of a jagged object by key."""

    key: str
    ids: Tensor
    starts: Tensor
    """(rows + 1,)"""
    given_weights: Tensor | None

    def values(self) -> Tensor:
        """Return the ids, end to end."""
        return self.ids

    def offsets(self) -> Tensor:
        """Return where each row begins, and where the last one ends."""
        return self.starts

    def lengths(self) -> Tensor:
        """Return how many ids each row has."""
        return self.starts[1:] - self.starts[:-1]

    def weights(self) -> Tensor:
        """Return a weight per id."""
        if self.given_weights is None:
            raise ExportError(f"feature {self.key}: the module takes weights of it; declare it with weighted=True")
        return self.given_weights

    offsets_or_none = offsets
    lengths_or_none = lengths

    def weights_or_none(self) -> Tensor | None:
        """Return a weight per id, if there are weights."""
        return self.given_weights

    def device(self) -> torch.device:
        """Return where the tensors are."""
        return self.ids.device

    def to(self, *args: Any, **kwargs: Any) -> Bags:
        """Return itself: it is where the module is."""
        return self

    def __getattr__(self, name: str) -> Any:
        raise _missing(name, "of the bags of one key")


class JaggedByKey:
    """Bags of several features by key."""

    _members: Mapping[str, Bags]

    @staticmethod
    def made(kind: type, members: Sequence[Bags]) -> JaggedByKey:
        """Return an object that is an instance of `kind`, though none of its code runs."""
        body = {"__init__": lambda self: None, "__slots__": (), "__abstractmethods__": frozenset()}
        bases = (JaggedByKey,) if kind is JaggedByKey else (JaggedByKey, kind)
        made: Any = object.__new__(types.new_class(kind.__name__, bases, exec_body=lambda names: names.update(body)))
        made.__dict__["_members"] = {each.key: each for each in members}
        return made  # type: ignore[no-any-return]

    def keys(self) -> list[str]:
        """Return the keys, in order."""
        return list(self._members)

    def __getitem__(self, key: str) -> Bags:
        if key not in self._members:
            raise ExportError(
                f"the module reads {key!r} of its features by key, which are {', '.join(self._members)}; name them as"
                " the module does, or say which feature each key is by arguments={PARAMETER: {KEY: FEATURE}}"
            )
        return self._members[key]

    def to_dict(self, *args: Any, **kwargs: Any) -> Mapping[str, Bags]:
        """Return the features by key."""
        return _Features(self)

    def values(self) -> Tensor:
        """Return the ids of all features, one feature after the other."""
        return torch.cat([each.ids for each in self._members.values()])

    def lengths(self) -> Tensor:
        """Return how many ids each row has, one feature after the other."""
        return torch.cat([each.lengths() for each in self._members.values()])

    def offsets(self) -> Tensor:
        """Return where each row of each feature begins in `values`, and where the last one ends."""
        lengths = self.lengths()
        return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])

    def weights(self) -> Tensor:
        """Return a weight per id of `values`."""
        return torch.cat([each.weights() for each in self._members.values()])

    offsets_or_none = offsets
    lengths_or_none = lengths

    def weights_or_none(self) -> Tensor | None:
        """Return a weight per id of `values`, if all features have weights."""
        return None if any(each.given_weights is None for each in self._members.values()) else self.weights()

    def inverse_indices_or_none(self) -> None:
        """Return that no rows were left out as equal."""

    def stride(self) -> Any:
        """Return the number of rows."""
        return next(iter(self._members.values())).starts.shape[0] - 1

    def stride_per_key(self) -> list[Any]:
        """Return the number of rows of each key."""
        return [self.stride()] * len(self._members)

    def variable_stride_per_key(self) -> bool:
        """Return that all keys have as many rows."""
        return False

    def device(self) -> torch.device:
        """Return where the tensors are."""
        return next(iter(self._members.values())).ids.device

    def split(self, segments: Sequence[int]) -> list[JaggedByKey]:
        """Return objects of so many keys each."""
        members, places = list(self._members.values()), [0]
        for size in segments:
            places.append(places[-1] + size)
        return [self._of(members[begin:end]) for begin, end in pairwise(places)]

    def permute(self, indices: Sequence[int], *args: Any, **kwargs: Any) -> JaggedByKey:
        """Return an object with the keys at these places."""
        members = list(self._members.values())
        return self._of([members[place] for place in indices])

    def to(self, *args: Any, **kwargs: Any) -> JaggedByKey:
        """Return itself: it is where the module is."""
        return self

    def sync(self) -> JaggedByKey:
        """Return itself."""
        return self

    unsync = flatten_lengths = sync

    def _of(self, members: Sequence[Bags]) -> JaggedByKey:
        return JaggedByKey.made(type(self).__mro__[2], members)

    def __getattr__(self, name: str) -> Any:
        raise _missing(name, "of features by key")


class _Features(dict[str, Bags]):
    """The dict of a jagged object, which names keys that are not there."""

    def __init__(self, of: JaggedByKey) -> None:
        super().__init__({key: of[key] for key in of.keys()})  # noqa: SIM118 (it is no dict)
        self._of = of

    def __missing__(self, key: str) -> Bags:
        return self._of[key]


def _missing(name: str, where: str) -> AttributeError:
    return AttributeError(
        f"the module takes {name!r} {where}, which is not known while it is exported: values, offsets, lengths,"
        " weights, [key], to_dict, split, permute and stride are"
    )


@dataclass(frozen=True, slots=True)
class BagNames:
    """Arguments of the schema that are one feature's bags."""

    key: str
    values: str
    offsets: str | None
    """Argument of the bags' offsets; None: the feature has one id per row."""
    weights: str | None


@dataclass(frozen=True, slots=True)
class Jagged:
    """Source of an object of features by key."""

    kind: type
    bags: tuple[BagNames, ...]

    def build(self, flat: FlatTensors) -> JaggedByKey:
        """Return the object."""
        return JaggedByKey.made(self.kind, [_bags(each, flat) for each in self.bags])

    def names(self) -> set[str]:
        """Return the arguments of all features."""
        every = [name for each in self.bags for name in (each.values, each.offsets, each.weights)]
        return {name for name in every if name is not None}

    def turns(self) -> bool:
        """Return that it has one type."""
        return False


def _bags(names: BagNames, flat: FlatTensors) -> Bags:
    ids = flat[names.values]
    starts = torch.arange(ids.shape[0] + 1, device=ids.device) if names.offsets is None else flat[names.offsets]
    return Bags(names.key, ids, starts, None if names.weights is None else flat[names.weights])


def is_jagged(kind: type) -> bool:
    """Return whether a class is one of features by key, told by what its constructor takes."""
    try:
        taken = inspect.signature(kind.__init__).parameters  # type: ignore[misc]  # its class may take anything
    except (TypeError, ValueError):  # written in C
        return False
    return {"keys", "values"} <= taken.keys() and bool({"lengths", "offsets"} & taken.keys())


def jagged_kind(annotation: object) -> type | None:
    """Return the class of features by key that a parameter is annotated with, also as one of several; else None."""
    choices = [annotation, *typing.get_args(annotation)]
    return next((each for each in choices if inspect.isclass(each) and is_jagged(each)), None)
