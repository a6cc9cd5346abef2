"""The benches of live data say what they measured: when a push was seen, and what a soak must not come to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ringpull.loadtest.bench import live_soak
from ringpull.loadtest.bench.live_pushes import seen_after
from ringpull.loadtest.bench.live_replay import bytes_of_log
from ringpull.loadtest.bench.live_soak import FILES, KEYS, Peaks, Soaked


def test_a_push_is_seen_by_the_first_look_that_shows_it_or_a_later_one_of_its_probe() -> None:
    rng = np.random.default_rng(4)
    probes, pushes, looks = 3, 20, 40
    called_s = np.sort(rng.random(pushes))
    looked_s = np.sort(rng.random(looks) * 0.9)
    applied_s = called_s + rng.random(pushes) / 10
    shown = np.zeros((looks, probes), np.float32)
    for look, at_s in enumerate(looked_s):
        for number in range(pushes):
            if applied_s[number] <= at_s:
                shown[look, number % probes] = number + 1
    by_hand = []
    for number in range(pushes):
        seen = [at_s for at_s, row in zip(looked_s, shown, strict=True) if row[number % probes] >= number + 1]
        by_hand += [seen[0] - called_s[number]] if seen else []
    assert 0 < len(by_hand) < pushes, "some were not seen"
    np.testing.assert_allclose(seen_after(np.arange(pushes), called_s, looked_s, shown), by_hand)


def test_what_shows_an_older_push_again_takes_nothing_back() -> None:
    shown = np.array([[1.0], [3.0], [2.0], [2.0]], np.float32)
    took_s = seen_after(np.array([0, 1, 2]), np.zeros(3), np.array([1.0, 2.0, 3.0, 4.0]), shown)
    assert took_s.tolist() == [1.0, 2.0, 2.0]


BOUNDED = {"log_bytes": 900, "files": 9, "descriptors": 20, "disk_bytes": 900, "newer_bytes": 900, "memory_bytes": 1000}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, ""),
        ({"log_bytes": 1_001}, "log_bytes came to 1,001, over 1,000"),
        ({"files": FILES + 1}, "files came to"),
        ({"descriptors": 90}, "descriptors came to 90"),
        ({"newer_bytes": 1 << 30}, "newer_bytes came to"),
    ],
)
def test_a_soak_that_is_not_bounded_says_what(changed: dict[str, int], said: str) -> None:
    before = {"descriptors": 18, "memory_bytes": 1_000}
    found = Soaked(1_000, 10_000, 7, before, BOUNDED | changed, 0, 0, 1.0).broken()
    assert len(found) == bool(said)
    assert said in "".join(found)


def test_a_soak_says_which_rows_were_wrong_and_that_it_was_too_short() -> None:
    before = {"descriptors": 18, "memory_bytes": 1_000}
    found = Soaked(1_000, 9_999, 7, before, BOUNDED, 1, 2, 1.0).broken()
    assert found == [
        "only 9,999 bytes were written to the log",
        f"at the end 1 of {KEYS:,} rows were wrong",
        f"after kill -9 2 of {KEYS:,} rows were wrong",
    ]


def test_peaks_are_of_each_count_by_itself() -> None:
    peaks = Peaks()
    for look in ({"files": 3, "log_bytes": 1}, {"files": 1, "log_bytes": 7}):
        peaks.look(look)
    assert peaks.seen == {"files": 3, "log_bytes": 7}


def test_a_log_is_all_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "shard-0.live"
    folder.mkdir()
    for name, size in (("log-000001", 5), ("log-000002", 7), ("other", 100)):
        (folder / name).write_bytes(bytes(size))
    assert bytes_of_log(tmp_path) == 12


@pytest.mark.net
@pytest.mark.slow
def test_pushes_at_20_k_rows_a_second_leave_log_memory_files_and_descriptors_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RINGPULL_BENCH_CACHE", str(tmp_path))
    found = live_soak.soak()
    assert found.broken() == []
    assert found.rows > 1_000_000
