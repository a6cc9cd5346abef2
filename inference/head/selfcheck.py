"""The self-check of a version: its own samples, through the real shards and the dense program, before it goes live.

A version whose tables, keys or program are not what its exporter had gives other vectors or outputs, and is refused.
What cannot be asked now is no proof of anything, and is an error that goes by. Versions that were exported without
samples have only their rehearsal behind them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping

import numpy as np

from ringpull.inference.head.catalog import ServedVersion
from ringpull.inference.head.pipeline import Puller
from ringpull.inference.model.samples import Samples, TableSamples, agree, bytes_checksums, vector_checksums
from ringpull.inference.model.version import LoadedVersion
from ringpull.ps.errors import CorruptData, Unavailable
from ringpull.ps.spec import Pooling, UInt64Array
from ringpull.router.lookup import Lookup, LookupResult

PULL_BYTES = 4 << 20
"""Upper bound on the vectors of one pull, but for a table whose one vector is larger: requests wait behind it."""

BFLOAT16_FACTOR = 2.0
"""Factor on the largest difference measured at export, the most by which bfloat16 may change an output here."""


async def self_check(served: ServedVersion, samples: Samples, router: Puller, timeout_s: float) -> None:
    """Hold the vectors of the samples' keys, and the outputs of their rows as one request, against those of the export.

    Args:
        router: Pulls for it, so that it is not among what requests cost.
        timeout_s: Time for each pull.

    Raises:
        CorruptData: They differ; the message names version, table and key, or output and row.
        RingpullError: The shards could not be asked.
    """
    await _check_tables(served, samples.tables, router, timeout_s)
    if served.loaded.program is not None:
        await _check_rows(served, samples, router, timeout_s)


async def _check_tables(
    served: ServedVersion, tables: Mapping[str, TableSamples], router: Puller, timeout_s: float
) -> None:
    name = served.loaded.name
    sizes = {entry.spec.name: entry.spec.dim * 4 or entry.row_bytes for entry in served.loaded.manifest.tables}
    if unknown := sorted(tables.keys() - sizes.keys()):
        raise CorruptData(f"self-check of {name}: there are samples of table {unknown[0]}, which it does not have")
    for pull in _pulls(tables, sizes):
        lookups = [Lookup(table, Pooling.NONE, each.keys) for table, each in pull]
        results = await router.pull(*served.key, lookups, deadline_s=time.monotonic() + timeout_s)
        for (table, each), result in zip(pull, results, strict=True):
            if result.lost:
                raise Unavailable(f"self-check of {name}: no live shard has {result.lost} keys of table {table}")
            wrong = np.flatnonzero(_checksums(result) != each.checksums)
            if len(wrong):
                key = int(each.keys[wrong[0]])
                raise CorruptData(
                    f"self-check of {name}: table {table} is not the one that was exported: {len(wrong)} of"
                    f" {len(each.keys)} sample keys have another vector, the first is {key}"
                )


def _checksums(result: LookupResult) -> UInt64Array:
    return vector_checksums(result.values) if result.bytes_rows is None else bytes_checksums(result.bytes_rows)


def _pulls(tables: Mapping[str, TableSamples], sizes: Mapping[str, int]) -> Iterator[list[tuple[str, TableSamples]]]:
    """Yield the samples of all tables in parts that one pull may ask for."""
    part: list[tuple[str, TableSamples]] = []
    left = PULL_BYTES
    for table, samples in tables.items():
        begin, vector_bytes = 0, sizes[table]
        while begin < len(samples.keys):
            if part and left < vector_bytes:
                yield part
                part, left = [], PULL_BYTES
            end = begin + max(1, left // vector_bytes)
            own = TableSamples(samples.keys[begin:end], samples.checksums[begin:end])
            part.append((table, own))
            left -= len(own.keys) * vector_bytes
            begin = end
    if part:
        yield part


def tolerance_of(loaded: LoadedVersion, samples: Samples) -> float:
    """Return how far an output may be from the sample's, which a program in float32 gave.

    One in bfloat16 may be as far again as its receipt says, of rows and samples: processors sum in different orders.
    """
    receipt = loaded.manifest.bfloat16
    if receipt is None or loaded.program is None or loaded.program.runtime.precision == "float32":
        return samples.tolerance
    return samples.tolerance + BFLOAT16_FACTOR * max(receipt.largest_difference, receipt.sample_difference)


async def _check_rows(served: ServedVersion, samples: Samples, router: Puller, timeout_s: float) -> None:
    name, pipeline = served.loaded.name, served.pipeline
    deadline_s = time.monotonic() + timeout_s
    pulled = await pipeline.with_router(router).pull_samples(samples.prepared, deadline_s)
    if pulled.unavailable:
        lost = pulled.unavailable[0]
        raise Unavailable(f"self-check of {name}: no live shard has {lost.values} keys of feature {lost.feature}")
    tolerance = tolerance_of(served.loaded, samples)
    [scores] = (await asyncio.get_running_loop().run_in_executor(served.executor, pipeline.compute, pulled)).values()
    for output, expected in samples.outputs.items():
        found = scores.outputs.get(output)
        shape = None if found is None else found.shape
        if found is None or shape != expected.shape:
            raise CorruptData(
                f"self-check of {name}: output {output} has the shape {shape}, and had {expected.shape} when it was"
                " exported"
            )
        same = agree(found, expected, tolerance)
        if not same.all():
            worst = np.unravel_index(int(np.argmin(same)), same.shape)
            raise CorruptData(
                f"self-check of {name}: output {output} of sample row {int(worst[0])} is {float(found[worst]):.6g}, and"
                f" was {float(expected[worst]):.6g} when it was exported"
            )
