"""Cores and memory that a process may use, of both kinds of control groups."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from ringpull.ps import allowance

GIB = 1 << 30
AVAILABLE = "MemTotal:       25165824 kB\nMemAvailable:   16777216 kB\n"
NESTED = "0::/pods/one\n"
V1 = "5:name=systemd:/\n4:memory:/one\n1:cpu,cpuacct:/one\n0::/\n"


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


def root(folder: Path, groups: str | None, files: Mapping[str, str]) -> Path:
    """A file system with these control groups, and 16 GiB available."""
    for name, text in {"proc/meminfo": AVAILABLE, **{f"sys/fs/cgroup/{each}": files[each] for each in files}}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    if groups is not None:
        (folder / "proc/self").mkdir()
        (folder / "proc/self/cgroup").write_text(groups)
    return folder


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        (None, {}, 8),
        ("0::/\n", {}, 8),
        (NESTED, {"pods/one/cpu.max": "max 100000\n"}, 8),
        (NESTED, {"pods/one/cpu.max": "150000 100000\n"}, 1.5),
        (NESTED, {"pods/one/cpu.max": "400000 100000\n", "pods/cpu.max": "200000 100000\n"}, 2),
        ("0::/not/here\n", {"cpu.max": "300000 100000\n"}, 3),
        ("0::/\n", {"cpu.max": "1600000 100000\n"}, 8),
        (V1, {"cpu/one/cpu.cfs_quota_us": "-1\n", "cpu/one/cpu.cfs_period_us": "100000\n"}, 8),
        (V1, {"cpu/one/cpu.cfs_quota_us": "250000\n", "cpu/one/cpu.cfs_period_us": "100000\n"}, 2.5),
        (V1, {"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
    ],
)
def test_cores(tmp_path: Path, groups: str | None, files: Mapping[str, str], cores: float) -> None:
    assert allowance.cores(root(tmp_path, groups, files)) == cores


@pytest.mark.parametrize(
    ("groups", "files", "gib"),
    [
        (None, {}, 16),
        (NESTED, {"pods/one/memory.max": "max\n", "pods/one/memory.current": "0\n", "pods/one/memory.stat": ""}, 16),
        (
            NESTED,
            {
                "pods/one/memory.max": f"{4 * GIB}\n",
                "pods/one/memory.current": f"{3 * GIB}\n",
                "pods/one/memory.stat": f"anon {GIB}\ninactive_file {GIB}\n",
            },
            2,
        ),
        (
            V1,
            {
                "memory/one/memory.limit_in_bytes": f"{4 * GIB}\n",
                "memory/one/memory.usage_in_bytes": f"{3 * GIB}\n",
                "memory/one/memory.stat": f"inactive_file 0\ntotal_inactive_file {GIB}\n",
            },
            2,
        ),
        (
            NESTED,
            {"pods/memory.max": f"{GIB}\n", "pods/memory.current": f"{2 * GIB}\n", "pods/memory.stat": ""},
            0,
        ),
    ],
)
def test_memory(tmp_path: Path, groups: str | None, files: Mapping[str, str], gib: int) -> None:
    assert allowance.memory_bytes(root(tmp_path, groups, files)) == gib * GIB


def test_this_machine_has_some() -> None:
    assert 0 < allowance.cores() <= 8
    assert allowance.memory_bytes() > 0


@pytest.mark.parametrize(
    ("loadavg", "idle"),
    [
        ("2.29 2.09 1.17 1/242 15665\n", 7),  # one runs, and that is who asks
        ("0.00 0.00 0.00 8/242 15665\n", 0),
        ("99.0 99.0 99.0 64/9000 15665\n", 0),  # more cores than are this process's
        ("0.00 0.00 0.00 0/0 0\n", 0),  # a system that counts nobody
        ("0.00 0.00\n", 0),
        ("", 0),
        (None, 0),
    ],
)
def test_idle_cores(tmp_path: Path, loadavg: str | None, idle: int) -> None:
    (tmp_path / "proc").mkdir()
    if loadavg is not None:
        (tmp_path / "proc/loadavg").write_text(loadavg)
    assert allowance.idle_cores(8.0, tmp_path) == idle


@pytest.mark.parametrize(("allowed", "idle"), [(64.0, 6), (4.0, 2), (3.9, 1), (2.0, 0), (0.5, 0)])
def test_a_core_that_a_quota_leaves_no_time_for_is_not_idle(tmp_path: Path, allowed: float, idle: int) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/loadavg").write_text("2.29 2.09 1.17 2/242 15665\n")
    assert allowance.idle_cores(allowed, tmp_path) == idle


def test_idle_cores_of_this_machine() -> None:
    assert 0 <= allowance.idle_cores(8.0) < 8
