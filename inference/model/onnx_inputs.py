"""Inputs and outputs of a graph of ONNX, from and to what a head has: float32 and int64 in, float32 out.

| a graph's input is | given |
|---|---|
| float, double | the numbers |
| float16 | the numbers, rounded |
| an integer type | whole numbers that it holds; another one is an error, as it would be another id |
| bool | whether they are not 0 |

An input (B, 1) takes what is (B,), and the other way around. Outputs of double and float16 become float32; integers
become float32 where that holds them exactly, which it does up to 2^24, and are an error where it does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.errors import InvalidInput

LARGEST_EXACT: Final = 1 << 24
"""Integers up to this are float32 numbers, all of them."""

TYPES: Final[Mapping[str, np.dtype[Any]]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(double)": np.dtype(np.float64),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(int64)": np.dtype(np.int64),
    "tensor(int32)": np.dtype(np.int32),
    "tensor(int16)": np.dtype(np.int16),
    "tensor(int8)": np.dtype(np.int8),
    "tensor(uint64)": np.dtype(np.uint64),
    "tensor(uint32)": np.dtype(np.uint32),
    "tensor(uint16)": np.dtype(np.uint16),
    "tensor(uint8)": np.dtype(np.uint8),
    "tensor(bool)": np.dtype(np.bool_),
}
"""Types that inputs and outputs may have, as onnxruntime names them."""


@dataclass(frozen=True, slots=True)
class GraphInput:
    """One input of a graph."""

    name: str
    dtype: np.dtype[Any]
    rank: int
    """Number of its dimensions, the rows among them."""
    last: int | None
    """Size of the last one; None: any."""

    def fit(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return values as the graph takes them.

        Args:
            values: float32 or int64, (B, ...).

        Raises:
            InvalidInput: A number is none of the input's type.
        """
        if values.ndim == self.rank - 1 and self.last in (1, None):
            values = values[..., None]
        elif values.ndim == self.rank + 1 and values.shape[-1] == 1:
            values = values[..., 0]
        if values.dtype == self.dtype:
            return values
        if self.dtype.kind == "b":
            return values.astype(np.bool_)
        with np.errstate(invalid="ignore", over="ignore"):
            cast: NDArray[Any] = values.astype(self.dtype)
            if self.dtype.kind in "iu":
                wrong = cast != values if values.dtype.kind == "f" else cast.astype(np.int64) != values
                if self.dtype == np.uint64 and values.dtype.kind in "iu":
                    wrong = values < 0
                if wrong.any():
                    place = np.unravel_index(int(np.argmax(wrong)), wrong.shape)
                    raise InvalidInput(
                        f"input {self.name!r} of the dense program is {self.dtype}; {values[place]} of row"
                        f" {int(place[0])} is no such number"
                    )
        return cast


def as_float32(name: str, values: Any) -> NDArray[np.float32]:
    """Return an output as float32.

    Raises:
        InvalidInput: It is an integer that float32 does not hold.
    """
    if values.dtype == np.float32:
        return values  # type: ignore[no-any-return]
    if values.dtype.kind in "iu" and values.dtype.itemsize > 2 and values.size:
        low, high = int(values.min()), int(values.max())
        if max(-low, high) > LARGEST_EXACT:
            worst = low if -low > high else high
            raise InvalidInput(
                f"output {name} is an integer, {worst}, which float32 does not hold: integers are given up to"
                f" {LARGEST_EXACT:,}"
            )
    with np.errstate(over="ignore"):
        return values.astype(np.float32)  # type: ignore[no-any-return]


def graph_inputs(values: Sequence[Any]) -> tuple[GraphInput, ...]:
    """Return the inputs of a session (`InferenceSession.get_inputs()`).

    Raises:
        InvalidInput: One is of a type that no feature gives; the message names it and what to do.
    """
    found = []
    for each in values:
        if each.type not in TYPES:
            cure = (
                ": give the graph numbers of the strings, and a Gather of the strings in it"
                if each.type == "tensor(string)"
                else ""
            )
            raise InvalidInput(f"input {each.name!r} is {each.type}, which no feature gives{cure}")
        shape = each.shape
        last = shape[-1] if shape and isinstance(shape[-1], int) else None
        found.append(GraphInput(each.name, TYPES[each.type], len(shape), last))
    return tuple(found)
