"""Planner: chooses how many copies of each table make requests cheapest, within the memory of the shards. Pure.

The trade-off: partitioned over the shards, a table takes least memory, but a bag of L keys comes back as up to L
partials from up to N shards; replicated to every shard (`all`), a bag is one partial, and one shard is asked for all
such tables of a request together.

The cost of a request in bytes, with messages and waiting converted to bytes:

    cost = sum over tables of (8 K + (4 + V) P) + MESSAGE_BYTES x M + WAIT_BYTES x W

    K    keys that a request looks up in the table, in B bags of L = K / B keys; V bytes of one vector (4 x dim)
    P    partials that come back: B x N (1 - (1 - 1/N)^L) for a partitioned table, B for one on every shard
    M    frames sent: N (1 - (1 - 1/N)^X), X the keys of all partitioned tables, plus one if any table is on every
         shard: these go together, most often to a shard that is asked anyway
    W    keys that wait behind the hottest one: K x H x (1/r - 1/N), H the share of look-ups it gets, r copies

Keys that heads answer from files of their own machine (local reads) cost nothing of this. K, B and X are of the others:
none of a table on every shard where each head has a shard beside it, or where all shards are of the heads' machine.

Between one copy and `all`, more copies spread a hot key and survive a lost shard, but save no message: a key goes to
its first owner while loads are about even (`ringpull.router.partition`).

The memory of a shard is exact but for page tables: see `table_bytes`. Shards with copies of their own store r/N of
every table; shards of one machine that opened the same files share their pages, and each then counts 1/N of a table,
however many copies there are.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from ringpull.ps.errors import InvalidInput
from ringpull.ps.hashing import POSITION_BYTES
from ringpull.ps.spec import ALL, Replicas
from ringpull.ps.store.format import BLOCK_BYTES, BLOCK_ENTRY_BYTES, index_bits, index_entry_bytes
from ringpull.ps.text.byte_size import size
from ringpull.router.control.deployment_spec import MAX_SHARDS
from ringpull.router.control.plan_search import Floats, Option, cheapest
from ringpull.router.control.traffic import TableLoad

LENGTH_BYTES: Final = 4

MESSAGE_BYTES: Final = 16_384
"""Cost of one more frame there and back, in bytes: those that are sent and received in the same processor time."""

WAIT_BYTES: Final = 256
"""Cost of one more key at the busiest shard than at the others, in bytes: a key takes some 200 ns there."""

MAX_COPIES: Final = 16
"""Upper bound on copies tried for a hot key; beyond it only `all` is tried."""

# -- input and output --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedTable:
    """Table to plan for."""

    name: str
    """Name, as `MODEL/TABLE`."""
    rows: int
    """Rows that take memory: those of the base, and those that deltas brought."""
    row_bytes: int
    vector_bytes: int
    """Size of one partial: 4 x dim; of a table of bytes that of a row."""
    load: TableLoad
    min_copies: int = 1
    """Lower bound on its copies, such as 2 so that no row is lost with one shard."""
    versions: int = 1
    """Number of versions open side by side, each of the same size."""
    newer_rows: int = 0
    """Rows among these that deltas brought."""
    deltas: int = 0
    """Number of deltas."""
    read_here: float = 0.0
    """Share of its keys that heads answer from files of their own machine, however many copies it has."""
    asked_only: bool = False
    """Whether heads never read it themselves: it takes pushes, or has deltas."""

    def __post_init__(self) -> None:
        if self.rows < 0 or self.row_bytes < 1 or self.vector_bytes < 4:
            raise InvalidInput(
                f"table {self.name}: {self.rows} rows of {self.row_bytes} bytes, vectors of {self.vector_bytes}: 0 rows"
                " or more, of at least 1 and 4 bytes"
            )
        if not 0 <= self.read_here <= 1:
            raise InvalidInput(f"table {self.name}: heads answer {self.read_here} of its keys; it must be from 0 to 1")
        if self.min_copies < 1 or self.versions < 1:
            raise InvalidInput(
                f"table {self.name}: at least {self.min_copies} copies of {self.versions} versions; both must be 1"
                " or more"
            )


@dataclass(frozen=True, slots=True)
class Layout:
    """Shards to plan for, and the memory of each."""

    shards: int
    memory_bytes: int
    """Memory of one shard."""
    shared: bool = False
    """Whether shards open the same files on one machine, and share their pages."""
    process_bytes: int = 0
    """Memory of a shard's process before any table is opened."""
    beside_heads: bool = False
    """Whether each head has a shard on its machine whose files it reads: what is on every shard, it never asks for."""

    def __post_init__(self) -> None:
        if self.shards < 1:
            raise InvalidInput(f"{self.shards} shards; there must be at least 1")
        if self.memory_bytes < 1:
            raise InvalidInput(f"{self.memory_bytes} bytes of memory a shard; there must be at least 1")
        if self.table_memory_bytes < 1:
            raise InvalidInput(_no_room(self.memory_bytes, self.process_bytes))

    @property
    def table_memory_bytes(self) -> int:
        """Memory of one shard that is left for tables."""
        return self.memory_bytes - self.process_bytes


@dataclass(frozen=True, slots=True)
class Choice:
    """Planned copies of one table."""

    table: PlannedTable
    replicas: Replicas
    shard_bytes: int
    """Memory that the table takes on one shard."""
    reason: str
    """Explanation: `genre: 19 rows, 2.1 KiB, 31% of look-ups -> all: ...`."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Average cost of one request."""

    bytes: float
    """Size of keys, lengths and partials."""
    messages: float
    """Number of frames, each way."""
    waiting_keys: float
    """Keys that the busiest shard has more than the others, because of hot keys."""

    @property
    def total(self) -> float:
        """Cost that the plan minimises, in bytes."""
        return self.bytes + MESSAGE_BYTES * self.messages + WAIT_BYTES * self.waiting_keys


@dataclass(frozen=True, slots=True)
class Plan:
    """Copies of every table, with the memory and the cost that follow."""

    layout: Layout
    choices: tuple[Choice, ...]
    """Choices in the order in which the tables were given."""
    cost: Cost
    fewest_copies_cost: Cost
    """Cost with the smallest allowed number of copies of every table, for comparison."""
    factor: float
    """Bound on the error: no choice that fits is cheaper than the plan's cost divided by this. 1: it is the optimum."""

    @property
    def memory_bytes(self) -> int:
        """Memory that one shard takes."""
        return self.layout.process_bytes + self.table_bytes

    @property
    def table_bytes(self) -> int:
        """Memory that tables take of that."""
        return sum(choice.shard_bytes for choice in self.choices)

    @property
    def replicas(self) -> dict[str, Replicas]:
        """Number of copies by table."""
        return {choice.table.name: choice.replicas for choice in self.choices}


# -- memory ------------------------------------------------------------------------------------------------------------


def table_bytes(rows: int, row_bytes: int) -> int:
    """Return the memory of a table once all of its pages are resident.

    It has rows, 8 bytes of position each, an index of about half a byte a row, and 16 bytes per block of about 1 MiB.
    """
    if rows <= 0:
        return 0
    index = ((1 << index_bits(rows)) + 1) * index_entry_bytes(rows)
    blocks = math.ceil(rows * row_bytes / BLOCK_BYTES) * BLOCK_ENTRY_BYTES
    return rows * (row_bytes + POSITION_BYTES) + index + blocks


def shard_bytes(table: PlannedTable, replicas: Replicas, shards: int, *, shared: bool = False) -> int:
    """Return the memory that a table takes on one of `shards` shards."""
    if shared:
        return math.ceil(table.versions * table_bytes(table.rows, table.row_bytes) / shards)
    copies = shards if replicas == ALL else min(replicas, shards)
    return table.versions * table_bytes(math.ceil(table.rows * copies / shards), table.row_bytes)


def min_memory(tables: Sequence[PlannedTable], shards: int, *, shared: bool = False) -> int:
    """Return the memory that one shard needs with the smallest allowed number of copies of every table."""
    return sum(shard_bytes(table, table.min_copies, shards, shared=shared) for table in tables)


def fewest_shards(
    tables: Sequence[PlannedTable], memory_bytes: int, *, shared: bool = False, process_bytes: int = 0
) -> int:
    """Return the smallest number of shards on which the tables fit, given the memory of each.

    Raises:
        InvalidInput: They do not fit on `MAX_SHARDS` shards; the message says how much memory would do.
    """
    if memory_bytes <= process_bytes:
        raise InvalidInput(_no_room(memory_bytes, process_bytes))
    rows = np.array([float(table.versions * table.rows * (table.row_bytes + POSITION_BYTES)) for table in tables])
    copies = np.array([1 if shared else table.min_copies for table in tables])
    for shards in range(1, MAX_SHARDS + 1):
        # By their rows alone first: a plan of thousands of tables would take seconds to count exactly for each number.
        if float((rows * np.minimum(copies, shards)).sum()) / shards * (1 - 1e-9) + process_bytes > memory_bytes:
            continue
        if min_memory(tables, shards, shared=shared) + process_bytes <= memory_bytes:
            return shards
    needed = min_memory(tables, MAX_SHARDS, shared=shared) + process_bytes
    raise InvalidInput(
        f"the tables do not fit {MAX_SHARDS} shards of {size(memory_bytes)} each;"
        f" on that many, {size(needed)} ({needed:,} bytes) would do"
    )


def _no_room(memory_bytes: int, process_bytes: int) -> str:
    return f"{size(memory_bytes)} a shard hold no table: {size(process_bytes)} are taken before"


# -- cost --------------------------------------------------------------------------------------------------------------


def partials(load: TableLoad, shards: int, replicas: Replicas) -> float:
    """Return how many partial vectors of a table a request gets back."""
    if replicas == ALL or shards == 1:
        return load.bags
    hit: float = 1 - (1 - 1 / shards) ** load.bag_length
    return load.bags * shards * hit


def predicted_cost(
    tables: Sequence[PlannedTable], replicas: Mapping[str, Replicas], shards: int, *, beside_heads: bool = False
) -> Cost:
    """Return the cost of a request with these copies.

    Args:
        beside_heads: See `Layout`.
    """
    asked = [_asked(table, replicas[table.name], shards, beside_heads) for table in tables]
    each = list(zip(tables, asked, strict=True))
    partitioned_keys = sum(share * table.load.keys for table, share in each if replicas[table.name] != ALL)
    keys = np.array([partitioned_keys])
    return Cost(
        bytes=sum(share * _bytes(table, replicas[table.name], shards) for table, share in each),
        messages=float(_messages(keys, _together(tables, keys, beside_heads), shards)[0]),
        waiting_keys=sum(share * _waiting(table.load, replicas[table.name], shards) for table, share in each),
    )


def _asked(table: PlannedTable, replicas: Replicas, shards: int, beside_heads: bool) -> float:
    """Return the share of a table's keys that shards are asked for."""
    if beside_heads and not table.asked_only and (replicas == ALL or shards == 1):
        return 0.0
    return 1 - table.read_here


def _bytes(table: PlannedTable, replicas: Replicas, shards: int) -> float:
    back = partials(table.load, shards, replicas) * (LENGTH_BYTES + table.vector_bytes)
    return POSITION_BYTES * table.load.keys + back


def _waiting(load: TableLoad, replicas: Replicas, shards: int) -> float:
    copies = shards if replicas == ALL else min(replicas, shards)
    return load.keys * load.hottest_share * (1 / copies - 1 / shards)


def _together(tables: Sequence[PlannedTable], partitioned_keys: Floats, beside_heads: bool) -> Floats:
    """Return what look-ups in tables on every shard count like, for each number of keys in partitioned tables: one more
    key of these if there are any, since they go together to one shard, which is often asked anyway."""
    if not beside_heads:
        asked = sum(table.load.keys * (1 - table.read_here) for table in tables)
        return np.clip(asked - partitioned_keys, 0.0, 1.0)
    # Whether these tables are partitioned or not: the price of keys must be concave.
    asked = sum(table.load.keys * (1 - table.read_here) for table in tables if table.asked_only)
    return np.full(partitioned_keys.shape, min(1.0, asked))


def _messages(partitioned_keys: Floats, together: Floats, shards: int) -> Floats:
    """Return the expected number of shards that a request asks, for each number of keys in partitioned tables.

    Args:
        together: See `_together`.
    """
    if shards == 1:
        return np.minimum(partitioned_keys + together, 1.0)
    return shards * (1 - (1 - 1 / shards) ** (partitioned_keys + together))


# -- the plan ----------------------------------------------------------------------------------------------------------


def plan(tables: Sequence[PlannedTable], layout: Layout) -> Plan:
    """Return the number of copies of every table that fit and make requests cheapest.

    More memory never leads to a more expensive plan, because the partial plans that are compared do not depend on it.

    Raises:
        InvalidInput: No tables, a name given twice, or tables that do not fit; the message says what would fit.
    """
    _check(tables, layout)
    all_keys = sum(table.load.keys for table in tables)
    beside_heads = layout.beside_heads

    def price(partitioned_keys: Floats) -> Floats:
        together = _together(tables, partitioned_keys, beside_heads)
        return MESSAGE_BYTES * _messages(partitioned_keys, together, layout.shards)

    found = cheapest([_options(table, layout) for table in tables], price, layout.table_memory_bytes)
    chosen = {table.name: replicas for table, replicas in zip(tables, found.replicas, strict=True)}
    fewest = {table.name: min(table.min_copies, layout.shards) for table in tables}
    return Plan(
        layout=layout,
        choices=tuple(_choice(table, chosen[table.name], all_keys, layout, found.memory) for table in tables),
        cost=predicted_cost(tables, chosen, layout.shards, beside_heads=beside_heads),
        fewest_copies_cost=predicted_cost(tables, fewest, layout.shards, beside_heads=beside_heads),
        factor=found.factor,
    )


def _check(tables: Sequence[PlannedTable], layout: Layout) -> None:
    if not tables:
        raise InvalidInput("there are no tables to plan for")
    [(name, count)] = Counter(table.name for table in tables).most_common(1)
    if count > 1:
        raise InvalidInput(f"table {name} is named twice")
    needed = min_memory(tables, layout.shards, shared=layout.shared)
    if needed > layout.table_memory_bytes:
        raise InvalidInput(_too_small(tables, layout, needed + layout.process_bytes))


def _too_small(tables: Sequence[PlannedTable], layout: Layout, needed: int) -> str:
    """Return the message for tables that do not fit a layout: why not, and what would do."""
    shards, memory = layout.shards, layout.memory_bytes
    min_copies = max(min(table.min_copies, shards) for table in tables)
    copies = "one copy of every table does" if min_copies == 1 else f"{min_copies} copies of tables do"
    each = f"{size(needed)} ({needed:,} bytes)"
    try:
        enough = fewest_shards(tables, memory, shared=layout.shared, process_bytes=layout.process_bytes)
        would = f"{enough} shards of {size(memory)} would do, or {each} for each of {shards}"
    except InvalidInput:
        would = f"{each} each would do; with {size(memory)}, no number of shards up to {MAX_SHARDS} does"
    return f"{copies} not fit {shards} shard{'s' * (shards > 1)} of {size(memory)} each: {would}"


def _options(table: PlannedTable, layout: Layout) -> list[Option]:
    """Return the numbers of copies worth trying: the smallest allowed, `all`, and those between where a key is hot."""
    options = []
    for replicas in _copies_tried(table, layout.shards):
        asked = _asked(table, replicas, layout.shards, layout.beside_heads)
        cost = _bytes(table, replicas, layout.shards) + WAIT_BYTES * _waiting(table.load, replicas, layout.shards)
        options.append(
            Option(
                replicas,
                shard_bytes(table, replicas, layout.shards, shared=layout.shared),
                asked * cost,
                0.0 if replicas == ALL else asked * table.load.keys,
            )
        )
    return options


def _copies_tried(table: PlannedTable, shards: int) -> list[Replicas]:
    min_copies = min(table.min_copies, shards)
    if shards == 1:
        return [1]
    between = (
        range(min_copies + 1, min(shards, min_copies + MAX_COPIES))
        if table.load.hottest_share > 0 and table.load.keys > 0
        else ()
    )
    return [min_copies, *between, ALL]


# -- explanations ------------------------------------------------------------------------------------------------------


def _choice(table: PlannedTable, replicas: Replicas, all_keys: float, layout: Layout, taken: int) -> Choice:
    shards, shared = layout.shards, layout.shared
    here = shard_bytes(table, replicas, shards, shared=shared)
    share = f"{table.load.keys / all_keys:.0%} of look-ups" if all_keys else "look-ups unknown"
    of_deltas = f" ({table.newer_rows:,} of {table.deltas} deltas)" if table.deltas else ""
    what = f"{table.name}: {table.rows:,} rows{of_deltas}, {size(table_bytes(table.rows, table.row_bytes))}, {share}"
    return Choice(table, replicas, here, f"{what} -> {replicas}: {_because(table, replicas, here, layout, taken)}")


def _because(table: PlannedTable, replicas: Replicas, here: int, layout: Layout, taken: int) -> str:
    shards, shared = layout.shards, layout.shared
    min_copies = min(table.min_copies, shards)
    if shards == 1:
        return "there is one shard"
    if table.read_here == 1:
        return "heads read it themselves"
    saved = partials(table.load, shards, min_copies) - partials(table.load, shards, ALL)
    more = shard_bytes(table, ALL, shards, shared=shared) - shard_bytes(table, min_copies, shards, shared=shared)
    if replicas == ALL:
        price = "no more memory" if more <= 0 else f"{size(more)} more a shard"
        if layout.beside_heads and not table.asked_only:
            return f"heads read it themselves, from the shard beside them, for {price}"
        if saved >= 0.05:
            return f"saves {saved:.1f} partials a request for {price}"
        return f"is asked together with the others on every shard, for {price}"
    if replicas != min_copies:
        hot = f"{table.load.hottest_share:.0%} of its look-ups are of one key"
        return f"{hot}; `all` would take {size(shard_bytes(table, ALL, shards, shared=shared) - here)} more a shard"
    left = layout.table_memory_bytes - taken
    if shard_bytes(table, ALL, shards, shared=shared) - here > left:
        return f"`all` would take {size(more)} more a shard, of {size(left)} left"
    return "`all` would save nothing"
