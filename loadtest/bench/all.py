"""The benches, one after the other, each in a process of its own: what `make bench` runs.

Each bench prints its table when it is done, and what it took; the end is one table of the ratios beside the aims, one
of what each bench took, and one line of JSON with all keys. A bench that fails is named, costs the others nothing, and
makes the exit status 1. Missing an aim does not.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from ringpull.loadtest.bench.harness import machine
from ringpull.loadtest.bench.targets import TARGETS, Target
from ringpull.loadtest.process import unwound_by_sigterm

BENCHES = (
    "kernel",
    "row_types",
    "topk",
    "routing",
    "wire",
    "shard",
    "memory",
    "replication",
    "two_versions",
    "ready",
    "stage_budget",
    "dense",
    "small",
    "width",
    "imports",
    "metrics_cost",
    "token_cost",
    "tls_cost",
    "doors",
    "onnx_served",
    "trees_served",
    "savedmodel_served",
    "e2e",
    "overload",
    "changes",
    "live",
    "growth",
    "cost",
    "gpu_head",
)


def main() -> None:
    chosen = sys.argv[1:] or list(BENCHES)
    keys: dict[str, Any] = {}
    failed = []
    seconds: dict[str, float] = {}
    for number, bench in enumerate(chosen, 1):
        print(f"\n[{number}/{len(chosen)}] {bench}, after {sum(seconds.values()):.0f} s", flush=True)
        begin = time.perf_counter()
        try:
            keys |= run(bench)
        except RuntimeError as exc:
            print(exc, flush=True)
            failed.append(bench)
        seconds[bench] = seconds.get(bench, 0.0) + time.perf_counter() - begin
        print(f"{bench} took {seconds[bench]:.0f} s", flush=True)
    console = Console(width=160)
    console.print()
    console.print(durations(seconds))
    console.print(summary(keys))
    if failed:
        print(f"failed: {', '.join(failed)}", flush=True)
    took = {bench: round(each, 1) for bench, each in seconds.items()}
    print(json.dumps({**keys, "failed": failed, "seconds": took, "machine": machine()}), flush=True)
    sys.exit(1 if failed else 0)


def run(bench: str) -> dict[str, Any]:
    """Run one bench to its end, pass on what it prints, and return the keys of its last line.

    Raises:
        RuntimeError: It failed, or its last line is not what it should be.
    """
    command = [sys.executable, "-m", f"ringpull.loadtest.bench.{bench}"]
    last = ""
    environment = {**os.environ, "COLUMNS": "140"}
    with (
        unwound_by_sigterm(),
        subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8", env=environment) as process,
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if last:
                    print(last, flush=True)
                last = line.rstrip("\n")
        except SystemExit:
            process.terminate()  # it takes down what it has started, and is waited for
            raise
    if process.returncode != 0:
        raise RuntimeError(f"{last}\n{bench} failed with exit status {process.returncode}".lstrip())
    return keys_of_line(bench, last)


def keys_of_line(bench: str, line: str) -> dict[str, Any]:
    """Return the keys of a bench's last line, less the machine, which is the same for all.

    Raises:
        RuntimeError: It is no JSON object.
    """
    try:
        found = json.loads(line)
    except json.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise RuntimeError(f"{line}\n{bench} did not end with a line of JSON")
    return {name: value for name, value in found.items() if name != "machine"}


def durations(seconds: Mapping[str, float]) -> Table:
    """Return the table of what each bench took, the longest first, and of what all took."""
    table = Table("bench", title="seconds", title_justify="left", show_footer=True)
    table.columns[0].footer = "all"
    table.add_column("s", footer=f"{sum(seconds.values()):.0f}", justify="right")
    for bench, each in sorted(seconds.items(), key=lambda item: -item[1]):
        table.add_row(bench, f"{each:.0f}")
    return table


def summary(keys: Mapping[str, Any], targets: Sequence[Target] = TARGETS) -> Table:
    """Return the table of ratios beside the aims."""
    table = Table("what", "against", "figure", "reach", "", "key", title="ringpull bench", title_justify="left")
    for target in targets:
        value = keys.get(target.key)
        figure = "-" if value is None else f"{value:.2f}"
        verdict = "not measured" if value is None else "ok" if target.reached(value) else "missed"
        table.add_row(target.what, target.against, figure, target.reach, verdict, target.key)
    return table


if __name__ == "__main__":
    main()
