"""Where arrays begin, as numpy itself says it, whether or not buffers can be had of them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from ringpull.ps.store.kernels import address

NUMBERS = np.arange(12, dtype=np.uint64)
ARRAYS = {
    "writable": NUMBERS,
    "a part": NUMBERS[3:],
    "apart": NUMBERS[1::2],
    "columns": NUMBERS.reshape(3, 4).T,
    "empty": NUMBERS[4:4],
    "read-only": np.frombuffer(b"12345678", np.uint8),
    "times": np.zeros(3, "datetime64[s]"),
    "booleans": np.zeros((2, 2), bool),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_it_is_where_numpy_says(name: str) -> None:
    array: NDArray[np.generic] = ARRAYS[name]
    assert address(array) == array.__array_interface__["data"][0]
