"""Empty arrays: what the arrays of messages and records are by default."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def no_positions() -> NDArray[np.uint64]:
    """Return no positions."""
    return np.empty(0, np.uint64)


def no_bytes() -> NDArray[np.uint8]:
    """Return no bytes."""
    return np.empty(0, np.uint8)


def no_lengths() -> NDArray[np.uint32]:
    """Return no lengths, counts or numbers of rows."""
    return np.empty(0, np.uint32)
