"""When a call that its caller cancels has missed its deadline: the caller's clock may strike before ours."""

from __future__ import annotations

import math
from typing import Final

EARLY_S: Final = 0.1
"""Time before a call's deadline in which its caller's cancel is a deadline missed. The caller's time began when it sent
the request, ours when we took it in: on a busy machine that is tens of milliseconds later."""
ROUNDED: Final = 0.01
"""Part of a call's time by which that is longer: gRPC sends it in two to three digits, rounded up."""
MAX_EARLY: Final = 0.5
"""Largest part of a call's time in which that is so: who gives up in the first half went away."""


def missed_after_s(given_s: float | None) -> float:
    """Return the time after which a caller's cancel means its own deadline, given how much time it gave its call.

    Who gave none, or more than the head grants, cannot have missed the head's deadline: it went away.
    """
    if given_s is None:
        return math.inf
    return given_s - min(EARLY_S + ROUNDED * given_s, MAX_EARLY * given_s)
