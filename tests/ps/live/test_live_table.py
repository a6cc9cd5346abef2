"""Pushed rows beside deltas: which of the two a version shows, against a dict, whatever was opened when."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.hashing import positions_of
from ringpull.ps.live import live_table as live_table_module
from ringpull.ps.live.live_table import LiveTable, OpenDelta
from ringpull.ps.live.live_tables import LiveTables
from ringpull.ps.live.record import LiveName
from ringpull.ps.spec import RowType, TableSpec
from ringpull.ps.store.base import Base
from ringpull.ps.store.newer.budget import Budget
from ringpull.ps.store.newer.directory import Directory
from ringpull.ps.store.writer import TableWriter

KEYS = 60
NAME = LiveName("m", 1, "t")


def written(folder: Path, rows: dict[int, float]) -> Base:
    with TableWriter(folder, TableSpec(name="t", dim=1)) as writer:
        writer.add(np.array(list(rows), np.uint64), np.array(list(rows.values()), np.float32).reshape(-1, 1))
        writer.finish()
    return Base.open(folder)


def gone_of(folder: Path, keys: list[int]) -> Base:
    with TableWriter(folder, TableSpec(name="t", dim=0, row_type=RowType.BYTES)) as writer:
        writer.add_bytes(np.array(keys, np.uint64), BytesRows.of([b""] * len(keys)))
        writer.finish()
    return Base.open(folder)


def shown(table: LiveTable, version: int) -> dict[int, float | None]:
    """Return what a version shows of each key besides its base; None: it is gone."""
    newer = table.newer(version)
    keys = np.arange(KEYS, dtype=np.uint64)
    words = newer.directory.get(positions_of(keys))
    gone = table.segments.is_gone(words)
    found: dict[int, float | None] = {}
    for key, word, is_gone in zip(keys.tolist(), words, gone.tolist(), strict=True):
        if word and is_gone:
            found[key] = None
        elif word:
            rows = table.segments.rows(np.array([word], np.uint64))
            assert isinstance(rows, np.ndarray)
            found[key] = float(rows.view(np.float32)[0, 0])
    return found


@pytest.mark.parametrize("seed", range(6))
def test_what_a_version_shows_is_the_later_of_delta_and_push(tmp_path: Path, seed: int) -> None:
    drawn = random.Random(seed)
    table = LiveTable(NAME, 4, Budget(1 << 30))
    pushes: dict[int, tuple[int, float | None]] = {}
    deltas: list[tuple[dict[int, float], list[int], int, OpenDelta]] = []
    stamp, versions = 0, {7: 0}
    table.open_version(7, [])
    for step in range(40):
        if step % 13 == 5:
            stamps = [stamp, stamp - 3, None]
            rows = {key: 1000.0 * step + key for key in drawn.sample(range(KEYS), 12)}
            gone = [key for key in drawn.sample(range(KEYS), 6) if key not in rows]
            includes = drawn.choice(stamps)
            base = written(tmp_path / f"delta-{step}" / "t", rows)
            opened = OpenDelta(base, gone_of(tmp_path / f"gone-{step}" / "t", gone), includes, 8 + len(deltas), 1)
            deltas.append((rows, gone, stamp if includes is None else includes, opened))
            version = 7 + len(deltas)
            versions[version] = len(deltas)
            new = table.open_version(version, [each[3] for each in deltas])
            assert new == ([opened.key] if includes is None else [])
        elif step % 17 == 9:
            version = drawn.choice(list(versions))
            table.open_version(version, [each[3] for each in deltas[: versions[version]]])  # once more
        else:
            stamp += drawn.randint(1, 3)
            keys = np.array(drawn.sample(range(KEYS), 8), np.uint64)
            remove = drawn.random() < 0.3
            values = np.full((8, 1), stamp, np.float32)
            words = table.write_gone(8, stamp) if remove else table.write(values.view(np.uint8), stamp)
            table.show(positions_of(keys), words, stamp)
            pushes.update({int(key): (stamp, None if remove else float(stamp)) for key in keys})
        for version, count in versions.items():
            truth: dict[int, float | None] = {}
            includes_of: dict[int, int] = {}
            for rows, gone, includes, _ in deltas[:count]:
                truth |= {**rows, **dict.fromkeys(gone)}
                for key in [*rows, *gone]:
                    includes_of[key] = max(includes, includes_of.get(key, 0))
            truth |= {key: value for key, (at, value) in pushes.items() if at > includes_of.get(key, 0)}
            assert shown(table, version) == truth, (step, version)


@pytest.mark.parametrize("again", [False, True])
def test_a_version_that_fails_to_open_was_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    """Else nothing is written of its delta once it opens: a restart would take what is pushed since for older."""
    tables = LiveTables(0)
    table = tables.made(NAME, 4)
    delta = OpenDelta(written(tmp_path / "delta" / "t", {7: 2.0}), gone_of(tmp_path / "gone" / "t", [8]), None, 8, 1)
    if again:
        tables.open_version(NAME, 8, 4)
    real, calls = live_table_module.upserted, list[int]()

    def fails_once(directory: Directory, *given: object) -> tuple[Directory, int]:
        calls.append(1)
        if len(calls) == 2:  # the delta's rows, after the keys that went
            raise MemoryError
        return real(directory, *given)  # type: ignore[arg-type]

    push(table, 7, 1)
    with monkeypatch.context() as patched:
        patched.setattr(live_table_module, "upserted", fails_once)
        with pytest.raises(MemoryError):
            tables.open_version(NAME, 8, 4, [delta])
    assert list(table.versions) == ([8] if again else [])
    assert not table.opened
    assert not tables.has_unlogged
    push(table, 7, 2)
    if again:
        assert shown(table, 8) == {7: 2.0}, "what was open takes pushes on"
    tables.open_version(NAME, 8, 4, [delta])
    assert [(each.writer, each.stamp) for each in tables.unlogged] == [(delta.key.changed, 2)]
    assert shown(table, 8) == {7: 2.0, 8: None}
    push(table, 7, 3)
    assert shown(table, 8) == {7: 3.0, 8: None}


def push(table: LiveTable, key: int, stamp: int) -> None:
    words = table.write(np.full((1, 1), stamp, np.float32).view(np.uint8), stamp)
    table.show(positions_of(np.array([key], np.uint64)), words, stamp)
