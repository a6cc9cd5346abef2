"""Partitioning: takes a batch, gives one part per shard. Every key is hashed once, and lies in exactly one part.

A key goes to its slot's first owner, unless a later owner of its table has over `STICKINESS_KEYS` fewer keys waiting,
those of this batch so far included; a shard that is down has `replicas.DOWN` waiting. So the same map and the same
load give the same parts. Keys whose owners are all down form the unowned part (`Part.shard` is None). Keys that can be
answered here (`here.py`) go there before any owner is looked at, and cost nothing: no shard has less waiting for them.

A bag that is spread over shards becomes a sub-bag in each; `Part.targets` remembers which bag it was. Within a part,
look-ups, their sub-bags and the keys of these keep the order of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numba
import numpy as np
from numpy.typing import NDArray

from ringpull.ps.compiled import kernel
from ringpull.ps.errors import InvalidInput, ProtocolError
from ringpull.ps.hash_kernels import fmix64
from ringpull.ps.hashing import SLOT_SHIFT, SLOTS
from ringpull.ps.local.flat_pull import FlatSubLookups
from ringpull.ps.pull_messages import Op, PullReply, PullRequest, SubLookup
from ringpull.ps.rank_fill import OwnerTable
from ringpull.ps.spec import Float32Array, UInt64Array
from ringpull.router.batch import BAGS, KEYS, OP, ROWS, WEIGHTED, Batch, Int64Array
from ringpull.router.here import NOWHERE, Here, is_here, layer_id, named
from ringpull.router.replicas import DOWN

STICKINESS_KEYS: Final = 256
"""Lead in waiting keys that moves a key off its first owner: a few microseconds of a shard's work. Below it, staying
with first owners keeps a row in one cache, not in two."""

_OPS: Final = tuple(Op)
_new_lookup: Final = partial(tuple.__new__, SubLookup)

_NO_MASKS: Final = np.empty((0, SLOTS), np.uint8)


@dataclass(frozen=True, slots=True)
class Part:
    """The keys of a batch that one shard is asked for. Arrays are views of arrays shared by the parts of a batch."""

    shard: int | None
    """Id of the shard, or of a layer of what is here; None: no owner is up."""
    batch: Batch
    """The batch that this is a part of."""
    keys: Int64Array
    """(L,): keys of each look-up of the batch; 0 for look-ups this part has nothing of."""
    bags: Int64Array
    """(L,): sub-bags of each look-up; 0 when unpooled."""
    positions: UInt64Array
    """(sum of keys,): ring positions."""
    lengths: NDArray[np.uint32]
    """(sum of bags,): keys of each sub-bag, at least 1."""
    weights: Float32Array
    """(sum of keys of weighted look-ups,): one weight per key."""
    targets: Int64Array
    """(vectors,): where the vector of each sub-bag, or of each key when unpooled, goes among the look-up's outputs."""

    @property
    def size(self) -> int:
        """Number of keys."""
        return self.positions.size

    def lookups(self) -> list[int]:
        """Return the indexes of the look-ups that this part has keys of: those of `request`, in its order."""
        return np.flatnonzero(self.keys).tolist()

    def request(
        self,
        model: str,
        version: int,
        epoch: int,
        identity: int = 0,
        max_reply_bytes: int = 0,
        as_exported: bool = False,
    ) -> PullRequest:
        """Return the message that asks for this part.

        Args:
            identity: Identity of the version; 0: not known.
            max_reply_bytes: Most bytes of the answer; 0: any.
            as_exported: Whether rows that were pushed since are left out.
        """
        return PullRequest(
            model,
            version,
            epoch,
            self._flat_lookups() if is_here(self.shard) else self._sub_lookups(),
            self.positions,
            self.lengths,
            self.weights,
            identity,
            max_reply_bytes,
            tell_absent=self.lengths.size > 0,
            as_exported=as_exported,
        )

    def _sub_lookups(self) -> tuple[SubLookup, ...]:
        asked = np.flatnonzero(self.keys)
        shape, tables = self.batch.shape[asked], self.batch.tables
        names = tables if len(asked) == len(tables) else [tables[place] for place in asked.tolist()]
        ops = map(_OPS.__getitem__, shape[:, OP].tolist())
        weighted = (shape[:, WEIGHTED] != 0).tolist()
        rows = zip(names, ops, self.keys[asked].tolist(), self.bags[asked].tolist(), weighted, strict=True)
        return tuple(map(_new_lookup, rows))  # No line of Python for each: there are as many of these as tables.

    def _flat_lookups(self) -> FlatSubLookups:
        """Return what `_sub_lookups` does, without an object for each: nothing of it is put on a wire."""
        places = np.flatnonzero(self.keys)
        shape = self.batch.shape
        numbers = np.stack([shape[:, OP], self.keys, self.bags, shape[:, WEIGHTED]], axis=1)
        return FlatSubLookups(self.batch.tables, places, numbers[places])

    def check_reply(self, reply: PullReply, dims: Int64Array) -> None:
        """Check that an answer fits what was asked.

        Args:
            dims: (L,): numbers per row of each look-up's table; 0 of one of bytes.

        Raises:
            ProtocolError: It does not; the shard is not to be believed.
        """
        unpooled = self.batch.shape[:, OP] == ROWS
        due = int((np.where(unpooled, self.keys, self.bags) * dims).sum())
        due_found = int(self.keys[unpooled].sum())
        due_counts = int(np.count_nonzero(self.keys))
        if (reply.values.size, reply.missing.size, reply.found.size) != (due, due_counts, due_found):
            raise ProtocolError(
                f"{named(self.shard or 0)} answered {reply.values.size} values, {reply.missing.size} counts and"
                f" {reply.found.size} flags; {due}, {due_counts} and {due_found} were due"
            )
        if reply.absent.size:
            self._check_absent(reply)
        if not reply.lengths.size and dims.all():
            return
        due_rows = int(self.keys[dims == 0].sum())
        if reply.lengths.size != due_rows or int(reply.lengths.sum(dtype=np.int64)) != reply.data.size:
            raise ProtocolError(
                f"{named(self.shard or 0)} answered {reply.lengths.size} rows of bytes with {reply.data.size} bytes;"
                f" {due_rows} were due, whose lengths add up to that"
            )

    def _check_absent(self, reply: PullReply) -> None:
        """Check that the keys told are pooled ones of this part, each once, and as many of each look-up as counted."""
        absent, ends = reply.absent.astype(np.int64), np.cumsum(self.keys)
        told = np.bincount(np.searchsorted(ends, absent, "right"), minlength=len(ends))
        pooled = self.batch.shape[:, OP] != ROWS
        counted = np.zeros(len(ends), np.int64)
        counted[self.keys > 0] = reply.missing
        if (np.diff(absent) <= 0).any() or not np.array_equal(told, np.where(pooled, counted, 0)):
            raise ProtocolError(
                f"{named(self.shard or 0)} told {len(absent)} keys of bags as absent; they must be"
                f" {int(counted[pooled].sum())}, ascending, and as many of each look-up as it counts"
            )

    def bags_of(self, numbers: Int64Array) -> tuple[Int64Array, Int64Array]:
        """Return the look-up and the bag of keys of pooled look-ups, given their numbers among `positions`."""
        unpooled = self.batch.shape[:, OP] == ROWS
        lookups = np.searchsorted(np.cumsum(self.keys), numbers, "right")
        rows_before = np.cumsum(np.where(unpooled, self.keys, 0))[lookups]
        sub_bags = np.searchsorted(np.cumsum(self.lengths, dtype=np.int64), numbers - rows_before, "right")
        return lookups, self.targets[rows_before + sub_bags]

    def pooled_keys(self) -> Int64Array:
        """Return the numbers among `positions` of all keys of pooled look-ups."""
        pooled = np.repeat(self.batch.shape[:, OP] != ROWS, self.keys)
        return np.flatnonzero(pooled)

    def as_batch(self) -> Batch:
        """Return these keys as a batch of their own, to be partitioned anew over other owners or with a newer map."""
        shape = self.batch.shape.copy()
        shape[:, KEYS] = self.keys
        shape[:, BAGS] = self.bags
        offsets = [np.empty(0, np.int64)]
        begin = 0
        for op, bags in shape[:, [OP, BAGS]].tolist():
            if op != ROWS:
                offsets.append(np.concatenate([[0], np.cumsum(self.lengths[begin : begin + bags], dtype=np.int64)]))
                begin += bags
        return Batch(
            tables=self.batch.tables,
            shape=shape,
            keys=self.positions,
            hashed=True,
            offsets=np.concatenate(offsets),
            weights=self.weights,
            targets=self.targets,
        )


def divide(part: Part, table: str, slots: Sequence[tuple[int, int]]) -> tuple[Batch | None, Batch | None]:
    """Return the keys of a part as two batches: those in these slots of a table, and all others; None: there are none.

    Args:
        slots: Ranges [begin, end).
    """
    batch = part.as_batch()
    owners = np.zeros((SLOTS, 1), np.uint16)
    for begin, end in slots:
        owners[begin:end] = 1
    replicas = np.array([int(name == table) for name in batch.tables], np.int64)
    made = {each.shard: each.as_batch() for each in partition(batch, replicas, 0, owners, np.zeros(3, np.int64))}
    return made.get(1), made.get(0)


def partition(
    batch: Batch,
    replicas: Int64Array,
    full_copy: int,
    owners: OwnerTable,
    waiting: Int64Array,
    here: Here | None = None,
) -> list[Part]:
    """Cut a batch into parts, ascending by shard id, then the unowned part and what is here. No part is empty.

    Args:
        batch: As laid out by `Batch.of`, or `Part.as_batch`.
        replicas: (L,): copies of each look-up's table; 0 for a table that every shard has.
        full_copy: The shard asked for the tables that every shard has.
        owners: (SLOTS, ranks): owners of each slot, of which a table uses its first `replicas`.
        waiting: (S+1,): keys that each shard, by id, has in flight, `DOWN` for one that cannot be asked, and for the
            last, which stands for unowned keys. Keys of the batch are added to it.
        here: What is answered here of the tables of the look-ups; None: nothing.

    Raises:
        InvalidInput: Offsets that do not ascend from 0 to the number of keys; names the table.
    """
    if here is not None and not here.whole.any():  # all in the first layer
        return [part] if (part := _whole_part(batch)).size else []
    if here is None:
        here = Here(none := np.full(len(replicas), -1, np.int64), none, _NO_MASKS, 0)
    hashed, chosen, counts = _choose(
        batch.shape,
        batch.keys,
        batch.hashed,
        replicas,
        full_copy,
        owners,
        waiting,
        here.whole,
        here.rows,
        here.masks,
        here.layers,
    )
    unowned = waiting.size - 1
    waiting += counts[: unowned + 1]
    begins = np.cumsum(counts) - counts
    wrong, keys, bags, positions, lengths, weights, targets = _place(
        batch.shape, batch.offsets, batch.weights, batch.targets, hashed, chosen, begins
    )
    _check_offsets(batch, wrong)
    unpooled, weighted = batch.shape[:, OP] == ROWS, batch.shape[:, WEIGHTED] != 0
    ends = begins + counts
    bag_ends = begins + bags.sum(axis=1)
    target_ends = bag_ends + keys[:, unpooled].sum(axis=1)
    weight_ends = begins + keys[:, weighted].sum(axis=1)
    parts = []
    for shard in np.flatnonzero(counts).tolist():
        begin = begins[shard]
        parts.append(
            Part(
                shard=shard if shard < unowned else None if shard == unowned else layer_id(shard - unowned - 1),
                batch=batch,
                keys=keys[shard],
                bags=bags[shard],
                positions=positions[begin : ends[shard]],
                lengths=lengths[begin : bag_ends[shard]],
                weights=weights[begin : weight_ends[shard]],
                targets=targets[begin : target_ends[shard]],
            )
        )
    return parts


def _check_offsets(batch: Batch, wrong: int) -> None:
    """Refuse a batch in which a look-up, if any, has wrong offsets."""
    if wrong >= 0:
        raise InvalidInput(
            f"look-up in {batch.tables[wrong]}: offsets must ascend from 0 to the number of keys,"
            f" {batch.shape[wrong, KEYS]}"
        )


def _whole_part(batch: Batch) -> Part:
    """Return a batch as one part, of the first layer of what is here."""
    wrong, bags, positions, lengths, targets = _take_all(
        batch.shape, batch.keys, batch.hashed, batch.offsets, batch.targets
    )
    _check_offsets(batch, wrong)
    keys = batch.shape[:, KEYS].copy()
    return Part(layer_id(0), batch, keys, bags, positions, lengths, batch.weights, targets)


@kernel()
def _take_all(
    shape: Int64Array, keys: UInt64Array, hashed: bool, offsets: Int64Array, batch_targets: Int64Array
) -> tuple[int, Int64Array, UInt64Array, NDArray[np.uint32], Int64Array]:
    """Return the look-up with wrong offsets, or -1; bags (L,) that are not empty; and positions, lengths, targets."""
    positions = np.empty(keys.size, np.uint64)
    for i in range(np.uint64(keys.size)):
        positions[i] = keys[i] if hashed else fmix64(keys[i])
    lengths = np.empty(keys.size, np.uint32)
    targets = np.empty(keys.size, np.int64)
    bags = np.zeros(shape.shape[0], np.int64)
    renamed = batch_targets.size > 0
    offset = vector = sub_bag = target = 0
    for lookup in range(shape.shape[0]):
        vectors = int(shape[lookup, KEYS])
        if shape[lookup, OP] == ROWS:
            for i in range(vectors):
                targets[target + i] = batch_targets[vector + i] if renamed else i
            target += vectors
        else:
            count, vectors = vectors, int(shape[lookup, BAGS])
            if not _ascend(offsets, offset, vectors, count):
                return lookup, bags, positions, lengths, targets
            for bag in range(vectors):
                length = offsets[offset + bag + 1] - offsets[offset + bag]
                if length:
                    lengths[sub_bag] = length
                    targets[target] = batch_targets[vector + bag] if renamed else bag
                    sub_bag += 1
                    target += 1
                    bags[lookup] += 1
            offset += vectors + 1
        vector += vectors
    return -1, bags, positions, lengths[:sub_bag], targets[:target]


@kernel()
def _choose(
    shape: Int64Array,
    keys: UInt64Array,
    hashed: bool,
    replicas: Int64Array,
    full_copy: int,
    owners: OwnerTable,
    waiting: Int64Array,
    whole: Int64Array,
    rows: Int64Array,
    masks: NDArray[np.uint8],
    layers: int,
) -> tuple[UInt64Array, NDArray[np.uint16], Int64Array]:
    """Return the position of every key (N,), its shard (N,), and how many keys each got (S+1+layers,).

    Layers of what is here come after the shards and the unowned keys.
    """
    positions = np.empty(keys.size, np.uint64)
    for i in range(np.uint64(keys.size)):  # In a loop of its own, which is vectorised.
        positions[i] = keys[i] if hashed else fmix64(keys[i])
    chosen = np.empty(keys.size, np.uint16)
    counts = np.zeros(waiting.size + layers, np.int64)
    asked = np.where(waiting < DOWN, np.arange(waiting.size), waiting.size - 1)
    end = np.uint64(0)  # Unsigned indexes, here and below: numba lets a negative one count from the end.
    for lookup in range(shape.shape[0]):
        begin, copies = end, int(replicas[lookup])
        end += np.uint64(shape[lookup, KEYS])
        if whole[lookup] >= 0:
            layer = waiting.size + int(whole[lookup])
            for i in range(begin, end):
                chosen[i] = layer
            counts[layer] += int(end - begin)
            continue
        row = int(rows[lookup])
        for i in range(begin, end):
            slot = positions[i] >> np.uint64(SLOT_SHIFT)
            if row >= 0 and masks[row, slot] != NOWHERE:
                layer = waiting.size + int(masks[row, slot]) - 1
                chosen[i] = layer
                counts[layer] += 1
                continue
            owner = full_copy
            if copies > 0:
                owner = int(owners[slot, 0])
                for rank in range(1, copies):
                    other = int(owners[slot, rank])
                    if waiting[other] + counts[other] < waiting[owner] + counts[owner] - STICKINESS_KEYS:
                        owner = other
            owner = asked[owner]
            chosen[i] = owner
            counts[owner] += 1
    return positions, chosen, counts


@numba.njit(nogil=True)
def _ascend(offsets: Int64Array, first: int, bags: int, keys: int) -> bool:
    """Return whether the `bags` + 1 offsets from `first` on ascend from 0 to `keys`."""
    right = offsets[first] == 0 and offsets[first + bags] == keys
    for bag in range(first, first + bags):
        right &= offsets[bag] <= offsets[bag + 1]
    return bool(right)


@numba.njit(nogil=True)
def _place_weights(
    given: Float32Array, chosen: NDArray[np.uint16], weights: Float32Array, next_weight: Int64Array
) -> None:
    """Place the weights of a look-up's keys with the keys' shards."""
    for i, shard in enumerate(chosen):
        weights[next_weight[shard]] = given[i]
        next_weight[shard] += 1


@kernel()
def _place(
    shape: Int64Array,
    offsets: Int64Array,
    batch_weights: Float32Array,
    batch_targets: Int64Array,
    batch_positions: UInt64Array,
    chosen: NDArray[np.uint16],
    begins: Int64Array,
) -> tuple[int, Int64Array, Int64Array, UInt64Array, NDArray[np.uint32], Float32Array, Int64Array]:
    """Return the look-up with wrong offsets, or -1; keys and bags (S+1, L); and positions, lengths, weights, targets.

    The last four have room for N, and the part of a shard begins in each at `begins`: no part has more sub-bags,
    weights or targets than keys.
    """
    shards, count = begins.size, batch_positions.size
    keys = np.empty((shards, shape.shape[0]), np.int64)
    bags = np.empty((shards, shape.shape[0]), np.int64)
    positions = np.empty(count, np.uint64)
    lengths = np.empty(count, np.uint32)
    weights = np.empty(count if batch_weights.size else 0, np.float32)
    targets = np.empty(count, np.int64)
    renamed = batch_targets.size > 0

    # By shard: where the next key, weight, sub-bag and target go, and where the keys of this bag began.
    next_key, next_weight, next_bag, next_target = begins.copy(), begins.copy(), begins.copy(), begins.copy()
    bag_begin = begins.copy()
    key = offset = weight = vector = 0
    for lookup in range(shape.shape[0]):
        keys[:, lookup], bags[:, lookup], bag_begin[:] = next_key, next_bag, next_key
        end = key + int(shape[lookup, KEYS])
        vectors = end - key
        if shape[lookup, OP] == ROWS:
            for i in range(key, end):
                shard = int(chosen[i])
                positions[next_key[shard]] = batch_positions[i]
                next_key[shard] += 1
                targets[next_target[shard]] = batch_targets[vector + i - key] if renamed else i - key
                next_target[shard] += 1
        else:
            vectors = int(shape[lookup, BAGS])
            if not _ascend(offsets, offset, vectors, end - key):
                return lookup, keys, bags, positions, lengths, weights, targets
            for bag in range(vectors):
                target = batch_targets[vector + bag] if renamed else bag
                first, last = np.uint64(key + offsets[offset + bag]), np.uint64(key + offsets[offset + bag + 1])
                for i in range(first, last):
                    own = np.uint64(chosen[i])
                    place = np.uint64(next_key[own])
                    positions[place] = batch_positions[i]
                    next_key[own] = place + np.uint64(1)
                # Then once more over its shards, most of which are met again: that is predicted well enough.
                for i in range(first, last):
                    own = np.uint64(chosen[i])
                    length = next_key[own] - bag_begin[own]
                    if length:
                        bag_begin[own] = next_key[own]
                        lengths[np.uint64(next_bag[own])] = length
                        next_bag[own] += 1
                        targets[np.uint64(next_target[own])] = target
                        next_target[own] += 1
            if shape[lookup, WEIGHTED] != 0:
                _place_weights(batch_weights[weight:], chosen[key:end], weights, next_weight)
                weight += end - key
            offset += vectors + 1
        vector += vectors
        keys[:, lookup] = next_key - keys[:, lookup]
        bags[:, lookup] = next_bag - bags[:, lookup]
        key = end
    return -1, keys, bags, positions, lengths, weights, targets
