"""Tables and look-ups for router tests, drawn by hypothesis or from a seed, and the check against the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from ringpull.ps.hashing import keys_of
from ringpull.ps.spec import OnUnavailable, Pooling, RowType, TableSpec
from ringpull.router.lookup import Lookup, LookupResult
from tests.reference import ReferenceBytes, ReferenceTable, assert_close

Tables = Mapping[str, tuple[TableSpec, ReferenceTable | ReferenceBytes]]

LISTS = "lists"
"""Name of the table whose rows are bytes, of dim 0."""

KNOWN = 40
"""Keys 0..KNOWN-1 have rows; tests look up to twice as far, so about half the keys are unknown."""


def tables(dims: Mapping[str, int], on_unavailable: OnUnavailable = OnUnavailable.ERROR) -> Tables:
    """Make tables of these widths with rows of normal numbers, and default vectors that are not zero; `LISTS` with rows
    of bytes, some empty."""
    made: dict[str, tuple[TableSpec, ReferenceTable | ReferenceBytes]] = {}
    for seed, (name, dim) in enumerate(dims.items()):
        rng = np.random.default_rng(seed)
        assert (dim == 0) == (name == LISTS)
        if dim == 0:
            spec = TableSpec(name=name, dim=0, row_type=RowType.BYTES, on_unavailable=on_unavailable)
            made[name] = spec, ReferenceBytes({key: rng.bytes(key * 7 % 50) for key in range(KNOWN)})
            continue
        default = rng.normal(size=dim).astype(np.float32)
        rows = rng.normal(size=(KNOWN, dim)).astype(np.float32)
        spec = TableSpec(name=name, dim=dim, default=tuple(default.tolist()), on_unavailable=on_unavailable)
        made[name] = spec, ReferenceTable.from_arrays(np.arange(KNOWN, dtype=np.uint64), rows, default)
    return made


@st.composite
def lookups(draw: st.DrawFn, names: Sequence[str]) -> Lookup:
    """Draw one look-up: any pooling, empty bags, repeated and unknown keys."""
    name = draw(st.sampled_from(names))
    pooling = Pooling.NONE if name == LISTS else draw(st.sampled_from(Pooling))
    lengths = draw(st.lists(st.integers(0, 6), max_size=8))
    count = sum(lengths)
    keys = np.array(draw(st.lists(st.integers(0, 2 * KNOWN), min_size=count, max_size=count)), np.uint64)
    weights = None
    if pooling is Pooling.SUM and draw(st.booleans()):
        weights = np.array(draw(st.lists(st.integers(-4, 4), min_size=count, max_size=count)), np.float32) / 2
    offsets = None if pooling is Pooling.NONE else np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return Lookup(name, pooling, keys, offsets, weights)


def some_lookups(names: Sequence[str], keys: int, seed: int = 0) -> list[Lookup]:
    """Make one look-up of every pooling, and a weighted one, per table: bags of 0 to 9 of `keys` keys; of rows of bytes
    one that is not pooled."""
    rng = np.random.default_rng(seed)
    made = []
    for name in names:
        for pooling in (Pooling.NONE,) if name == LISTS else (*Pooling, None):
            ids = rng.integers(0, 2 * KNOWN, keys).astype(np.uint64)
            cuts = np.minimum(np.cumsum(rng.integers(0, 10, keys)), keys)
            offsets = np.concatenate([[0], cuts, [keys]]).astype(np.int64)
            if pooling is Pooling.NONE:
                made.append(Lookup(name, pooling, ids))
            elif pooling is None:
                made.append(Lookup(name, Pooling.SUM, ids, offsets, rng.normal(size=keys).astype(np.float32)))
            else:
                made.append(Lookup(name, pooling, ids, offsets))
    return made


def assert_reference(tables: Tables, lookups: Sequence[Lookup], results: Sequence[LookupResult]) -> None:
    """Assert that results are what the slow truth says, all keys answered."""
    assert len(results) == len(lookups)
    for lookup, result in zip(lookups, results, strict=True):
        _, table = tables[lookup.table]
        rows, known = table.pull(lookup.keys)
        assert result.missing == (~known).sum()
        assert result.lost == 0
        assert result.values.dtype == np.float32
        assert (result.bytes_rows is None) == isinstance(table, ReferenceTable)
        assert absent_keys(result) == absent_in_bags(lookup, known)
        if isinstance(table, ReferenceBytes):
            assert result.bytes_rows is not None
            assert result.found is not None
            assert result.values.shape == (len(lookup.keys), 0)
            assert list(result.bytes_rows) == rows
            np.testing.assert_array_equal(result.found, known)
        elif lookup.pooling is Pooling.NONE:
            np.testing.assert_array_equal(result.values, rows)
            assert result.found is not None
            np.testing.assert_array_equal(result.found, known)
        else:
            assert result.found is None
            expected = table.pull_bags(lookup.keys, lookup.offsets, lookup.pooling, lookup.weights)
            assert_close(result.values, expected, largest=50.0)


def absent_keys(result: LookupResult) -> list[tuple[int, int]]:
    """Return the bag and the key of all that a result tells as absent, sorted."""
    if result.absent is None:
        return []
    assert len(result.absent.bags) > 0
    return sorted(zip(result.absent.bags.tolist(), keys_of(result.absent.positions).tolist(), strict=True))


def absent_in_bags(lookup: Lookup, known: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return what `absent_keys` has to be, a key at a time."""
    if lookup.offsets is None:
        return []
    ends = lookup.offsets.tolist()
    bags = pairwise(ends)
    return sorted(
        (bag, int(lookup.keys[i])) for bag, (first, end) in enumerate(bags) for i in range(first, end) if not known[i]
    )
