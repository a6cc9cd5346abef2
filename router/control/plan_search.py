"""Search for the cheapest numbers of copies that fit a memory limit. Pure.

Every table has some options, each with its memory, its cost, and the keys that are looked up in it partitioned. The
cost of a plan is the sum of its options' costs and a price of all partitioned keys together, which grows ever more
slowly (`ringpull.router.control.planner`).

Two searches, of which the first is tried for `MAX_COMPARED` partial plans:

- Exact: the partial plans that no other one equals or beats in memory, cost and keys, table by table. The price only
  grows with the keys, so the optimum is among the last ones.
- By efficiency, in time linear in the tables but for sorting: from the least memory on, options are exchanged for
  larger ones in order of the cost saved per byte. The price of the keys is taken as one of `SLOPES` straight lines: it
  is concave, so the cheapest plan by the cheapest line is the cheapest plan. Options that take more than some size are
  left out, for each of some sizes, lest a table that never fits end the order. What the lines and the fraction of the
  first option without room leave open is the error, which is told: `Found.factor`.

Neither depends on the limit before plans are chosen from, so more memory never leads to a more expensive plan.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.spec import ALL, Replicas

MAX_COMPARED: Final = 1 << 15
"""Upper bound on partial plans made by the exact search: some 0.2 s."""

SLOPES: Final = 32
"""Number of lines that the price of keys is made of. Twice as many change no plan by 0.1%."""

SIZE_STEP: Final = 8
"""Ratio of the sizes above which options are left out."""

Floats = NDArray[np.float64]
Price = Callable[[Floats], Floats]
"""Price of partitioned keys: concave, and never lower for more keys."""


@dataclass(frozen=True, slots=True)
class Option:
    """Number of copies that a table may have, and what follows."""

    replicas: Replicas
    memory: int
    cost: float
    """Cost without the price of keys."""
    keys: float
    """Keys looked up partitioned: none with `all`, otherwise those of the table."""


@dataclass(frozen=True, slots=True)
class Found:
    """Option of every table, and how good they are."""

    replicas: tuple[Replicas, ...]
    memory: int
    factor: float
    """Bound on the error: nothing that fits is cheaper than the plan's cost divided by this. 1: it is the optimum."""


def cheapest(tables: Sequence[Sequence[Option]], price: Price, limit: int) -> Found:
    """Return the cheapest options that were found within the limit.

    Args:
        tables: Options of each table, by ascending memory; the first ones of all tables fit together.
        price: Price of all partitioned keys of a plan.
        limit: Upper bound on the memory of all tables together.
    """
    front = _unbeaten_plans(tables)
    return _by_efficiency(tables, price, limit) if front is None else _first(front, price, limit)


# -- the exact search --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Partial:
    """Partial plan, for the first few tables."""

    memory: int
    cost: float
    keys: float
    last: Replicas | None = None
    before: _Partial | None = None

    def replicas(self) -> tuple[Replicas, ...]:
        found: list[Replicas] = []
        plan: _Partial | None = self
        while plan is not None and plan.last is not None:
            found.append(plan.last)
            plan = plan.before
        return tuple(found[::-1])


def _first(front: Sequence[_Partial], price: Price, limit: int) -> Found:
    fitting = [each for each in front if each.memory <= limit]
    prices = price(np.array([each.keys for each in fitting])).tolist()
    _, best = min(zip(prices, fitting, strict=True), key=lambda priced: (priced[1].cost + priced[0], priced[1].memory))
    return Found(best.replicas(), best.memory, 1.0)


def _unbeaten_plans(tables: Sequence[Sequence[Option]]) -> list[_Partial] | None:
    """Return the plans that no other one equals or beats in memory, cost and keys; None: there are too many."""
    plans, compared = [_Partial(0, 0.0, 0.0)], 0
    for options in tables:
        compared += len(plans) * len(options)
        if compared > MAX_COMPARED and len(options) > 1:
            return None
        plans = _unbeaten(
            [
                _Partial(
                    plan.memory + option.memory,
                    plan.cost + option.cost,
                    plan.keys + option.keys,
                    option.replicas,
                    plan,
                )
                for plan in plans
                for option in options
            ]
        )
    return plans


def _unbeaten(plans: Sequence[_Partial]) -> list[_Partial]:
    """Return the plans that no other plan equals or beats in everything, sorted by memory, then cost."""
    kept: list[_Partial] = []
    # Costs of the plans kept so far, ascending, and their keys, which therefore descend.
    costs: list[float] = []
    keys: list[float] = []
    for plan in sorted(plans, key=lambda each: (each.memory, each.cost, each.keys)):
        at = bisect_right(costs, plan.cost)
        if at and keys[at - 1] <= plan.keys:
            continue
        beaten = at
        while beaten < len(costs) and keys[beaten] >= plan.keys:
            beaten += 1
        costs[at:beaten] = [plan.cost]
        keys[at:beaten] = [plan.keys]
        kept.append(plan)
    return kept


# -- the search by efficiency ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Chains:
    """Options of T tables that any slope can make worth while, as arrays.

    The partitioned ones of a table, up to V, are the corners of the convex curve of cost over memory, padded with the
    last one. The one with `all` follows at whichever corner keeps the curve convex, which the slope decides.
    """

    memory: NDArray[np.int64]
    """Memory of the corners, (T, V)."""
    cost: Floats
    """Their costs, (T, V)."""
    copies: NDArray[np.int64]
    """Their numbers of copies, (T, V)."""
    keys: Floats
    """Keys of each table, (T,)."""
    all_memory: NDArray[np.int64]
    """Memory with `all`, (T,)."""
    all_cost: Floats
    """Cost with `all`, (T,); infinite where a table cannot have it."""

    @classmethod
    def of(cls, tables: Sequence[Sequence[Option]]) -> _Chains:
        corners = [_corners([each for each in options if each.replicas != ALL]) for options in tables]
        longest = max(map(len, corners))
        padded = [chain + chain[-1:] * (longest - len(chain)) for chain in corners]
        last = [options[-1] for options in tables]
        return cls(
            memory=np.array([[each.memory for each in chain] for chain in padded], np.int64),
            cost=np.array([[each.cost for each in chain] for chain in padded], np.float64),
            copies=np.array([[each.replicas for each in chain] for chain in padded], np.int64),
            keys=np.array([chain[0].keys for chain in corners], np.float64),
            all_memory=np.array([each.memory for each in last], np.int64),
            all_cost=np.array([each.cost if each.replicas == ALL else np.inf for each in last], np.float64),
        )

    @property
    def sizes(self) -> list[int]:
        """Sizes above which options are left out, descending; the first leaves none out."""
        most = self.all_memory - self.memory[:, 0]
        size, sizes = int(most.max()), []
        least = int(most[most > 0].min(initial=size))
        while size >= max(1, least):
            sizes.append(size)
            size //= SIZE_STEP
        return sizes or [0]


def _corners(options: Sequence[Option]) -> list[Option]:
    """Return the options on the lower convex hull of cost over memory, up to the cheapest one."""
    chain: list[Option] = []
    for option in options:
        if chain and option.cost >= chain[-1].cost:
            continue
        while chain and (
            chain[-1].memory == option.memory or (len(chain) > 1 and _above(chain[-2], chain[-1], option))
        ):
            chain.pop()
        chain.append(option)
    return chain


def _above(left: Option, middle: Option, right: Option) -> bool:
    saved, of = left.cost - middle.cost, middle.memory - left.memory
    return saved * (right.memory - left.memory) <= (left.cost - right.cost) * of


@dataclass(frozen=True, slots=True)
class _Order:
    """Exchanges of options, in order of the cost saved per byte, and the plan after each number of them."""

    table: NDArray[np.int64]
    """Table of each exchange, (E,)."""
    corner: NDArray[np.int64]
    """Corner that it leads to, (E,); V: to `all`."""
    memory: NDArray[np.int64]
    """Memory of the plan after 0, 1, ... exchanges, (E + 1,)."""
    cost: Floats
    """Its cost without the price of keys, (E + 1,)."""
    keys: Floats
    """Its partitioned keys, (E + 1,)."""

    def fitting(self, limit: int) -> int:
        """Return how many of these plans fit; the first one does."""
        return max(1, int(np.searchsorted(self.memory, limit, side="right")))


def _order(chains: _Chains, slope: float, size: int) -> _Order:
    """Return the exchanges that pay where a key costs `slope`, without options that take more than `size`."""
    least = chains.memory[:, :1]
    corners = chains.memory.shape[1]
    saved = chains.cost - chains.all_cost[:, None] + slope * chains.keys[:, None]
    saved[chains.all_memory - least[:, 0] > size] = 0.0
    each = _per_byte(saved, chains.all_memory[:, None] - chains.memory)
    # The corner that is exchanged for `all`: that of the tangent, which leaves no corner below the convex curve.
    leave = each.argmin(axis=1)
    rows = np.arange(len(leave))
    everywhere = each[rows, leave]
    leave[everywhere <= 0] = corners
    grown = np.diff(chains.memory, axis=1)
    cheaper = -np.diff(chains.cost, axis=1)
    taken = (cheaper > 0) & (np.arange(1, corners) <= leave[:, None]) & (chains.memory[:, 1:] - least <= size)
    table, corner = np.nonzero(taken)
    last = np.flatnonzero(everywhere > 0)
    left = leave[last]
    efficiency = np.concatenate([_per_byte(cheaper[taken], grown[taken]), everywhere[last]])
    # Stable, and corners come before `all`: no exchange of a table comes before the one that it goes on from.
    order = np.argsort(-efficiency, kind="stable")
    more_memory = np.concatenate([grown[taken], chains.all_memory[last] - chains.memory[last, left]])[order]
    more_cost = np.concatenate([-cheaper[taken], chains.all_cost[last] - chains.cost[last, left]])[order]
    fewer_keys = np.concatenate([np.zeros(len(table)), chains.keys[last]])[order]
    return _Order(
        table=np.concatenate([table, last])[order],
        corner=np.concatenate([corner + 1, np.full(len(last), corners)])[order],
        memory=int(least.sum()) + np.append(0, np.cumsum(more_memory)),
        cost=float(chains.cost[:, 0].sum()) + np.append(0.0, np.cumsum(more_cost)),
        keys=np.maximum(0.0, float(chains.keys.sum()) - np.append(0.0, np.cumsum(fewer_keys))),
    )


def _per_byte(saved: Floats, memory: NDArray[np.int64]) -> Floats:
    """Return the cost saved per byte; infinite where nothing more is taken, 0 where nothing is saved."""
    found: Floats = np.divide(saved, memory, out=np.full(saved.shape, np.inf), where=memory > 0)
    found[saved <= 0] = 0.0
    return found


def _by_efficiency(tables: Sequence[Sequence[Option]], price: Price, limit: int) -> Found:
    chains = _Chains.of(tables)
    best: tuple[float, int, int, _Order] | None = None
    bound = np.inf
    for slope, at_none in _lines(price, float(chains.keys.sum())):
        for size in chains.sizes:
            order = _order(chains, slope, size)
            count = order.fitting(limit)
            totals = order.cost[:count] + price(order.keys[:count])
            at = int(totals.argmin())
            found = float(totals[at]), int(order.memory[at])
            if best is None or found < best[:2]:
                best = *found, at, order
            if size == chains.sizes[0]:
                bound = min(bound, at_none + _least(order, slope, limit))
    assert best is not None
    total, memory, at, order = best
    corners = np.zeros(len(tables), np.int64)
    np.maximum.at(corners, order.table[:at], order.corner[:at])
    copies = np.pad(chains.copies, ((0, 0), (0, 1)), constant_values=-1)[np.arange(len(tables)), corners].tolist()
    factor = max(1.0, total / bound) if bound > 0 else 1.0
    return Found(tuple(ALL if each < 0 else each for each in copies), memory, factor)


def _lines(price: Price, most: float) -> Iterator[tuple[float, float]]:
    """Yield lines through neighbouring points of the price, as slope and value at no keys.

    Between its points a line is below the price, which is concave; the points are evenly spaced by price.
    """
    if most <= 0:
        yield 0.0, float(price(np.zeros(1))[0])
        return
    dense = np.unique(np.concatenate([np.linspace(0, most, 1024), np.geomspace(most * 1e-9, most, 1024)]))
    prices = np.maximum.accumulate(price(dense))
    at = np.searchsorted(prices, np.linspace(prices[0], prices[-1], SLOPES + 1))
    points = np.unique(np.concatenate([[0], at, [len(dense) - 1]]))
    for left, right in pairwise(points.tolist()):
        slope = float((prices[right] - prices[left]) / (dense[right] - dense[left]))
        yield slope, float(prices[left] - slope * dense[left])


def _least(order: _Order, slope: float, limit: int) -> float:
    """Return the least cost by the line of a slope, if the first exchange that does not fit could be made in part."""
    at = order.fitting(limit) - 1
    costs = order.cost + slope * order.keys
    if at + 1 == len(costs):
        return float(costs[at])
    part = (limit - int(order.memory[at])) / int(order.memory[at + 1] - order.memory[at])
    return float(costs[at] + part * (costs[at + 1] - costs[at]))
