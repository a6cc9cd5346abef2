"""Plain Python values as arrays: lists, and whatever can say itself as an array, such as another library's columns.

No value is changed: numpy alone turns [1, "a"] into strings, and [1, 2^63 + 5] into floats.
"""

from __future__ import annotations

import collections.abc
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.errors import InvalidInput

_INT64: Final = range(-(2**63), 2**63)
_UINT64: Final = range(2**64)


def array_of_list(what: str, values: Sequence[Any]) -> NDArray[Any]:
    """Return a flat list as an array (N,): of integers, of floats, or of strings, dtype object.

    Raises:
        InvalidInput: The values are of mixed or unsuitable types, or integers of neither int64 nor uint64; the message
            begins with `what`.
    """
    if not values:
        return np.empty(0, np.int64)
    kinds = set(map(type, values))
    if all(issubclass(kind, str) for kind in kinds):
        return np.array(values, object)
    if not all(issubclass(kind, int | float | np.number | np.bool_) for kind in kinds):
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise InvalidInput(f"{what}: values of type {names}; give all numbers or all strings")
    array: NDArray[Any] | None = np.array(values)
    assert array is not None
    whole = all(issubclass(kind, int | np.integer | np.bool_) for kind in kinds)
    if whole and array.dtype.kind in "Of":
        array = _integers([int(value) for value in values])
    if array is None or array.dtype.kind == "O":
        raise InvalidInput(f"{what}: its integers fit neither int64 nor uint64")
    return array


def _integers(values: list[int]) -> NDArray[Any] | None:
    low, high = min(values), max(values)
    if low in _INT64 and high in _INT64:
        return np.array(values, np.int64)
    return np.array(values, np.uint64) if low in _UINT64 and high in _UINT64 else None


def flat_array(what: str, given: object) -> NDArray[Any]:
    """Return values as an array, objects that are numbers as what they are; an array that holds none is returned as is.

    Raises:
        InvalidInput: As `array_of_list`, or they cannot be said as an array.
    """
    if isinstance(given, list | tuple):
        return array_of_list(what, given)
    array = as_array(what, given)
    if array.dtype != object or not array.size or isinstance(array.flat[0], str):
        return array
    return array_of_list(what, array.ravel().tolist()).reshape(array.shape)


def as_array(what: str, given: object) -> NDArray[Any]:
    """Return what says itself as an array, or is a sequence, as an array; of any other object, one without dimensions.

    Raises:
        InvalidInput: It fails at that.
    """
    if type(given) is np.ndarray:
        return given
    if isinstance(given, np.ma.MaskedArray) and np.ma.is_masked(given):
        raise InvalidInput(f"{what}: masks some of its values, which are no values; fill them, as with .filled(0)")
    try:
        if not says_array(type(given)) and isinstance(given, collections.abc.Sequence):
            return array_of_list(what, list(given))
        return np.asarray(given)
    except InvalidInput:
        raise
    except Exception as exc:  # whatever the other library raises
        raise InvalidInput(f"{what}: {type(given).__name__} cannot be read as an array: {exc}") from exc


def says_array(kind: type) -> bool:
    """Whether objects of a type say themselves as arrays: numpy's own, and columns and tensors of other libraries."""
    return hasattr(kind, "__array__") and not issubclass(kind, np.generic)
