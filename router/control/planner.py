"""The planner: how many copies of each table make requests cheapest, within the memory of the shards. Pure.

The trade: cut over the shards a table takes least memory, but a bag of L keys comes back as up to L partials from up to
N shards; on every shard (`all`) a bag is one partial, and all such tables of a request are asked of one shard together.

What a request costs, in bytes, a message and a wait counted as bytes too:

    cost = sum over tables of (8 K + (4 + V) P) + MESSAGE_BYTES x M + WAIT_BYTES x W

    K    keys that a request looks up in the table, in B bags of L = K / B keys; V bytes of one vector (4 x dim)
    P    partials that come back: B x N (1 - (1 - 1/N)^L) where the table is cut, B where it is on every shard
    M    frames sent: N (1 - (1 - 1/N)^X), X the keys of all cut tables, and one more for those on every shard, if any:
         these go together, most often to a shard that is asked anyway
    W    keys that wait behind the hottest one: K x H x (1/r - 1/N), H the share of look-ups it gets, r copies

Between one copy and `all`, more copies spread a hot key and survive a lost shard, but save no message: a key goes to
its first owner while loads are about even (`router.partition`).

The memory of a shard is exact but for page tables: see `table_bytes`. Shards with copies of their own hold r/N of
every table; shards of one machine that opened the same files share their pages, and each then counts 1/N of a table,
however many copies there are.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ringpull.ps.errors import InvalidInput
from ringpull.ps.spec import ALL, Replicas
from ringpull.ps.store.format import BLOCK_BYTES, BLOCK_ENTRY_BYTES, index_bits, index_entry_bytes
from ringpull.router.control.traffic import TableLoad

POSITION_BYTES: Final = 8
LENGTH_BYTES: Final = 4

MESSAGE_BYTES: Final = 16_384
"""One more frame there and back, as bytes: it takes the processor time in which as many bytes are sent and received."""

WAIT_BYTES: Final = 256
"""One key more at the busiest shard than at the others, as bytes: a key takes some 200 ns there."""

MAX_SHARDS: Final = 1024
"""That are tried when the fewest that fit are looked for."""

MAX_COPIES: Final = 16
"""That are tried for the sake of a hot key; beyond that only `all`."""

MAX_STATES: Final = 2_048
"""Of choices kept beside each other. Up to that many the plan is the best one; see `Plan.factor`."""
FIRST_ROUNDING: Final = 0.0005

# -- what is planned ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedTable:
    """One table, as the planner needs to know it."""

    name: str
    """`MODEL/TABLE`."""
    rows: int
    row_bytes: int
    vector_bytes: int
    """Of one partial: 4 x dim."""
    load: TableLoad
    min_copies: int = 1
    """Copies there must be at least, so that a lost shard loses nothing."""
    versions: int = 1
    """Open side by side, each of which takes as much."""

    def __post_init__(self) -> None:
        if self.rows < 0 or self.row_bytes < 1 or self.vector_bytes < 4:
            raise InvalidInput(
                f"table {self.name}: {self.rows} rows of {self.row_bytes} bytes, vectors of {self.vector_bytes}: 0 rows"
                " or more, of at least 1 and 4 bytes"
            )
        if self.min_copies < 1 or self.versions < 1:
            raise InvalidInput(
                f"table {self.name}: at least {self.min_copies} copies of {self.versions} versions; both must be 1"
                " or more"
            )


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the tables go, and what each shard may take."""

    shards: int
    memory_bytes: int
    """Of one shard."""
    shared: bool = False
    """Whether shards open the same files on one machine, and share their pages."""
    process_bytes: int = 0
    """What a shard takes before it holds anything."""

    def __post_init__(self) -> None:
        if self.shards < 1:
            raise InvalidInput(f"{self.shards} shards; there must be at least 1")
        if self.memory_bytes < 1:
            raise InvalidInput(f"{self.memory_bytes} bytes of memory a shard; there must be at least 1")
        if self.table_memory_bytes < 1:
            raise InvalidInput(_no_room(self.memory_bytes, self.process_bytes))

    @property
    def table_memory_bytes(self) -> int:
        """What is left of a shard's memory for tables."""
        return self.memory_bytes - self.process_bytes


@dataclass(frozen=True, slots=True)
class Choice:
    """What the plan says of one table."""

    table: PlannedTable
    replicas: Replicas
    shard_bytes: int
    """What it takes of the memory of one shard."""
    reason: str
    """In words: `genre: 19 rows, 2.1 KiB, 31% of look-ups -> all: ...`."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one request costs, on average."""

    bytes: float
    """Of keys, lengths and partials."""
    messages: float
    """Frames, each way."""
    waiting_keys: float
    """More at the busiest shard than at the others, for the sake of hot keys."""

    @property
    def total(self) -> float:
        """What the plan minimises, in bytes."""
        return self.bytes + MESSAGE_BYTES * self.messages + WAIT_BYTES * self.waiting_keys


@dataclass(frozen=True, slots=True)
class Plan:
    """Copies of every table, and what they lead to."""

    layout: Layout
    choices: tuple[Choice, ...]
    """In the order in which the tables were given."""
    cost: Cost
    cut: Cost
    """With as few copies as may be, to compare."""
    factor: float
    """No choice that fits is cheaper than the plan's cost divided by this: 1 unless there were very many choices."""

    @property
    def memory_bytes(self) -> int:
        """What one shard takes."""
        return self.layout.process_bytes + self.table_bytes

    @property
    def table_bytes(self) -> int:
        """What tables take of that."""
        return sum(choice.shard_bytes for choice in self.choices)

    @property
    def replicas(self) -> dict[str, Replicas]:
        """Copies by table."""
        return {choice.table.name: choice.replicas for choice in self.choices}


# -- memory ------------------------------------------------------------------------------------------------------------


def table_bytes(rows: int, row_bytes: int) -> int:
    """Return the memory of a table once every page of it was touched.

    Rows, 8 bytes of position each, an index of about half a byte a row, 16 bytes per block of about 1 MiB.
    """
    if rows <= 0:
        return 0
    index = ((1 << index_bits(rows)) + 1) * index_entry_bytes(rows)
    blocks = math.ceil(rows * row_bytes / BLOCK_BYTES) * BLOCK_ENTRY_BYTES
    return rows * (row_bytes + POSITION_BYTES) + index + blocks


def shard_bytes(table: PlannedTable, replicas: Replicas, shards: int, *, shared: bool = False) -> int:
    """Return what a table takes of the memory of one of `shards` shards."""
    if shared:
        return math.ceil(table.versions * table_bytes(table.rows, table.row_bytes) / shards)
    copies = shards if replicas == ALL else min(replicas, shards)
    return table.versions * table_bytes(math.ceil(table.rows * copies / shards), table.row_bytes)


def min_memory(tables: Sequence[PlannedTable], shards: int, *, shared: bool = False) -> int:
    """Return what one shard needs when no table has more copies than it must have."""
    return sum(shard_bytes(table, table.min_copies, shards, shared=shared) for table in tables)


def fewest_shards(
    tables: Sequence[PlannedTable], memory_bytes: int, *, shared: bool = False, process_bytes: int = 0
) -> int:
    """Return the fewest shards on which the tables fit, each shard with this much memory.

    Raises:
        InvalidInput: They fit on no number of shards up to `MOST_SHARDS`; the message says how much would do.
    """
    if memory_bytes <= process_bytes:
        raise InvalidInput(_no_room(memory_bytes, process_bytes))
    for shards in range(1, MAX_SHARDS + 1):
        if min_memory(tables, shards, shared=shared) + process_bytes <= memory_bytes:
            return shards
    needed = min_memory(tables, MAX_SHARDS, shared=shared) + process_bytes
    raise InvalidInput(
        f"the tables do not fit {MAX_SHARDS} shards of {amount(memory_bytes)} each;"
        f" on that many, {amount(needed)} ({needed:,} bytes) would do"
    )


def _no_room(memory_bytes: int, process_bytes: int) -> str:
    return f"{amount(memory_bytes)} a shard hold no table: {amount(process_bytes)} are taken before"


# -- cost --------------------------------------------------------------------------------------------------------------


def partials(load: TableLoad, shards: int, replicas: Replicas) -> float:
    """Return how many partial vectors a request gets back of a table."""
    if replicas == ALL or shards == 1:
        return load.bags
    met: float = 1 - (1 - 1 / shards) ** load.bag_length
    return load.bags * shards * met


def predicted_cost(tables: Sequence[PlannedTable], replicas: Mapping[str, Replicas], shards: int) -> Cost:
    """Return what a request costs with these copies."""
    return Cost(
        bytes=sum(_bytes(table, replicas[table.name], shards) for table in tables),
        messages=_messages(
            sum(table.load.keys for table in tables if replicas[table.name] != ALL),
            sum(table.load.keys for table in tables),
            shards,
        ),
        waiting_keys=sum(_waiting(table.load, replicas[table.name], shards) for table in tables),
    )


def _bytes(table: PlannedTable, replicas: Replicas, shards: int) -> float:
    back = partials(table.load, shards, replicas) * (LENGTH_BYTES + table.vector_bytes)
    return POSITION_BYTES * table.load.keys + back


def _waiting(load: TableLoad, replicas: Replicas, shards: int) -> float:
    copies = shards if replicas == ALL else min(replicas, shards)
    return load.keys * load.hottest_share * (1 / copies - 1 / shards)


def _messages(cut_keys: float, all_keys: float, shards: int) -> float:
    """Return how many shards a request asks, of which one gets whatever is on every shard.

    That one is asked anyway with the probability that its turn among the others has come: together they are as many as
    if the keys on every shard were one more key that is cut.
    """
    whole = min(1.0, all_keys - cut_keys)
    return shards * (1 - (1 - 1 / shards) ** (cut_keys + whole)) if shards > 1 else min(1.0, all_keys)


# -- the plan ----------------------------------------------------------------------------------------------------------


def plan(tables: Sequence[PlannedTable], layout: Layout) -> Plan:
    """Return the copies of every table that make requests cheapest and fit.

    More memory never leads to a dearer plan, since what is compared does not depend on it.

    Raises:
        InvalidInput: No tables, one name twice, or they do not fit; the message says what would.
    """
    _check(tables, layout)
    front, factor = _best_choices(tables, layout)
    all_keys = sum(table.load.keys for table in tables)
    fitting = [state for state in front if state.memory <= layout.table_memory_bytes]

    def cost_of(state: _State) -> float:
        return state.cost + MESSAGE_BYTES * _messages(state.cut_keys, all_keys, layout.shards)

    best = min(fitting, key=lambda state: (cost_of(state), state.memory))
    chosen = {table.name: replicas for table, replicas in zip(tables, best.replicas(), strict=True)}
    fewest = {table.name: min(table.min_copies, layout.shards) for table in tables}
    return Plan(
        layout=layout,
        choices=tuple(_choice(table, chosen[table.name], all_keys, layout, best.memory) for table in tables),
        cost=predicted_cost(tables, chosen, layout.shards),
        cut=predicted_cost(tables, fewest, layout.shards),
        factor=factor,
    )


def _check(tables: Sequence[PlannedTable], layout: Layout) -> None:
    names = [table.name for table in tables]
    if not names:
        raise InvalidInput("there are no tables to plan for")
    for name in names:
        if names.count(name) > 1:
            raise InvalidInput(f"table {name} is named twice")
    needed = min_memory(tables, layout.shards, shared=layout.shared)
    if needed > layout.table_memory_bytes:
        raise InvalidInput(_too_small(tables, layout, needed + layout.process_bytes))


def _too_small(tables: Sequence[PlannedTable], layout: Layout, needed: int) -> str:
    """Return what is wrong with a layout that the tables do not fit, and what would do."""
    shards, memory = layout.shards, layout.memory_bytes
    min_copies = max(min(table.min_copies, shards) for table in tables)
    copies = "one copy of every table does" if min_copies == 1 else f"{min_copies} copies of tables do"
    each = f"{amount(needed)} ({needed:,} bytes)"
    try:
        enough = fewest_shards(tables, memory, shared=layout.shared, process_bytes=layout.process_bytes)
        would = f"{enough} shards of {amount(memory)} would do, or {each} for each of {shards}"
    except InvalidInput:
        would = f"{each} each would do; with {amount(memory)}, no number of shards up to {MAX_SHARDS} does"
    return f"{copies} not fit {shards} shard{'s' * (shards > 1)} of {amount(memory)} each: {would}"


@dataclass(frozen=True, slots=True)
class _State:
    """Copies of the first few tables: what they take, what they cost, and how many keys are looked up in cut ones."""

    memory: int
    cost: float
    cut_keys: float
    last: Replicas | None = None
    before: _State | None = None

    def replicas(self) -> list[Replicas]:
        found: list[Replicas] = []
        state: _State | None = self
        while state is not None and state.last is not None:
            found.append(state.last)
            state = state.before
        return found[::-1]


def _best_choices(tables: Sequence[PlannedTable], layout: Layout) -> tuple[list[_State], float]:
    """Return every choice that no other one beats in memory, cost and cut keys at once; and by what this is rounded.

    Messages only grow with the keys of cut tables, so no better choice is lost. Memory bounds are not looked at.
    """
    states, factor = [_State(0, 0.0, 0.0)], 1.0
    for table in tables:
        options = _options(table, layout.shards)
        grown = [
            _State(
                state.memory + shard_bytes(table, replicas, layout.shards, shared=layout.shared),
                state.cost
                + _bytes(table, replicas, layout.shards)
                + WAIT_BYTES * _waiting(table.load, replicas, layout.shards),
                state.cut_keys + (0.0 if replicas == ALL else table.load.keys),
                replicas,
                state,
            )
            for state in states
            for replicas in options
        ]
        states = _unbeaten(grown)
        rounding = FIRST_ROUNDING
        while len(states) > MAX_STATES:
            factor *= 1 + rounding
            states = _unbeaten(_rounded(states, 1 + rounding))
            rounding *= 2
    return states, factor


def _options(table: PlannedTable, shards: int) -> list[Replicas]:
    """Return the numbers of copies worth looking at: as few as may be, `all`, and between them where a key is hot."""
    min_copies = min(table.min_copies, shards)
    if shards == 1:
        return [1]
    between = (
        range(min_copies + 1, min(shards, min_copies + MAX_COPIES))
        if table.load.hottest_share > 0 and table.load.keys > 0
        else ()
    )
    return [min_copies, *between, ALL]


def _unbeaten(states: Sequence[_State]) -> list[_State]:
    """Return the states that no other is at most equal to in everything, by memory, then cost."""
    kept: list[_State] = []
    # Of those kept so far: ascending by cost, and descending by cut keys.
    costs: list[float] = []
    cut_keys: list[float] = []
    for state in sorted(states, key=lambda each: (each.memory, each.cost, each.cut_keys)):
        at = bisect_right(costs, state.cost)
        if at and cut_keys[at - 1] <= state.cut_keys:
            continue
        beaten = at
        while beaten < len(costs) and cut_keys[beaten] >= state.cut_keys:
            beaten += 1
        costs[at:beaten] = [state.cost]
        cut_keys[at:beaten] = [state.cut_keys]
        kept.append(state)
    return kept


def _rounded(states: Sequence[_State], factor: float) -> list[_State]:
    """Return of the states whose cost and cut keys are equal within `factor` the one that takes least memory."""
    min_copies: dict[tuple[int, int], _State] = {}
    for state in states:
        at = (_level(state.cost, factor), _level(state.cut_keys, factor))
        if at not in min_copies or state.memory < min_copies[at].memory:
            min_copies[at] = state
    return list(min_copies.values())


def _level(value: float, factor: float) -> int:
    return math.floor(math.log(value) / math.log(factor)) if value > 0 else -(1 << 30)


# -- in words ----------------------------------------------------------------------------------------------------------


def _choice(table: PlannedTable, replicas: Replicas, all_keys: float, layout: Layout, taken: int) -> Choice:
    shards, shared = layout.shards, layout.shared
    here = shard_bytes(table, replicas, shards, shared=shared)
    share = f"{table.load.keys / all_keys:.0%} of look-ups" if all_keys else "look-ups unknown"
    what = f"{table.name}: {table.rows:,} rows, {amount(table_bytes(table.rows, table.row_bytes))}, {share}"
    return Choice(table, replicas, here, f"{what} -> {replicas}: {_because(table, replicas, here, layout, taken)}")


def _because(table: PlannedTable, replicas: Replicas, here: int, layout: Layout, taken: int) -> str:
    shards, shared = layout.shards, layout.shared
    min_copies = min(table.min_copies, shards)
    if shards == 1:
        return "there is one shard"
    saved = partials(table.load, shards, min_copies) - partials(table.load, shards, ALL)
    more = shard_bytes(table, ALL, shards, shared=shared) - shard_bytes(table, min_copies, shards, shared=shared)
    if replicas == ALL:
        price = "no more memory" if more <= 0 else f"{amount(more)} more a shard"
        if saved >= 0.05:
            return f"saves {saved:.1f} partials a request for {price}"
        return f"is asked together with the others on every shard, for {price}"
    if replicas != min_copies:
        hot = f"{table.load.hottest_share:.0%} of its look-ups are of one key"
        return f"{hot}; `all` would take {amount(shard_bytes(table, ALL, shards, shared=shared) - here)} more a shard"
    left = layout.table_memory_bytes - taken
    if shard_bytes(table, ALL, shards, shared=shared) - here > left:
        return f"`all` would take {amount(more)} more a shard, of {amount(left)} left"
    return "`all` would save nothing"


def amount(count: int) -> str:
    """Return bytes as people read them: `9.1 GiB`."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
