"""Packed inputs, whatever runs the program: look-ups that it lays side by side reach it as one input.

`onnx_packing` and `torch_packing` find them, each in a program of its kind.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.model.dense_program import described
from ringpull.inference.model.manifest import Manifest, ProgramInput
from ringpull.ps.errors import InvalidInput

Int64Array = NDArray[np.int64]

MIN_INPUTS: Final = 8
"""Inputs that are packed together at least."""


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """One input in place of several."""

    places: Int64Array
    """(P,): these, by their places among the inputs of the program as it was."""
    dims: Int64Array
    """(P,): numbers per row of each."""


def lookup_places(manifest: Manifest) -> list[int]:
    """Return the places of the inputs that are vectors of a look-up, which alone may be packed."""
    return [place for place, each in enumerate(manifest.inputs) if each.lookup is not None]


def single_places(inputs: int, packed: Iterable[Packed]) -> list[int]:
    """Return the places, of so many inputs, of those that are not packed."""
    gone = {place for each in packed for place in each.places.tolist()}
    return [place for place in range(inputs) if place not in gone]


def check_shape(entry: ProgramInput, shape: tuple[int, ...], wanted: tuple[int, int]) -> None:
    """Refuse vectors of another width than they had in the program: it sees only what all add up to.

    Raises:
        InvalidInput: The shape is not the one that is wanted, (rows, dim).
    """
    if shape != wanted:
        raise InvalidInput(f"input {described(entry)} of the dense program has the shape {shape}; it must be {wanted}")
