"""The router between the head and the shards: hash and partition for 4 shards, then merge what they answer.

In nanoseconds per key and per partial vector, one thread, beside copying the same bytes once: the keys of the batch,
and the partial vectors. Batches are those of the end-to-end bench, of several requests each, and lie in no cache when
their turn comes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ringpull.loadtest.bench.bare_shards import EPOCH, MODEL, VERSION
from ringpull.loadtest.bench.harness import QUICK, Report, interleave, rate
from ringpull.loadtest.bench.pulls import LOOKUPS, dlrm_lookups
from ringpull.ps.pull_messages import PullReply
from ringpull.ps.ring import Ring
from ringpull.router.batch import Batch, Int64Array
from ringpull.router.lookup import Lookup
from ringpull.router.merge import FlatResults, Merge
from ringpull.router.partition import Part, partition
from ringpull.router.replicas import Loads, Placement, least_loaded
from ringpull.router.shard_map import ShardAddress, ShardMap

SHARDS = 4
DIM = 64
REQUESTS = 4
BATCHES = 8
ROWS = 10_000_000
REPEATS = 5 if QUICK else 20
ROUNDS = 3 if QUICK else 9


Answers = Sequence[tuple[Part, PullReply]]


def placement(shards: int) -> Placement:
    """Return an even map over `shards` shards, one copy of everything, as routing reads it."""
    addresses = tuple(ShardAddress(shard, "127.0.0.1", 1) for shard in range(shards))
    return Placement(ShardMap(EPOCH, addresses, Ring.even(range(shards)), {}))


def route(model: str, lookups: Sequence[Lookup], placed: Placement) -> tuple[Batch, list[Part]]:
    """Do what the router does before it sends: lay out, hash, choose owners, place, name the messages."""
    batch = Batch.of(lookups)
    waiting = Loads().waiting(placed, ())
    parts = partition(batch, placed.replicas(model, batch.tables), least_loaded(waiting), placed.owners, waiting)
    for part in parts:
        part.request(model, VERSION, EPOCH)
    return batch, parts


def merge(batch: Batch, dims: Int64Array, answers: Answers) -> FlatResults:
    """Do what the router does with the answers: check, merge, divide means, fill empty bags."""
    merging = Merge(batch, dims)
    for part, reply in answers:
        part.check_reply(reply, dims)
        merging.add(part, reply)
    return merging.results()


@dataclass(frozen=True, slots=True)
class Pulled:
    """One batch with what the shards would answer."""

    lookups: Sequence[Lookup]
    batch: Batch
    answers: Answers

    @property
    def keys(self) -> int:
        return sum(lookup.keys.size for lookup in self.lookups)

    @property
    def partials(self) -> int:
        return sum(part.targets.size for part, _ in self.answers)


def main() -> None:
    placed = placement(SHARDS)
    rng = np.random.default_rng(0)
    batches = [_answered(dlrm_lookups(rng, ROWS, REQUESTS), placed, rng) for _ in range(BATCHES)]
    keys = float(np.mean([pulled.keys for pulled in batches]))
    partials = float(np.mean([pulled.partials for pulled in batches]))
    dims = np.full(LOOKUPS, DIM, np.int64)
    key_bytes = [np.concatenate([lookup.keys for lookup in pulled.lookups]) for pulled in batches]
    partial_bytes = [np.concatenate([reply.values for _, reply in pulled.answers]) for pulled in batches]

    samples = interleave(
        {
            "route": _ns_per(keys, lambda i: route(MODEL, batches[i].lookups, placed)),
            "copy of the keys": _ns_per(keys, lambda i: key_bytes[i].copy()),
            "merge": _ns_per(partials, lambda i: merge(batches[i].batch, dims, batches[i].answers)),
            "copy of the partials": _ns_per(partials, lambda i: partial_bytes[i].copy()),
        },
        rounds=ROUNDS,
    )
    report = Report(
        f"Routing for {SHARDS} shards: batches of {REQUESTS} requests, {keys:,.0f} keys,"
        f" {partials:,.0f} partials of dim {DIM}"
    )
    for what, copy, unit in (("route", "copy of the keys", "key"), ("merge", "copy of the partials", "partial")):
        report.compare(f"{what}, ns per {unit}", samples, (what, copy), key=f"{what}_vs_copy", show=".1f")
        report.key(f"{what}_ns_per_{unit}", samples.median(what))
    report.finish()


def _answered(lookups: Sequence[Lookup], placed: Placement, rng: np.random.Generator) -> Pulled:
    batch, parts = route(MODEL, lookups, placed)
    answers = []
    for part in parts:
        values = rng.standard_normal(part.targets.size * DIM, np.float32)
        missing = np.zeros(np.count_nonzero(part.keys), np.uint32)
        answers.append((part, PullReply(values, missing, np.empty(0, np.uint8))))
    return Pulled(lookups, batch, answers)


def _ns_per(count: float, run: Callable[[int], object]) -> Callable[[], float]:
    """Return a contender that gives nanoseconds per key or partial, batch after batch."""

    per_s = rate(lambda turn: run(turn % BATCHES), REPEATS * BATCHES, count)
    return lambda: 1e9 / per_s()


if __name__ == "__main__":
    main()
