"""The arguments of a model's `forward`, as numpy arrays, from prepared features. They are bound by parameter name.

| feature | arguments |
|---|---|
| Sparse, Cross | NAME int64 (B,) |
| Sparse, many | NAME int64 (N,), NAME_offsets int64 (B+1,) or (B,), with `weighted` NAME_weights float32 (N,) |
| Dense | NAME float32 (B, width), or with `flat` (B,) |
| IdSequence | NAME int64 (B, length) padded, NAME_lengths int64 (B,) |
| stack of Sparse, Cross | STACK int64 (B, F) |
| stack of Dense | STACK float32 (B, sum of widths) |
| stack of others, or of several kinds | STACK float32 (B, columns of all members) |

The last is the one matrix that some libraries give a model, ids and numbers side by side, of which the model takes
columns and casts them to ids (`X[:, 3:53].long()`). A Sparse or Cross has one column there, a Dense its width, an
IdSequence its padded length, and the lengths of that sequence, a member called NAME_lengths, one. It is float32
whatever its members are, as such libraries make it: ids above 2^24 are rounded there. In a served model there is no
such matrix: an export takes it apart into its members.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.schema.features import Prepared
from ringpull.inference.schema.kinds import Dense, Feature, IdSequence, Sparse
from ringpull.ps.errors import InvalidInput

Part = Literal[
    "id", "values", "offsets", "weights", "dense", "sequence", "lengths", "number", "id_stack", "dense_stack", "matrix"
]


COLUMN_PARTS: Final = ("id", "dense", "number", "sequence", "lengths")
"""Parts of which a row has a fixed number of columns: those that may lie in a stack."""


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument that a `forward` may take."""

    name: str
    part: Part
    """Kind of array: id (B,), values (N,), offsets (B+1,) or (B,), weights (N,), dense (B, w), sequence (B, L),
    lengths (B,), number (B,), id_stack (B, F), dense_stack (B, sum of w), matrix (B, columns)."""
    features: tuple[str, ...]
    """Feature it is made of; of a stack all of them, in the order of its columns."""
    members: tuple[str, ...] = ()
    """Arguments that lie side by side in a matrix."""
    dense: bool = False
    """Whether one of those is of numbers, not ids."""


def arguments_of(features: Mapping[str, Feature], stacks: Mapping[str, Sequence[str]]) -> dict[str, Argument]:
    """Return every argument a model of this schema may take, by name.

    Raises:
        InvalidInput: Two of them would have the same name.
    """
    found: list[Argument] = []
    for name, feature in features.items():
        own = (name,)
        if isinstance(feature, Dense):
            found.append(Argument(name, "number" if feature.flat else "dense", own))
        elif isinstance(feature, IdSequence):
            found += [Argument(name, "sequence", own), Argument(f"{name}_lengths", "lengths", own)]
        elif isinstance(feature, Sparse) and feature.many:
            found += [Argument(name, "values", own), Argument(f"{name}_offsets", "offsets", own)]
            if feature.weighted:
                found.append(Argument(f"{name}_weights", "weights", own))
        else:
            found.append(Argument(name, "id", own))
    columns = {argument.name: argument for argument in found if argument.part in COLUMN_PARTS}
    found += [_stack(name, [columns[each] for each in members], features) for name, members in stacks.items()]
    by_name: dict[str, Argument] = {}
    for argument in found:
        if argument.name in by_name:
            others = ", ".join(by_name[argument.name].features)
            raise InvalidInput(
                f"argument {argument.name}: made by {', '.join(argument.features)} and by {others}; rename one"
            )
        by_name[argument.name] = argument
    return by_name


def _stack(name: str, members: Sequence[Argument], features: Mapping[str, Feature]) -> Argument:
    """Return the argument of a stack."""
    of = tuple(each.features[0] for each in members)
    parts = {each.part for each in members}
    if parts <= {"dense", "number"}:
        return Argument(name, "dense_stack", of)
    if parts == {"id"}:
        return Argument(name, "id_stack", of)
    return Argument(name, "matrix", of, tuple(each.name for each in members), bool(parts & {"dense", "number"}))


def assemble(argument: Argument, features: Mapping[str, Feature], prepared: Prepared) -> NDArray[Any]:
    """Return one argument. It may share memory with `prepared`."""
    if argument.part == "id_stack":
        return np.stack([_present(prepared.features[each].ids) for each in argument.features], axis=1)
    if argument.part == "dense_stack":
        return np.concatenate([_present(prepared.features[each].dense) for each in argument.features], axis=1)
    if argument.part == "matrix":
        return _matrix(argument, features, prepared)
    name = argument.features[0]
    feature, ready = features[name], prepared.features[name]
    match argument.part:
        case "dense":
            return _present(ready.dense)
        case "number":
            return _present(ready.dense)[:, 0]
        case "weights":
            return _present(ready.weights)
        case "offsets":
            offsets = _present(ready.offsets)
            return offsets if isinstance(feature, Sparse) and feature.include_last_offset else offsets[:-1]
        case "lengths":
            return np.diff(_present(ready.offsets))
        case "sequence" if isinstance(feature, IdSequence):
            padded = np.full((ready.rows, feature.length), feature.pad, np.int64)
            padded[sequence_mask(np.diff(_present(ready.offsets)), feature)] = _present(ready.ids)
            return padded
    return _present(ready.ids)


def _matrix(argument: Argument, features: Mapping[str, Feature], prepared: Prepared) -> NDArray[Any]:
    made = arguments_of({name: features[name] for name in argument.features}, {})
    parts = [assemble(made[name], features, prepared) for name in argument.members]
    columns = [each[:, None] if each.ndim == 1 else each for each in parts]
    return np.concatenate([each.astype(np.float32) for each in columns], axis=1)


def sequence_mask(lengths: NDArray[np.int64], feature: IdSequence) -> NDArray[np.bool_]:
    """Return where a padded sequence holds values, bool (B, length); `padded[mask] = ids` puts them there."""
    places = np.arange(feature.length)
    if feature.pad_side == "right":
        return places < lengths[:, None]
    return places >= feature.length - lengths[:, None]


def _present(part: NDArray[Any] | None) -> NDArray[Any]:
    assert part is not None, "prepared by another schema"
    return part
