"""The dense program alone: in bfloat16 beside float32, as a script beside the program operator by operator.

A DLRM of 26 tables and a DIN, one thread, as a head loads them; processor time of the thread that runs them, all in an
order drawn anew in each round. Made-up vectors: what is looked up is no part of it. Eager is the exported program as
torch makes it callable, its checks of sizes with it: what a user has who loads the file by hand.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from ringpull.inference.model.bfloat16 import instructions
from ringpull.inference.model.dense_program import ProgramTensor
from ringpull.inference.model.manifest import Manifest
from ringpull.inference.model.torch_program import TorchProgram, read_program
from ringpull.inference.schema.schema import Schema
from ringpull.loadtest.bench.e2e_din import din_folder
from ringpull.loadtest.bench.harness import QUICK, Report, Samples
from ringpull.loadtest.dlrm import dlrm_folder

ROWS: Final = 10_000
BATCHES: Final = (1, 32, 128, 1024)
ROUNDS: Final = 3 if QUICK else 15
RUN_ROWS: Final = 500 if QUICK else 4_000
"""Rows that a contender runs, at least, before its time is taken."""
MAX_TURNS: Final = 100


def main() -> None:
    torch.set_num_threads(1)
    report = Report("The dense program alone, one thread, CPU time")
    for name, version in (("dlrm", dlrm_folder(ROWS) / "1"), ("din", din_folder("pooled") / "1")):
        measure(report, name, version)
    report.finish()


def measure(report: Report, name: str, version: Path) -> None:
    """Add the times of one model, by number of rows, and how far bfloat16 is from float32."""
    manifest = Manifest.load(version)
    assert manifest.program is not None
    whole, short = (TorchProgram.load(version, manifest, "cpu", threads=1, precision=each) for each in PRECISIONS)
    eager: Any = read_program(version, manifest.program).module()
    key = "dense" if name == "dlrm" else f"dense_{name}"
    schema = Schema.from_json(manifest.schema.read(version)) if manifest.schema is not None else None
    assert schema is not None
    for rows in BATCHES:
        inputs = made_up(manifest, schema, rows)
        found, exact = (next(iter(each.run(inputs, rows).values())) for each in (short, whole))
        samples = cpu_times(
            {
                "float32": partial(whole.run, inputs, rows),
                "bfloat16": partial(short.run, inputs, rows),
                "eager": partial(_run_eager, eager, inputs, rows),
            },
            max(1, min(MAX_TURNS, RUN_ROWS // rows)),
        )
        what = f"{name.upper()}, {rows:,} rows"
        pairs = (
            (f"{what}: bfloat16, us", ("float32", "bfloat16"), f"{key}_bf16_vs_float32_{rows}"),
            (f"{what}: script, us", ("eager", "float32"), f"{key}_compiled_vs_eager_{rows}"),
        )
        for told, (slower, faster), ratio in pairs:
            before, after = (samples.median(each) * 1e6 for each in (slower, faster))
            if faster == "bfloat16" and not instructions("cpu"):
                report.absent(told, "no instructions for bfloat16 here", ratio)
                continue
            report.row(told, f"{after:,.0f}", f"{slower} {before:,.0f}", samples.ratio(slower, faster), key=ratio)
        report.key(f"{key}_float32_us_per_row_{rows}", samples.median("float32") * 1e6 / rows)
    difference = float(np.abs(found - exact).max())
    report.row(f"{name.upper()}: largest difference of a score in bfloat16", f"{difference:.1e}", "float32")
    report.key(f"{key}_bf16_largest_difference", difference)


PRECISIONS: Final[tuple[Any, Any]] = ("float32", "bfloat16")


def made_up(manifest: Manifest, schema: Schema, rows: int) -> list[ProgramTensor]:
    """Return vectors and numbers as a batch of so many rows has them, all different."""
    drawn = np.random.default_rng(rows)
    inputs = []
    arguments = schema.argument_names()
    for entry in manifest.inputs:
        if entry.lookup is not None:
            lookup = manifest.lookups[entry.lookup]
            dim = manifest.table(lookup.table).spec.dim
            length = getattr(schema[lookup.feature], "length", None) if lookup.pooling.value == "none" else None
            shape = (rows, dim) if length is None else (rows, length, dim)
            inputs.append(ProgramTensor(drawn.standard_normal(shape).astype(np.float32)))
            continue
        argument = arguments[str(entry.argument)]
        feature = schema[argument.features[0]]
        length = getattr(feature, "length", None)
        if length is not None:
            inputs.append(ProgramTensor(drawn.integers(0, ROWS, (rows, length))))
        else:
            width = getattr(feature, "width", 1)
            inputs.append(ProgramTensor(drawn.standard_normal((rows, width)).astype(np.float32)))
    return inputs


def cpu_times(contenders: Mapping[str, Callable[[], object]], turns: int) -> Samples:
    """Return the CPU seconds of one run of each, a figure a round, the order of a round drawn."""
    values: dict[str, list[float]] = {name: [] for name in contenders}
    drawn = random.Random(0)
    for _ in range(ROUNDS):
        for name in drawn.sample(list(contenders), len(contenders)):
            run = contenders[name]
            run()
            begin = time.thread_time()
            for _ in range(turns):
                run()
            values[name].append((time.thread_time() - begin) / turns)
    return Samples(values)


def _run_eager(module: Any, inputs: Sequence[ProgramTensor], rows: int) -> None:
    with torch.inference_mode():
        tensors = [torch.from_numpy(each.values) for each in inputs]
        module(*(tensors if rows > 1 else [torch.cat([each, each]) for each in tensors]))


if __name__ == "__main__":
    main()
