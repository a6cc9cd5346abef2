"""Zipf-distributed ranks: rank k of n is drawn with a weight of k^-exponent, as ids of real traffic roughly are.

The first `HEAD` ranks are drawn from their exact distribution, the rest by inverting the integral of x^-exponent, which
is as good there: a rank weighs what the integral from half a rank below it to half a rank above does, to within a
billionth. So a table of a billion rows costs no more memory than one of a million. Exponent 0 is uniform.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.errors import InvalidInput

HEAD: Final = 1 << 16


class Zipf:
    """The distribution of ranks 0..n-1, rank 0 the hottest."""

    def __init__(self, n: int, exponent: float) -> None:
        """Prepare to draw.

        Raises:
            InvalidInput: n is below 1, or the exponent negative or not finite.
        """
        if n < 1 or not 0 <= exponent < np.inf:
            raise InvalidInput(
                f"zipf of {n} ids with exponent {exponent}: there must be ids, and an exponent of 0 or more"
            )
        self.n = n
        self.exponent = exponent
        self._cumulative = np.cumsum(np.arange(1, min(n, HEAD) + 1, dtype=np.float64) ** -exponent)
        self._head = float(self._cumulative[-1])
        self._total = self._head + (_integral(HEAD + 0.5, n + 0.5, exponent) if n > HEAD else 0.0)

    def draw(self, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        """Return `count` ranks, int64 (count,)."""
        weight = rng.random(count) * self._total
        ranks = np.searchsorted(self._cumulative, weight, side="right")
        tail = weight >= self._head
        if self.n > HEAD and tail.any():
            position = _inverse_integral(HEAD + 0.5, weight[tail] - self._head, self.exponent)
            ranks[tail] = np.floor(position + 0.5).astype(np.int64) - 1
        return np.minimum(ranks, self.n - 1).astype(np.int64)

    def __repr__(self) -> str:
        return f"<Zipf n={self.n} exponent={self.exponent}>"


def _integral(begin: float, end: float, exponent: float) -> float:
    """The integral of x^-exponent."""
    if exponent == 1:
        return float(np.log(end / begin))
    power = 1 - exponent
    return float((end**power - begin**power) / power)


def _inverse_integral(begin: float, area: NDArray[np.float64], exponent: float) -> NDArray[np.float64]:
    """Return where the integral of x^-exponent from `begin` reaches `area`."""
    if exponent == 1:
        return np.asarray(begin * np.exp(area), np.float64)
    power = 1 - exponent
    return np.asarray((begin**power + power * area) ** (1 / power), np.float64)
