"""Merging: takes the shards' partial vectors, gives the results of the look-ups.

Partials are added in the order of `add` calls, which the caller keeps fixed, so that equal answers give equal bits.

The first partial of a bag is stored and later ones are summed or maximised into it, so no bag starts from zeros (a
maximum would be wrong). A bag without a partial was empty, and is zeros. Means are divided by the length of their
bag once, at the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.compiled import kernel
from ringpull.ps.pull_messages import PullReply
from ringpull.ps.spec import Float32Array, UInt64Array
from ringpull.router.batch import BAGS, KEYS, MAX, MEAN, OP, ROWS, WEIGHTED, Batch, Int64Array
from ringpull.router.bytes_merge import BytesMerge
from ringpull.router.lookup import Absent, LookupResult
from ringpull.router.partition import Part

UInt8Array = NDArray[np.uint8]


class Merge:
    """The results of one batch while partials come in."""

    def __init__(self, batch: Batch, dims: Int64Array) -> None:
        """Make room for the results.

        Args:
            batch: All look-ups, as laid out by `Batch.of`.
            dims: (L,): numbers per row of each look-up's table; 0 of one of bytes.
        """
        vectors = batch.vectors()
        self._batch = batch
        self._dims = dims
        self._vector_begins = _begins(vectors)
        self._value_begins = _begins(vectors * dims)
        self._values = np.empty(int(self._value_begins[-1]), np.float32)
        self._touched = np.zeros(int(self._vector_begins[-1]), np.uint8)
        self._found = np.zeros(int(self._vector_begins[-1]), np.uint8)
        self._missing = np.zeros(len(dims), np.int64)
        self._lost = np.zeros(len(dims), np.int64)
        self._absent: list[tuple[Int64Array, Int64Array, UInt64Array]] = []
        """Look-ups, bags and positions of keys of bags for which default vectors stand."""
        self._bytes: list[BytesMerge | None] = [None] * len(dims)
        for lookup in np.flatnonzero(dims == 0).tolist():
            self._bytes[lookup] = BytesMerge(int(batch.shape[lookup, KEYS]))

    def add(self, part: Part, reply: PullReply) -> None:
        """Merge the answer to one part of the batch, or to a part of such a part; `Part.check_reply` has passed it."""
        self._missing[part.keys > 0] += reply.missing
        if reply.absent.size:
            self._add_absent(part, reply.absent.astype(np.int64))
        if reply.lengths.size:
            self._add_bytes(part, reply)
        if self._takes_over(part, reply):
            return
        _add(
            part.batch.shape,
            part.keys,
            part.bags,
            part.targets,
            self._dims,
            np.require(reply.values, np.float32, ("C", "A")),
            np.require(reply.found, np.uint8, ("C", "A")),
            self._vector_begins,
            self._value_begins,
            self._values,
            self._touched,
            self._found,
        )

    def _takes_over(self, part: Part, reply: PullReply) -> bool:
        """Take the vectors of an answer to all of the batch as they are, if it is one; none other is to come then.

        As many values as are due in all are those of every bag, in their order: no bag is empty.
        """
        values = reply.values
        whole = part.batch is self._batch and values.size == self._values.size and values.size > 0
        if not whole or not np.array_equal(part.keys, self._batch.shape[:, KEYS]):
            return False
        if not values.flags.writeable or not values.flags.aligned or values.dtype != np.float32:
            return False
        self._values = values
        self._touched.fill(1)
        unpooled = self._batch.shape[:, OP] == ROWS
        if unpooled.all():
            self._found[:] = reply.found
        elif unpooled.any():
            self._found[np.repeat(unpooled, np.diff(self._vector_begins))] = reply.found
        return True

    def _add_absent(self, part: Part, numbers: Int64Array) -> None:
        self._absent.append((*part.bags_of(numbers), part.positions[numbers]))

    def _add_bytes(self, part: Part, reply: PullReply) -> None:
        lengths, data = np.require(reply.lengths, np.uint32, ("C", "A")), np.require(reply.data, np.uint8, ("C", "A"))
        starts = np.cumsum(lengths, dtype=np.int64) - lengths
        unpooled = part.batch.shape[:, OP] == ROWS
        target = row = 0
        for merge, vectors in zip(self._bytes, np.where(unpooled, part.keys, part.bags).tolist(), strict=True):
            if merge is not None:
                rows = slice(row, row + vectors)
                merge.add(part.targets[target : target + vectors], data, starts[rows], lengths[rows])
                row += vectors
            target += vectors

    def add_lost(self, part: Part, defaults: Sequence[Float32Array]) -> None:
        """Merge the default vectors of the look-ups' tables in place of an answer that no shard could give."""
        self.add(part, _default_reply(part, defaults))
        self._lost += part.keys
        if part.lengths.size:
            self._add_absent(part, part.pooled_keys())

    def results(self) -> FlatResults:
        """Divide means, put zeros in empty bags, and return the results, in the order of the look-ups. Call it once."""
        _finish(
            self._batch.shape,
            self._batch.offsets,
            self._dims,
            self._vector_begins,
            self._value_begins,
            self._values,
            self._touched,
        )
        return FlatResults(
            self._values,
            self._value_begins.tolist(),
            self._vector_begins.tolist(),
            self._dims.tolist(),
            self._batch.shape[:, OP].tolist(),
            self._found.view(np.bool_),
            self._missing,
            self._lost,
            self._absent_by_lookup(),
            self._bytes,
            self._value_begins,
        )

    def _absent_by_lookup(self) -> dict[int, Absent]:
        if not self._absent:
            return {}
        lookups, bags, positions = (np.concatenate(parts) for parts in zip(*self._absent, strict=True))
        return {
            lookup: Absent(bags[own], positions[own])
            for lookup in np.unique(lookups).tolist()
            for own in (lookups == lookup,)
        }


@dataclass(frozen=True, slots=True, eq=False)
class FlatResults(Sequence[LookupResult]):
    """The results of the look-ups of one batch, end to end. To whoever asks for one it is a `LookupResult`."""

    values: Float32Array
    """Vectors of all look-ups, flat."""
    value_begins: list[int]
    """(L+1,): where the values of each begin."""
    vector_begins: list[int]
    """(L+1,): how many vectors come before those of each."""
    dims: list[int]
    """(L,)."""
    ops: list[int]
    """(L,)."""
    found: NDArray[np.bool_]
    """(vectors,): of unpooled look-ups, which keys have a row."""
    missing: Int64Array
    """(L,): keys that each table does not have."""
    lost: Int64Array
    """(L,): keys that no live shard could answer for."""
    absent: Mapping[int, Absent]
    """Keys of bags for which default vectors stand, by look-up."""
    bytes_rows: list[BytesMerge | None]
    """(L,): rows of tables of bytes."""
    begins: Int64Array
    """(L+1,): `value_begins` as an array."""

    def rows(self, place: int) -> Float32Array:
        """Return the vectors of a look-up (V, D)."""
        begin, end = self.value_begins[place], self.value_begins[place + 1]
        return self.values[begin:end].reshape(-1, self.dims[place])

    def lacking(self) -> list[int]:
        """Return the look-ups of which some keys have no row of their own."""
        lacking = np.flatnonzero(self.missing + self.lost).tolist()
        return sorted({*lacking, *self.absent}) if self.absent else lacking

    def __len__(self) -> int:
        return len(self.dims)

    @overload
    def __getitem__(self, place: int) -> LookupResult: ...

    @overload
    def __getitem__(self, place: slice) -> list[LookupResult]: ...

    def __getitem__(self, place: int | slice) -> LookupResult | list[LookupResult]:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        if place < 0:
            place += len(self)
        begin, end = self.value_begins[place], self.value_begins[place + 1]
        first, last = self.vector_begins[place], self.vector_begins[place + 1]
        merge = self.bytes_rows[place]
        return LookupResult(
            values=self.values[begin:end].reshape(last - first, self.dims[place]),
            missing=int(self.missing[place]),
            found=self.found[first:last] if self.ops[place] == ROWS else None,
            lost=int(self.lost[place]),
            bytes_rows=None if merge is None else merge.rows(),
            absent=self.absent.get(place),
        )

    def __iter__(self) -> Iterator[LookupResult]:
        return (self[place] for place in range(len(self)))


def _begins(counts: Int64Array) -> Int64Array:
    begins = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=begins[1:])
    return begins


def _default_reply(part: Part, defaults: Sequence[Float32Array]) -> PullReply:
    """Return the answer of a shard that has none of the keys, except that they do not count as missing."""
    values = [np.empty(0, np.float32)]
    shape = part.batch.shape.tolist()
    key = bag = weight = found = 0
    asked = part.lookups()
    for index in asked:
        keys, bags = int(part.keys[index]), int(part.bags[index])
        lengths = part.lengths[bag : bag + bags]
        if shape[index][OP] == ROWS:
            factors = np.ones(keys, np.float32)
            found += keys
        elif shape[index][OP] == MAX:
            factors = np.ones(bags, np.float32)
        elif shape[index][WEIGHTED]:
            begins = _begins(lengths.astype(np.int64))[:-1]
            factors = np.add.reduceat(part.weights[weight : weight + keys], begins)
        else:
            factors = lengths.astype(np.float32)
        values.append(np.outer(factors, defaults[index]).astype(np.float32).ravel())
        key, bag = key + keys, bag + bags
        weight += keys if shape[index][WEIGHTED] else 0
    return PullReply(np.concatenate(values), np.zeros(len(asked), np.uint32), np.zeros(found, np.uint8))


@kernel()
def _add(
    shape: Int64Array,
    keys: Int64Array,
    bags: Int64Array,
    targets: Int64Array,
    dims: Int64Array,
    partials: Float32Array,
    partials_found: UInt8Array,
    vector_begins: Int64Array,
    value_begins: Int64Array,
    values: Float32Array,
    touched: UInt8Array,
    found: UInt8Array,
) -> None:
    # Unsigned indexes, here and below: numba lets a negative one count from the end, and to test for that in the inner
    # loop would keep it from being vectorised. A slice per vector was tried: its reference counting doubled the time.
    vector = source = flag = np.uint64(0)
    for lookup in range(shape.shape[0]):
        op, dim = shape[lookup, OP], np.uint64(dims[lookup])
        first, base = np.uint64(vector_begins[lookup]), np.uint64(value_begins[lookup])
        for _ in range(keys[lookup] if op == ROWS else bags[lookup]):
            target = np.uint64(targets[vector])
            vector += np.uint64(1)
            begin = base + target * dim
            if not touched[first + target]:
                touched[first + target] = 1
                for j in range(dim):
                    values[begin + j] = partials[source + j]
            elif op == MAX:
                for j in range(dim):
                    partial = partials[source + j]
                    # A NaN stays, as it does in a sum.
                    if partial > values[begin + j] or partial != partial:
                        values[begin + j] = partial
            else:
                for j in range(dim):
                    values[begin + j] += partials[source + j]
            source += dim
            if op == ROWS:
                found[first + target] = partials_found[flag]
                flag += np.uint64(1)


# numpy's error model: a check for division by zero in the loop would keep it from being vectorised.
@kernel(error_model="numpy")
def _finish(
    shape: Int64Array,
    offsets: Int64Array,
    dims: Int64Array,
    vector_begins: Int64Array,
    value_begins: Int64Array,
    values: Float32Array,
    touched: UInt8Array,
) -> None:
    offset = 0
    for lookup in range(shape.shape[0]):
        if shape[lookup, OP] == ROWS:
            continue
        dim, mean = np.uint64(dims[lookup]), shape[lookup, MEAN] != 0
        vector, value = np.uint64(vector_begins[lookup]), np.uint64(value_begins[lookup])
        for bag in range(shape[lookup, BAGS]):
            if not touched[vector]:
                for j in range(dim):
                    values[value + j] = 0.0
            elif mean:
                length = np.float32(offsets[offset + bag + 1] - offsets[offset + bag])
                for j in range(dim):
                    values[value + j] /= length
            vector += np.uint64(1)
            value += dim
        offset += shape[lookup, BAGS] + 1
