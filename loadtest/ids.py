"""Ids of a feature: a range of integers, or a list in a file; and what an unknown id looks like.

| written | ids |
|---|---|
| `1..943` | the integers from the first to the last, both included |
| `FILE.npy` | the values of a one-dimensional numpy array |
| `FILE` | one id per line, as text |

The order is that of heat: zipf's hottest rank is the first id.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.errors import InvalidInput
from ringpull.inference.proto import ringpull_pb2 as pb

UNKNOWN_FIRST: Final = 1 << 61
"""Unknown integers are drawn from here to 2^62: no table has as many rows, and few systems hand out such ids."""

_RANGE: Final = re.compile(r"(-?[0-9]{1,19})\.\.(-?[0-9]{1,19})")


class Ids(Protocol):
    """The known ids of one feature, hottest first."""

    @property
    def count(self) -> int:
        """Number of ids."""
        ...

    def take(self, ranks: NDArray[np.int64]) -> NDArray[Any]:
        """Return the ids at these ranks, each below `count`."""
        ...


@dataclass(frozen=True, slots=True)
class IdRange:
    """`count` integers from `first` on."""

    first: int
    count: int

    def take(self, ranks: NDArray[np.int64]) -> NDArray[Any]:
        return ranks + self.first


@dataclass(frozen=True, slots=True, eq=False)
class IdList:
    """Ids one by one."""

    values: NDArray[Any]

    @property
    def count(self) -> int:
        return len(self.values)

    def take(self, ranks: NDArray[np.int64]) -> NDArray[Any]:
        taken: NDArray[Any] = self.values[ranks]
        return taken


def parse_ids(feature: str, text: str) -> Ids:
    """Read `FIRST..LAST` or the name of a file.

    Raises:
        InvalidInput: It is neither, or holds no id; the message names the feature.
    """
    if (found := _RANGE.fullmatch(text)) is not None:
        first, last = int(found[1]), int(found[2])
        if last < first:
            raise InvalidInput(f"--ids {feature}={text}: the last id is before the first")
        if first < -(2**63) or last >= 2**63 or last - first >= 2**63 - 1:
            raise InvalidInput(f"--ids {feature}={text}: ids are drawn as int64, and these are more than it has")
        return IdRange(first, last - first + 1)
    path = Path(text)
    try:
        if path.suffix == ".npy":
            values: NDArray[Any] = np.load(path, allow_pickle=False)
        else:
            values = np.array([line for line in path.read_text(encoding="utf-8-sig").splitlines() if line], object)
    except (OSError, ValueError) as exc:
        raise InvalidInput(f"--ids {feature}={text}: neither FIRST..LAST nor a file of ids: {exc}") from exc
    if values.ndim != 1 or not len(values):
        raise InvalidInput(f"--ids {feature}={text}: must hold a list of at least one id")
    return IdList(values)


def typed(feature: str, values: Sequence[Any] | NDArray[Any], dtype: int) -> NDArray[Any]:
    """Return ids as what the feature takes: text for STRING, else integers.

    Raises:
        InvalidInput: An id is no integer; the message names the feature.
    """
    if dtype == pb.STRING:
        return np.array([str(value) for value in values], object)
    kind = np.uint64 if dtype == pb.UINT64 else np.int64
    if isinstance(values, np.ndarray) and values.dtype.kind in "iu":
        return values.astype(kind)
    try:
        return np.array([int(value) for value in values], kind)
    except (ValueError, TypeError, OverflowError) as exc:
        raise InvalidInput(f"feature {feature}: takes {np.dtype(kind).name} ids: {exc}") from exc


def unknown_ids(rng: np.random.Generator, count: int, dtype: int) -> NDArray[Any]:
    """Return ids that no table has, int64, uint64 or text."""
    numbers = rng.integers(UNKNOWN_FIRST, 2 * UNKNOWN_FIRST, count)
    if dtype == pb.STRING:
        return np.array([f"unknown-{number:x}" for number in numbers], object)
    return numbers.astype(np.uint64 if dtype == pb.UINT64 else np.int64)
