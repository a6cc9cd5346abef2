"""Values that inputs with codes may have: those that the model knows, or any, as fingerprints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.importers.savedmodel.converter.fingerprints import fingerprint, fingerprints

UNKNOWN_TEXT: Final = "\x1dringpull: no text that a model knows\x1d"


@dataclass
class Vocabulary:
    """The values that inputs with codes may have."""

    inputs: set[str] = field(default_factory=set)
    """Placeholders that take codes of it."""
    known: dict[Any, None] = field(default_factory=dict)
    """Texts as bytes, or integers: those that the model knows."""
    endless: list[Any] = field(default_factory=list)
    """Ops that make something else of every text."""
    texts: bool = True
    hashed: bool = False
    """Whether codes are fingerprints of any value, and not numbers of those known."""

    @property
    def values(self) -> list[Any]:
        """Value of each code; first one that stands for all unknown ones."""
        unknown: Any = UNKNOWN_TEXT.encode() if self.texts else _unknown_id(self.known)
        return [unknown, *self.known]

    def number(self, value: Any) -> int | None:
        """Return the code of a value; None: it is unknown."""
        if self.hashed:
            return fingerprint(value)
        return next((number for number, each in enumerate(self.known, 1) if each == value), None)

    def codes_of(self, values: NDArray[Any]) -> NDArray[np.int64]:
        """Return the codes of constants, all of which it has."""
        if self.hashed:
            return fingerprints(values.reshape(-1).tolist()).reshape(values.shape)
        numbers = {value: number for number, value in enumerate(self.known, 1)}
        return np.array([numbers[each] for each in values.reshape(-1).tolist()], np.int64).reshape(values.shape)

    def array(self) -> NDArray[Any]:
        """Return `values` as TensorFlow takes them."""
        return np.array(self.values, object if self.texts else np.int64)


def _unknown_id(known: Mapping[Any, None]) -> int:
    number = -(2**31) + 1  # fits the types of 32 bits, too
    while number in known:
        number += 1
    return number
