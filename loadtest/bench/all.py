"""Every bench, one after the other, each in a process of its own: what `make bench` runs.

Each bench prints its table when it is done; the end is one table of the ratios beside the aims, and one line of JSON
with all keys. A bench that fails is named, costs the others nothing, and makes the exit status 1. Missing an aim does
not.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from ringpull.loadtest.bench.harness import machine
from ringpull.loadtest.bench.large_model import DIM
from ringpull.loadtest.bench.memory import limit
from ringpull.loadtest.process import unwound_by_sigterm

BENCHES = (
    "kernel",
    "row_types",
    "routing",
    "wire",
    "shard",
    "memory",
    "replication",
    "two_versions",
    "ready",
    "stage_budget",
    "small",
    "metrics_cost",
    "e2e",
    "overload",
    "growth",
    "cost",
    "gpu_head",
)


@dataclass(frozen=True, slots=True)
class Target:
    """One key of the last line, what it says, and what it should reach."""

    key: str
    what: str
    against: str
    least: float | None = None
    most: float | None = None
    aim: float | None = None

    @property
    def reach(self) -> str:
        if self.least is None and self.most is None:
            return "stated"
        bound = f">= {self.least:g}" if self.least is not None else f"<= {self.most:.4g}"
        return bound if self.aim is None else f"{bound}, aim {self.aim:g}"

    def reached(self, value: float) -> bool:
        """Say whether a figure is within the bound; one that is only stated always is."""
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)


TARGETS = (
    Target("kernel_vs_torch_d16", "shard kernel, dim 16", "torch embedding_bag given row numbers", least=0.4),
    Target("kernel_vs_torch_d64", "shard kernel, dim 64", "the same", least=0.6, aim=0.8),
    Target("kernel_vs_torch_d128", "shard kernel, dim 128", "the same", least=0.7, aim=0.8),
    Target("kernel_vs_torch_with_map_d64", "shard kernel, dim 64", "torch + key -> row", least=2),
    Target("int8_vs_float32_d128", "int8 rows, dim 128", "our float32 rows", least=1.3),
    Target("bf16_vs_float32_d128", "bfloat16 rows, dim 128", "our float32 rows", least=1.3),
    Target("shard_vs_redis", "one shard over TCP, pooled rows/s", "Redis MGET + numpy", least=25),
    Target("route_ns_per_key", "routing for 4 shards, ns per key", ""),
    Target("merge_ns_per_partial", "merge, ns per partial of dim 64", ""),
    Target("e2e_vs_inprocess", "DLRM over gRPC, samples/s", "the model in process, no server", least=0.4, aim=0.8),
    Target("e2e_vs_grpc_torch", "the same", "plain grpc.aio around it", least=0.7),
    Target("e2e_vs_redis_torch", "the same", "Redis + torch", least=10),
    Target("e2e_vs_ray_serve", "the same", "Ray Serve gRPC", least=2),
    Target("cpu_us_per_sample", "CPU us per sample, head + shards", ""),
    Target("p99_vs_inprocess", "p99 at half the top rate", "one request in process", most=5, aim=3),
    Target("goodput_at_3x", "answers in time/s at 3 x the top rate", "the top rate", least=0.85),
    Target("settled_p99_ms_at_3x", "p99 of what is accepted there, ms", ""),
    Target("metrics_rate_small", "requests of 1 candidate/s with metrics", "without", least=0.97),
    Target("metrics_rate_whole", "the same, of 128 candidates", "without", least=0.97),
    Target("small_vs_echo", "requests of 1 candidate/s", "bare grpc.aio echo", least=0.4),
    Target("cpu_per_sample_8_vs_1_shards", "CPU per sample, 8 shards", "1 shard"),
    Target("resident_vs_raw", "memory of a table's shards", "raw bytes of its rows", most=limit(4 * DIM)),
    Target("load_vs_read", "version on disk to ready", "reading the same files"),
)


def main() -> None:
    chosen = sys.argv[1:] or list(BENCHES)
    keys: dict[str, Any] = {}
    failed = []
    begin = time.perf_counter()
    for number, bench in enumerate(chosen, 1):
        print(f"\n[{number}/{len(chosen)}] {bench}, after {time.perf_counter() - begin:.0f} s", flush=True)
        try:
            keys |= run(bench)
        except RuntimeError as exc:
            print(exc, flush=True)
            failed.append(bench)
    print(f"\nall done after {time.perf_counter() - begin:.0f} s", flush=True)
    Console(width=160).print(summary(keys))
    if failed:
        print(f"failed: {', '.join(failed)}", flush=True)
    print(json.dumps({**keys, "failed": failed, "machine": machine()}), flush=True)
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
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process,
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
