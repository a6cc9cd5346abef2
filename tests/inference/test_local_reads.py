"""Keys that a head answers itself, from files that shards of its machine serve, against the slow reference."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from ringpull.inference.head.local_reads import files
from ringpull.inference.head.local_reads.files import _here
from ringpull.inference.head.local_reads.following import TRY_AGAIN_S
from ringpull.ps.errors import LimitExceeded, NotFound, Unavailable
from ringpull.ps.local.flat_pull import FlatTables
from ringpull.ps.local.open_files import LayerTable, OpenFiles, open_files
from ringpull.ps.ring import Ring
from ringpull.ps.spec import ALL, OnUnavailable, Pooling, TableSpec
from ringpull.ps.store import format as fmt
from ringpull.ps.store.base import Base
from ringpull.ps.store.pull import pull
from ringpull.ps.store.writer import TableWriter
from ringpull.ps.wire.files_messages import TableFiles
from ringpull.ps.wire.messages import DescribeRequest
from ringpull.router.here import Here
from ringpull.router.lookup import FlatLookups, Lookup
from tests.inference.local_cluster import (
    DIMS,
    KEYS,
    MODEL,
    VECTORS,
    Cluster,
    CountedTables,
    check,
    damage,
    keys_of,
    lookups,
    serving,
    write_tables,
)
from tests.router.cases import LISTS, assert_reference


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("copies")


@pytest.mark.parametrize("replicas", [1, 2, ALL])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
async def test_whole_files_are_one_part_that_no_shard_is_asked_for(written, count, replicas):
    cluster = await serving(written, Ring.even(range(count), 1 if replicas == ALL else replicas), replicas)
    pulls = [await check(cluster, 1), await check(cluster, 1)]
    assert cluster.pulls == 0
    assert cluster.keys_here() == cluster.keys() > 0
    assert cluster.files.keys() == {(MODEL, 1): keys_of(written[1][1], pulls)}
    counted = cluster.router.counters()
    assert (counted.messages, counted.sent_bytes, counted.received_bytes) == (0, 0, 0)
    cluster.dead |= set(range(count))
    pulls += [await check(cluster, 1, seed=seed) for seed in (1, 2)]  # a shard's death does not matter to such keys
    assert cluster.files.keys() == {(MODEL, 1): keys_of(written[1][1], pulls)}
    await cluster.close()


@pytest.mark.parametrize(
    ("replicas", "elsewhere"), [(1, ()), (1, (0,)), (1, (1, 2)), (2, ()), (2, (1,)), (2, (0, 1)), (ALL, (0,))]
)
async def test_copies_of_some_ranges_count_for_their_slots(written, copies, replicas, elsewhere):
    cluster = Cluster(Ring.even(range(3), 1 if replicas == ALL else replicas), replicas)
    cluster.map()
    cluster.elsewhere |= set(elsewhere)
    cluster.open_copies(1, *written[1], copies)
    cluster.assign([cluster.ring])
    await cluster.learn(1)
    pulls = [await check(cluster, 1), await check(cluster, 1)]
    assert 0 < cluster.keys_here() <= cluster.keys()
    if cluster.pulls == 0:
        assert cluster.files.keys() == {(MODEL, 1): keys_of(written[1][1], pulls)}
    assert (cluster.keys_here() == cluster.keys()) == (cluster.pulls == 0)
    if replicas == 1:
        assert (cluster.pulls == 0) == (not elsewhere)
        share = (3 - len(elsewhere)) / 3
        assert abs(cluster.keys_here() / cluster.keys() - share) < 0.1
    await cluster.close()


@pytest.mark.medium
@pytest.mark.parametrize("lists", [False, True])
@pytest.mark.parametrize("elsewhere", [(), (1, 2)])
async def test_flat_lookups_are_answered_and_counted_as_any_others(written, tmp_path, monkeypatch, elsewhere, lists):
    plain = lookups(lists=lists)
    first = [each for each in plain if each.pooling is Pooling.NONE and each.table != LISTS]
    flat = FlatLookups(
        tuple([each.table for each in first]),
        np.concatenate([each.keys for each in first]),
        np.array([each.keys.size for each in first]),
        [each for each in plain if each.pooling is not Pooling.NONE or each.table == LISTS],
    )
    counted = []
    for number, asked in enumerate((flat, list(flat), list(flat))):
        if number == 2:
            monkeypatch.setattr(CountedTables, "pull", lambda *_: None)  # one by one
        cluster = Cluster(Ring.even(range(3)))
        cluster.map()
        cluster.elsewhere |= set(elsewhere)
        cluster.open_copies(1, *written[1], tmp_path / str(number))
        cluster.assign([cluster.ring])
        await cluster.learn(1)
        for _ in range(2):
            assert_reference(cluster.versions[1][0], asked, await cluster.pull(1, asked))
        counted.append((cluster.router.counters(), cluster.files.keys()))
        assert (cluster.files.flat > 0) == (number < 2 and not lists)
        assert 0 < cluster.keys_here() <= cluster.keys()
        assert (cluster.keys_here() == cluster.keys()) == (not elsewhere)
        await cluster.close()
    assert counted[0] == counted[1] == counted[2]


async def test_the_layouts_that_are_asked_for_stay_ready(written, monkeypatch):
    """One more of one version takes the place of that which was not asked for the longest, and none of another's."""
    monkeypatch.setattr(files, "LAYOUTS_KEPT", 2)
    cluster = await serving(written, Ring.even(range(2)))
    cluster.open(2, *written[2])
    cluster.assign([cluster.ring])
    await cluster.learn(2)
    made: list[tuple[str, ...]] = []

    def laid_out(tables: tuple[str, ...], layer: Mapping[str, LayerTable]) -> FlatTables:
        made.append(tables)
        return FlatTables(tables, layer)

    monkeypatch.setattr(files, "FlatTables", laid_out)
    masks = []

    def masked(opened: OpenFiles, tables: tuple[str, ...]) -> Here | None:
        masks.append(tuple(tables))
        return _here(opened, tables)

    monkeypatch.setattr(files, "_here", masked)
    for version, asked in [(2, "u"), (1, "u"), (1, "i"), (1, "u"), (1, "ui"), (1, "u"), (2, "u"), (1, "i"), (1, "u")]:
        names = [name for name in VECTORS if name[0] in asked]
        pull = [Lookup(name, Pooling.NONE, np.arange(9, dtype=np.uint64)) for name in names]
        assert_reference(cluster.versions[version][0], pull, await cluster.pull(version, pull))
    assert made == [("users",), ("users",), ("items",), ("users", "items"), ("items",)]
    assert masks == made
    await cluster.close()


@pytest.mark.medium
async def test_moves_deaths_and_versions_change_no_answer(written, tmp_path):
    """A history of maps, deaths, restarts and versions, in all states of which answers are the reference's."""
    rng = np.random.default_rng(17)
    cluster = await serving(written, Ring.even(range(2)), copies=tmp_path)
    for step in range(6):
        before = cluster.ring
        ring = before.join(max(before.shards) + 1) if step % 3 else before.leave(before.shards[0])
        cluster.map(ring, [before])  # both are served while it drains
        for number, shard in cluster.shards.items():
            for version, (_, identity) in cluster.versions.items():
                folder = written[version][0]
                bases = {name: cluster.copied(number, shard, version, name, folder, tmp_path) for name in DIMS}
                shard.install(MODEL, version, bases, identity=identity)
        for version in cluster.versions:
            await check(cluster, version, seed=step)
        await cluster.look()
        for version in cluster.versions:
            await check(cluster, version, seed=step)
        cluster.assign([ring])
        dead = int(rng.choice(ring.shards))
        cluster.dead.add(dead)  # its files stay mapped
        for version in cluster.versions:
            await check(cluster, version, seed=100 + step)
        await cluster.look()
        for version in cluster.versions:
            await check(cluster, version, seed=200 + step)
        cluster.dead.discard(dead)
        if step == 1:
            cluster.open(2, *written[2])
            cluster.assign([ring])
            await cluster.learn(2)
        if step == 3:
            cluster.retire(1)
    assert 0 < cluster.keys_here() <= cluster.keys()
    await cluster.close()


@pytest.mark.parametrize("own_copies", [False, True])
async def test_damage_that_a_shard_has_found_is_not_read_here(written, tmp_path, own_copies):
    cluster = await serving(written, Ring.even(range(2), 2), 2, tmp_path if own_copies else None)
    damage(cluster, 0, 10_000, 30_000)
    await cluster.look()
    await check(cluster, 1)  # shard 1 has whole copies of these slots, as far as it knows
    assert own_copies == (cluster.pulls == 0)
    damage(cluster, 1, 20_000, 30_000)
    await cluster.look()
    with pytest.raises(Unavailable, match="keys of users"):
        await cluster.pull(1, lookups())
    others = [lookup for lookup in lookups() if lookup.table != "users"]
    before = cluster.keys_here()
    assert_reference(cluster.versions[1][0], others, await cluster.pull(1, others))
    assert cluster.keys_here() - before == sum(lookup.keys.size for lookup in others)
    cluster.shards[0].quarantine((MODEL, 1, "users"), cluster.shards[0].bases(MODEL, 1)["users"], [])
    cluster.shards[1].quarantine((MODEL, 1, "users"), cluster.shards[1].bases(MODEL, 1)["users"], [])
    await cluster.look()
    before = cluster.keys_here()
    asked = await check(cluster, 1)  # mended: read here again
    assert cluster.keys_here() - before == sum(lookup.keys.size for lookup in asked)
    await cluster.close()


async def test_a_file_put_in_the_place_of_a_damaged_one_is_read(written, tmp_path):
    folder = tmp_path / "version"
    shutil.copytree(written[1][0], folder)
    cluster = Cluster(Ring.even([0]))
    cluster.map()
    cluster.open(1, folder, written[1][1])
    cluster.assign([cluster.ring])
    await cluster.learn(1)
    rows = folder / "users" / fmt.ROWS
    whole = rows.read_bytes()
    with rows.open("r+b") as file:  # the page that is mapped changes
        file.write(bytes(len(whole)))
    damage(cluster, 0, 0, 65_536)
    await cluster.look()
    rows.with_name("good").write_bytes(whole)
    rows.with_name("good").rename(rows)
    shard = cluster.shards[0]
    before = shard.bases(MODEL, 1)["users"]
    assert shard.exchange((MODEL, 1, "users"), before, Base.open(folder / "users"))
    await cluster.look()
    await check(cluster, 1)
    assert (cluster.pulls, cluster.keys_here()) == (0, cluster.keys())
    await cluster.close()


async def test_lost_keys_by_policy_are_those_that_are_not_here(written, tmp_path):
    """Half of the keys are lost, and no others, of copies of two shards of which one, on another machine, dies."""
    folder = tmp_path / "version"
    tables = write_tables(folder, 5, OnUnavailable.DEFAULT)
    cluster = Cluster(Ring.even(range(2)))
    cluster.map()
    cluster.elsewhere.add(1)
    cluster.open_copies(1, folder, tables, tmp_path / "copies")
    cluster.assign([cluster.ring])
    await cluster.learn(1)
    cluster.dead |= {0, 1}
    asked = [Lookup("items", Pooling.NONE, np.arange(KEYS, dtype=np.uint64))]
    [result] = await cluster.pull(1, asked)
    assert 0.4 * KEYS < result.lost < 0.6 * KEYS
    assert cluster.keys_here() == KEYS - result.lost
    rows, known = tables["items"][1].pull(asked[0].keys)
    assert result.found is not None
    np.testing.assert_array_equal(result.values[result.found], np.asarray(rows)[result.found])
    assert result.found.sum() + (~known).sum() >= KEYS - result.lost
    await cluster.close()


@pytest.mark.parametrize("why", ["another file", "no such folder", "another machine", "an earlier build"])
async def test_what_cannot_be_read_here_is_asked_of_shards(written, tmp_path, why):
    folder = tmp_path / "version"
    shutil.copytree(written[1][0], folder)
    cluster = Cluster(Ring.even(range(2)))
    cluster.map()
    cluster.open(1, folder, written[1][1])
    cluster.assign([cluster.ring])
    if why == "another file":  # as a path means something else in another container
        header = folder / "users" / fmt.HEADER
        header.with_name("copy").write_bytes(header.read_bytes())
        header.with_name("copy").rename(header)
    elif why == "no such folder":
        folder.rename(tmp_path / "elsewhere")
    elif why == "another machine":
        cluster.elsewhere |= {0, 1}
    else:
        cluster.earlier_build |= {0, 1}
    await cluster.learn(1)
    await check(cluster, 1)
    users = sum(lookup.keys.size for lookup in lookups() if lookup.table == "users")
    assert cluster.pulls == 2
    assert cluster.keys_here() == (cluster.keys() - users if why == "another file" else 0)
    opened = cluster.files.opened().get((MODEL, 1))
    refused = {"another file": 1, "no such folder": len(DIMS)}.get(why, 0)
    assert len(opened.refused if opened else ()) == refused
    if why == "no such folder":  # it comes back, and is tried again after a while
        (tmp_path / "elsewhere").rename(folder)
        await cluster.look()
        assert not cluster.files.opened()[MODEL, 1].layers
        cluster.later_s += TRY_AGAIN_S
        await cluster.look()
        asked = await check(cluster, 1)
        assert cluster.keys_here() == sum(lookup.keys.size for lookup in asked) > 0
    await cluster.close()


async def test_another_content_under_the_same_number_is_not_read(written):
    """A version that was exported anew: this head has the new one, a shard still serves the old one."""
    cluster = await serving(written, Ring.even([0]))
    cluster.following.forget(MODEL, 1)
    tables = written[2][1]
    cluster.versions[1] = tables, "b" * 16
    specs = {name: spec for name, (spec, _) in tables.items()}
    cluster.router.register(MODEL, 1, specs, identity="b" * 16)
    await cluster.learn(1)
    with pytest.raises(Unavailable, match="no live shard could answer"):
        await cluster.pull(1, lookups())
    assert cluster.keys_here() == 0
    folders = {name: written[2][0] / name for name in DIMS}
    cluster.shards[0].open(MODEL, 1, folders, identity="b" * 16)
    await cluster.look()
    await check(cluster, 1)
    assert cluster.keys_here() == cluster.keys() > 0
    await cluster.close()


async def test_an_earlier_build_answers_that_there_is_no_such_table(written):
    """The question for files is one that a shard which does not know it refuses, and goes on."""
    cluster = await serving(written, Ring.even([0]))
    with pytest.raises(NotFound, match="no table ''"):
        cluster.shards[0].describe(DescribeRequest(MODEL, 1, "", 0, 0))
    await cluster.close()


async def test_a_version_is_unmapped_when_its_last_pull_is_done(written, tmp_path):
    folder = tmp_path / "version"
    shutil.copytree(written[1][0], folder)
    cluster = Cluster(Ring.even([0]))
    cluster.map()
    cluster.open(1, folder, written[1][1])
    cluster.assign([cluster.ring])
    await cluster.learn(1)
    await check(cluster, 1)
    assert str(folder) in maps()
    cluster.retire(1)
    await cluster.look()
    async with asyncio.timeout(60):
        while str(folder) in maps():  # the thread that read lets go of it after it has answered
            gc.collect()
            await asyncio.sleep(0.001)
    assert cluster.files.opened() == {}
    assert cluster.files.keys() == {}
    await cluster.close()


def maps() -> str:
    return Path("/proc/self/maps").read_text(encoding="utf-8")


@pytest.mark.medium
async def test_its_memory_is_that_of_the_shards(tmp_path):
    """A file that another process has mapped takes no memory more: proportional set sizes of both add up to it once."""
    spec = TableSpec(name="users", dim=256)
    folder = tmp_path / "users"
    with TableWriter(folder, spec) as writer:
        writer.add(np.arange(20_000, dtype=np.uint64), np.ones((20_000, 256), np.float32))
        writer.finish()
    size = (folder / fmt.ROWS).stat().st_size
    base = Base.open(folder)
    table = TableFiles("users", os.fsencode(folder), b"", base.identity, base.stamps[fmt.HEADER])
    script = (
        "import mmap,sys; f=open(sys.argv[1],'rb'); m=mmap.mmap(f.fileno(),0,prot=mmap.PROT_READ);"
        "sum(m[::4096]); print('ready',flush=True); sys.stdin.read()"
    )
    arguments = [sys.executable, "-S", "-c", script, str(folder / fmt.ROWS)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as shard:
        assert shard.stdout is not None
        assert shard.stdout.readline() == b"ready\n"
        opened = open_files(1, [[table]], None, 1)
        for each in opened.bases():
            each.prefault()
        ours, theirs = pss(os.getpid(), folder / fmt.ROWS), pss(shard.pid, folder / fmt.ROWS)
        shard.kill()
    assert ours > 0.45 * size  # it is all mapped here
    assert ours + theirs < 1.01 * size
    base.close()


def pss(pid: int, file: Path) -> int:
    """Return the proportional set size of a process's maps of a file."""
    found = re.findall(
        rf"{re.escape(str(file))}\n(?:\w+:.*\n)*?Pss:\s+(\d+) kB",
        Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8"),
    )
    return sum(map(int, found)) * 1024


async def test_rows_of_bytes_have_their_limit_here_too(written):
    cluster = await serving(written, Ring.even([0]))
    asked = [Lookup(LISTS, Pooling.NONE, np.arange(KEYS, dtype=np.uint64))]
    deadline_s = time.monotonic() + 60
    with pytest.raises(LimitExceeded, match="the limit is 100"):
        await cluster.router.pull(MODEL, 1, asked, deadline_s=deadline_s, max_reply_bytes=100)
    assert_reference(cluster.versions[1][0], asked, await cluster.pull(1, asked))
    assert cluster.pulls == 0
    await cluster.close()


@pytest.mark.parametrize("lists", [False, True])
async def test_the_longest_reply_of_a_shard_bounds_no_answer_here(written, monkeypatch, lists):
    """All keys of a pull are one part here: several shards, each of which answers for some, could answer more."""
    monkeypatch.setitem(pull.__kwdefaults__, "max_reply_bytes", 1000)
    cluster = await serving(written, Ring.even(range(3)))
    asked = lookups(lists=lists)
    assert_reference(cluster.versions[1][0], asked, await cluster.pull(1, asked))
    assert cluster.pulls == 0
    await cluster.close()


async def test_keys_of_a_version_that_comes_back_count_on(written):
    """Or whoever remembers the higher numbers of before would see them stand still."""
    cluster = await serving(written, Ring.even([0]))
    pulls = [await check(cluster, 1, seed) for seed in range(3)]
    tables, identity = cluster.versions[1]
    cluster.router.retire(MODEL, 1)
    cluster.following.forget(MODEL, 1)
    assert not dict(cluster.files.keys())
    cluster.router.register(MODEL, 1, {name: spec for name, (spec, _) in tables.items()}, identity=identity)
    await cluster.learn(1)
    pulls.append(await check(cluster, 1))
    assert cluster.files.keys() == {(MODEL, 1): keys_of(tables, pulls)}
    await cluster.close()
