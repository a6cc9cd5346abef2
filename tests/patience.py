"""How long a test waits for what has to come."""

from __future__ import annotations

from typing import Final

PATIENCE_S: Final = 180.0
"""Longest wait for something that has to come; only a broken build waits so long.

Far below the guard that ends a whole process, which counts from a test's first fixture (`faulthandler_timeout` of
pyproject.toml): a wait that ends by itself says what never came, and what the test started is taken down.
"""

LEAVE_S: Final = 30.0
"""Time in which what was told to end has ended: half of what Ray's agents take that are left to themselves."""
