"""The self-check of a version: its own sample rows, through the real shards and the dense program, before it goes live.

A version whose tables, keys or program are not what its exporter had gives other outputs, and is refused. Versions that
were exported without samples have only their rehearsal behind them.
"""

from __future__ import annotations

import asyncio

import numpy as np

from ringpull.inference.head.catalog import ServedVersion
from ringpull.inference.head.pipeline import Puller
from ringpull.inference.model.samples import Samples
from ringpull.ps.errors import CorruptData


async def self_check(served: ServedVersion, samples: Samples, router: Puller, deadline_s: float) -> None:
    """Run the samples as one request, and hold the outputs against those of the export.

    Args:
        router: Pulls for it, so that it is not among what requests cost.

    Raises:
        CorruptData: They differ; the message names version, output and row.
        RingpullError: The shards could not be asked.
    """
    pulled = await served.pipeline.with_router(router).pull_samples(samples.prepared, deadline_s)
    [scores] = (
        await asyncio.get_running_loop().run_in_executor(served.executor, served.pipeline.compute, pulled)
    ).values()
    for name, expected in samples.outputs.items():
        found = scores.outputs[name]
        if found.shape != expected.shape:
            raise CorruptData(
                f"self-check of {served.loaded.name}: output {name} has the shape {found.shape},"
                f" and had {expected.shape} when it was exported"
            )
        allowed = samples.tolerance * np.maximum(1.0, np.abs(expected))
        same = (np.abs(found - expected) <= allowed) | (np.isnan(found) & np.isnan(expected))
        if not same.all():
            worst = np.unravel_index(int(np.argmin(same)), same.shape)
            raise CorruptData(
                f"self-check of {served.loaded.name}: output {name} of sample row {int(worst[0])} is"
                f" {float(found[worst]):.6g}, and was {float(expected[worst]):.6g} when it was exported"
            )
