"""Delta versions as a stranger would break them: each is refused by name, or answers as the full version does."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from numpy.typing import NDArray

from ringpull.deploy.model_folders import find_version, find_versions, loss_of
from ringpull.deploy.view.folder_summary import read_version
from ringpull.inference.export.delta.following import Following
from ringpull.inference.export.delta.versions import delta_of
from ringpull.inference.export.table_options import TableOptions
from ringpull.inference.export.tables_alone import export_tables
from ringpull.inference.model import manifest_chain
from ringpull.inference.model.manifest import Chain, Follows, Manifest, TableKind
from ringpull.ps.errors import CorruptData, ExportError, InvalidInput, OtherContent, RingpullError
from ringpull.ps.hashing import keys_of
from ringpull.ps.process import ShardProcess
from ringpull.ps.pull_messages import Op
from ringpull.ps.spec import OnUnavailable
from ringpull.ps.store.writer import TableWriter
from ringpull.router.control.chains import chain_length
from ringpull.router.control.changes import published
from ringpull.router.control.deployment_spec import DeploymentSpec, PlacedVersion, initial_spec
from ringpull.router.control.operations import ModelSource, Publish
from tests.deploy.folders import write_version
from tests.inference.test_manifest import put, rewrite
from tests.integration.test_delta_versions import running, serve, spec_of, wait_tidied
from tests.ps.tables import pull_request, pulled

EDGES = keys_of(np.array([0, 1, 2**63, 2**64 - 2, 2**64 - 1], np.uint64))
"""Keys whose positions are the first and the last of the ring; the first is key 0."""

Rows = Mapping[int, float]


def write(folder: Path, version: int, rows: Rows, *, dim: int = 4, row_type: str = "float32", **more: Rows) -> Path:
    """Write a full version with a table `users`, and others, whose rows are one number each."""
    empty = [name for name, each in {"users": rows, **more}.items() if not each]
    more = {name: each or {99: 1.0} for name, each in {"users": rows, **more}.items()}
    tables = {
        name: (np.array(list(each), np.uint64), np.array(list(each.values()), np.float32)[:, None].repeat(dim, 1))
        for name, each in more.items()
    }
    options = {name: TableOptions(row_type=row_type) for name in tables}
    export_tables(tables, folder, version, options=options, quiet=True)
    for name in empty:  # which exporters of tables refuse
        there, manifest = folder / str(version) / "tables" / name, Manifest.load(folder / str(version))
        spec = manifest.table(name).spec
        shutil.rmtree(there)
        with TableWriter(there, spec) as writer:
            writer.finish()
        entries = tuple(replace(each, rows=0) if each.spec.name == name else each for each in manifest.tables)
        replace(manifest, tables=entries, samples=None).save(folder / str(version))
    return folder / str(version)


def placed(folder: Path, version: int) -> PlacedVersion:
    return find_versions(ModelSource(name="m", folder=str(folder), versions=(version,)))[0]


def asked(processes: Mapping[int, ShardProcess], version: int, keys: NDArray[np.uint64], table: str = "users") -> Any:
    """Return rows of one shard that has all."""
    [process] = processes.values()
    reply = process._shard.pull(pull_request([(table, Op.ROWS, keys, (), None)], model="m", version=version))
    return pulled(reply), reply.found.tolist()


def same_answers(folder: Path, version: int, whole: Path, keys: NDArray[np.uint64]) -> None:
    """Hold a version against a full one of the same rows."""
    found = []
    for place in (folder, whole):
        with running([0]) as processes:
            serve(processes, spec_of(placed(place, version)))
            found.append(asked(processes, version, keys))
    assert found[0] == found[1]


KEYS = np.concatenate([np.arange(60, dtype=np.uint64), EDGES])


@pytest.mark.parametrize(
    "after",
    [
        pytest.param({}, id="all rows are gone"),
        pytest.param(dict.fromkeys(range(10), 1.0), id="no row has changed"),
        pytest.param(dict.fromkeys(range(10), 2.0), id="every row has changed"),
        pytest.param(dict.fromkeys(range(20, 30), 2.0), id="every row is another"),
        pytest.param(dict.fromkeys(range(1, 10), 1.0), id="key 0 is gone"),
        pytest.param({**dict.fromkeys(range(10), 1.0), 0: 7.0}, id="key 0 has changed"),
        pytest.param({int(each): 3.0 for each in EDGES}, id="the ends of the ring"),
    ],
)
@pytest.mark.parametrize("row_type", ["float32", "int8"])
def test_whatever_changed_is_answered_as_by_a_full_version(tmp_path: Path, after: Rows, row_type: str) -> None:
    folder, whole = tmp_path / "m", tmp_path / "whole" / "m"
    write(folder, 1, dict.fromkeys(range(10), 1.0), row_type=row_type)
    write(whole, 2, after, row_type=row_type)
    delta_of(folder / "1", whole / "2", folder / "2")
    same_answers(folder, 2, whole, KEYS)
    write(whole, 3, dict.fromkeys(range(10), 1.0), row_type=row_type)
    delta_of(folder / "2", whole / "3", folder / "3")
    same_answers(folder, 3, whole, KEYS)
    assert placed(folder, 3).tables["users"].deltas in (0, 2)


def test_a_chain_of_twenty(tmp_path: Path) -> None:
    folder, whole, rows = tmp_path / "m", tmp_path / "whole" / "m", dict.fromkeys(range(40), 1.0)
    write(folder, 1, rows)
    random = np.random.default_rng(0)
    for number in range(2, 22):
        for key in random.integers(0, 60, 8).tolist():
            rows.pop(key, None)
        rows |= dict.fromkeys(random.integers(0, 60, 8).tolist(), float(number))
        write(whole, number, rows)
        delta_of(folder / str(number - 1), whole / str(number), folder / str(number))
    assert placed(folder, 21).tables["users"].deltas == 20
    for number in (21, 11):
        same_answers(folder, number, whole, KEYS)


@pytest.mark.parametrize(("compacted_at", "lengths"), [(0, [1, 2, 3]), (3, [1, 0, 1, 2, 3])])
def test_a_delta_that_would_never_be_served_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compacted_at: int, lengths: list[int]
) -> None:
    """Those that have no rows of their own count, and after a compaction the count begins anew."""
    monkeypatch.setattr(manifest_chain, "MAX_CHAIN", 3)
    folder, last = tmp_path / "m", 1
    whole = write(folder, 1, {1: 1.0})
    for last, length in enumerate(lengths, 2):
        if last == compacted_at:
            compacted(folder, last, write(tmp_path / "whole" / "m", last, {1: 1.0}))
        else:
            delta_of(folder / str(last - 1), whole, folder / str(last))
        assert chain_length(placed(folder, last)) == length
    with pytest.raises(InvalidInput, match=rf"3 deltas, and the one that follows m/{last} would be one more: compact"):
        delta_of(folder / str(last), whole, folder / "20")
    with pytest.raises(InvalidInput, match=rf"follows m/{last} would be one more"):
        Following.of(folder, 20, last)
    assert sorted(int(path.name) for path in folder.iterdir()) == list(range(1, last + 1))


def test_a_chain_is_as_long_as_it_can_be_brought_up_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where each version was published in its turn, after one that was open."""
    folder = tmp_path / "m"
    write(folder, 1, {1: 1.0})
    spec = spec_of(placed(folder, 1))
    for number in range(2, 6):
        whole = write(tmp_path / "whole" / "m", number, {1: float(number)})
        delta_of(folder / str(number - 1), whole, folder / str(number))
        if number < 5:
            spec = published(spec, find_version(Publish(model="m", version=number), spec), keep=1)
    monkeypatch.setattr(manifest_chain, "MAX_CHAIN", 3)
    assert placed(folder, 4).tables["users"].deltas == 3
    for known in (spec, initial_spec([0], [placed(folder, 1)])):
        with pytest.raises(InvalidInput, match=r"a chain may have 3 deltas, and .* compact, or publish a full version"):
            find_version(Publish(model="m", version=5), known)


# -- manifests that somebody wrote -------------------------------------------------------------------------------------


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Version 1, a delta 2 of one table, while the other is as before."""
    folder = tmp_path / "m"
    write(folder, 1, dict.fromkeys(range(10), 1.0), items={1: 1.0})
    whole = write(tmp_path / "whole" / "m", 2, dict.fromkeys(range(5), 2.0), items={1: 1.0})
    delta_of(folder / "1", whole, folder / "2")
    return folder


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (put("lineage", "0" * 16), CorruptData, "lineage is 0000000000000000; that of m/1, which it follows, is"),
        (put("follows", "identity", "0" * 15 + "1"), OtherContent, "a delta of m/1 with the identity 0000000000000001"),
        (put("tables", 0, "spec", "dim", 8), CorruptData, "rows of table .* have 32 bytes; those of m/1, .* have 16"),
        (put("tables", 1, "spec", "dim", 8), CorruptData, "rows of table .* have 32 bytes; those of m/1, .* have 16"),
        (put("tables", 0, "spec", "row_type", "int8"), CorruptData, "no part of table|have .* bytes"),
        (put("tables", 0, "spec", "key_type", "string"), CorruptData, "it is no part of table|key_type"),
        (put("tables", 0, "spec", "name", "stranger"), CorruptData, "table stranger is a .* one, and m/1 has none"),
        (put("tables", 1, "spec", "name", "stranger"), CorruptData, "table stranger is a .* one, and m/1 has none"),
    ],
)
def test_a_manifest_that_lies_is_refused_by_name(
    models: Path, change: Callable[[Any], object], error: type[RingpullError], message: str
) -> None:
    rewrite(models / "2", change)
    spec = spec_of(placed(models, 1))
    with pytest.raises(error, match=message):
        find_version(Publish(model="m", version=2), spec)


def test_parts_that_are_exchanged_are_refused(models: Path) -> None:
    """The gone keys in place of rows, those of another table, rows in place of gone keys."""
    delta = models / "2"
    for path, other in (("tables/users", "gone/users"), ("gone/users", "tables/users")):
        kept = models / "kept"
        shutil.move(delta / path, kept)
        shutil.copytree(kept if path == other else delta / other, delta / path)
        with pytest.raises(CorruptData, match="it is no part of table users of m/2"):
            placed(models, 2)
        shutil.rmtree(delta / path)
        shutil.move(kept, delta / path)
    shutil.rmtree(delta / "tables" / "users")
    shutil.copytree(models / "1" / "tables" / "items", delta / "tables" / "users")
    with pytest.raises(CorruptData, match="it is no part of table users of m/2"):
        placed(models, 2)


def test_a_key_that_is_changed_and_gone_in_one_delta_is_the_same_everywhere(models: Path, tmp_path: Path) -> None:
    """No exporter writes that; rows go before."""
    both = write(tmp_path / "x" / "m", 1, dict.fromkeys(range(7), 5.0), items={1: 1.0})
    before = write(tmp_path / "x" / "m", 2, dict.fromkeys(range(3, 12), 5.0), items={1: 1.0})
    delta_of(both, before, tmp_path / "x" / "m" / "3")
    assert (tmp_path / "x" / "m" / "3" / "gone" / "users").exists()
    shutil.rmtree(models / "2" / "gone" / "users")
    shutil.copytree(tmp_path / "x" / "m" / "3" / "gone" / "users", models / "2" / "gone" / "users")
    with running([0]) as processes:
        serve(processes, spec_of(placed(models, 2)))
        rows, _ = asked(processes, 2, np.arange(12, dtype=np.uint64))
    from_disk = tmp_path / "whole" / "m" / "9"
    delta_of(models / "1", models / "2", models / "4")
    with running([0]) as processes:
        serve(processes, spec_of(placed(models, 4)))
        again, _ = asked(processes, 4, np.arange(12, dtype=np.uint64))
    assert rows == again
    assert not from_disk.exists()


@pytest.mark.parametrize("url", [False, True])
def test_of_the_versions_that_one_follows_only_tables_are_read(tmp_path: Path, url: bool) -> None:
    """Their programs are not served, and may be large: copied from a URL they would lie there all at once."""
    folder = tmp_path / "m"
    whole = write_version(folder, 1)
    for number in (2, 3, 4):
        delta_of(folder / str(number - 1), whole, folder / str(number))
    for number in (1, 2, 3):
        for name in ("dense.pt2", "schema.json"):
            (folder / str(number) / name).write_bytes(b"damaged")
    where, files = "memory://followed/m" if url else str(folder), fsspec.filesystem("memory")
    if url:
        files.put(str(folder), "/followed/m", recursive=True)

    def find(version: int) -> PlacedVersion:
        return find_versions(ModelSource(name="m", folder=where, versions=(version,)))[0]

    try:
        assert [link.version for link in find(4).chain] == [1, 2, 3]
        for damaged in (1, 3):
            with pytest.raises(CorruptData, match=r"dense\.pt2|schema\.json"):
                find(damaged)
    finally:
        if url:
            files.rm("/followed", recursive=True)
    with pytest.raises(CorruptData, match=r"dense\.pt2|schema\.json"):
        delta_of(folder / "3", whole, folder / "9")  # this one is read by the exporter itself


def test_how_a_table_is_deployed_is_the_version_befores_where_nobody_says(tmp_path: Path) -> None:
    """A policy that went back to its default would fail requests that were answered, from the next hour on."""
    folder, rows = tmp_path / "m", (np.arange(9), np.ones((9, 4), np.float32))

    def export(folder: Path, version: int, **options: TableOptions) -> Path:
        return export_tables({"said": rows, "more": rows}, folder, version, options=options, quiet=True).path

    chosen = TableOptions(replicas="all", on_unavailable="default")
    export(folder, 1, said=chosen, more=chosen)
    whole = export(tmp_path / "whole" / "m", 2)
    delta_of(folder / "1", whole, folder / "2")
    for name, table in placed(folder, 2).tables.items():
        assert (table.replicas, table.on_unavailable) == ("all", OnUnavailable.DEFAULT), name
    other = export(tmp_path / "whole" / "m", 3, more=TableOptions(replicas=2))
    delta_of(folder / "2", other, folder / "3")
    found = {name: (each.replicas, each.on_unavailable) for name, each in placed(folder, 3).tables.items()}
    assert found == {"said": ("all", OnUnavailable.DEFAULT), "more": (2, OnUnavailable.DEFAULT)}
    # Its files are those of version 1, with what that said of copies in their headers.
    following = Manifest.load(folder / "3")
    shutil.copytree(folder / "1" / "tables", folder / "4" / "tables")
    tables = tuple(replace(each, path=f"tables/{each.spec.name}", kind=TableKind.FULL) for each in following.tables)
    chain = replace(following.chain, follows=Follows(3, following.identity))
    replace(following, version=4, tables=tables, chain=chain, samples=None).save(folder / "4")
    assert {each.spec.replicas for each in read_version(str(folder / "4"), verify=True).tables} == {"all"}
    wrong = tuple(replace(each, rows=8) for each in tables)
    replace(following, version=4, tables=wrong, chain=chain, samples=None).save(folder / "4")
    with pytest.raises(CorruptData, match="the manifest says 8"):
        read_version(str(folder / "4"), verify=True)


def test_tables_that_a_delta_brings_or_leaves_out(models: Path, tmp_path: Path) -> None:
    """`ringpull delta` refuses that; a manifest that has it is served for what it says."""
    more = write(tmp_path / "more" / "m", 3, {1: 3.0}, items={1: 1.0}, extra={4: 4.0})
    with pytest.raises(ExportError, match="table extra: m/2, which is followed, has no such table"):
        delta_of(models / "2", more, models / "3")
    less = write(tmp_path / "less" / "m", 3, {1: 3.0})
    with pytest.raises(ExportError, match="table items: m/2, which is followed, has one, and this version has none"):
        delta_of(models / "2", less, models / "3")
    one = write(tmp_path / "one" / "m", 3, dict.fromkeys(range(5), 2.0), items={1: 1.0})
    delta_of(models / "2", one, models / "3")
    shutil.copytree(more / "tables" / "extra", models / "3" / "tables" / "extra")
    extra = Manifest.load(more).table("extra")
    manifest = Manifest.load(models / "3")
    users = manifest.table("users")
    replace(manifest, tables=(users, extra)).save(models / "3")
    with running([0]) as processes:
        serve(processes, spec_of(placed(models, 2), placed(models, 3)))
        keys = np.arange(12, dtype=np.uint64)
        assert asked(processes, 3, keys) == asked(processes, 2, keys)
        assert asked(processes, 3, keys, "extra")[1] == [int(each == 4) for each in range(12)]
        with pytest.raises(RingpullError, match="there is no table 'items'"):
            asked(processes, 3, keys, "items")


# -- chains that go on behind a full version ---------------------------------------------------------------------------


def compacted(folder: Path, version: int, whole: Path) -> None:
    """Write the full version that a compaction makes: of the lineage of the one before, which it follows."""
    before = Manifest.load(folder / str(version - 1))
    shutil.copytree(whole, folder / str(version))
    manifest = Manifest.load(folder / str(version))
    chain = Chain(Follows(version - 1, before.identity), before.chain.lineage or before.identity, {0: 77})
    assert all(entry.kind is TableKind.FULL for entry in manifest.tables)
    replace(manifest, chain=chain).save(folder / str(version))


def test_a_delta_after_a_compaction(models: Path, tmp_path: Path) -> None:
    whole = write(tmp_path / "whole" / "m", 3, dict.fromkeys(range(5), 2.0), items={1: 1.0})
    compacted(models, 3, whole)
    write(tmp_path / "whole" / "m", 4, dict.fromkeys(range(2, 7), 4.0), items={1: 9.0})
    delta_of(models / "3", tmp_path / "whole" / "m" / "4", models / "4")
    spec = spec_of(placed(models, 2))
    first = Manifest.load(models / "1").identity
    for keep, number in ((1, 3), (0, 4)):
        spec = published(spec, find_version(Publish(model="m", version=number), spec), keep=keep)
        assert spec.live == {"m": number}
        assert spec.versions[-1].lineage == first
    shutil.rmtree(models / "1")
    shutil.rmtree(models / "2")
    assert {part.version for part in placed(models, 4).tables["users"].parts} == {4}
    same_answers(models, 4, tmp_path / "whole" / "m", KEYS)


def test_a_compaction_of_another_branch_cannot_go_live(models: Path, tmp_path: Path) -> None:
    """It was made of version 2; what 5 brought, which is live, is not in it."""
    whole = write(tmp_path / "whole" / "m", 3, dict.fromkeys(range(5), 2.0), items={1: 1.0})
    compacted(models, 3, whole)
    spec = spec_of(placed(models, 1))
    delta_of(models / "1", whole, models / "5")
    spec = published(spec, find_version(Publish(model="m", version=5), spec), keep=1)
    with pytest.raises(InvalidInput, match="what that brought would be gone"):
        published(spec, find_version(Publish(model="m", version=3), spec), keep=1)


@pytest.mark.parametrize("how", ["open", "on disk", "gone"])
def test_what_is_in_a_version_that_was_compacted_twice(models: Path, tmp_path: Path, how: str) -> None:
    """It is known from what is open, or from the others' folders; where neither tells, going forward is refused."""
    whole = tmp_path / "whole" / "m"
    for number in (3, 4, 5):
        write(whole, number, dict.fromkeys(range(5), float(number)), items={1: 1.0})
    compacted(models, 3, whole / "3")
    delta_of(models / "3", whole / "4", models / "4")
    four = placed(models, 4)
    compacted(models, 5, whole / "5")
    spec = spec_of(placed(models, 2))
    if how != "on disk":
        shutil.rmtree(models / "3")
        shutil.rmtree(models / "4")
    if how == "open":
        spec = replace(spec, versions=(*spec.versions, four))
    five = find_version(Publish(model="m", version=5), spec)
    assert [link.version for link in five.chain] == [4]
    assert [link.version for link in five.ancestors] == ([] if how == "gone" else [1, 2, 3])
    if how == "gone":
        with pytest.raises(InvalidInput, match="put what m/4 follows beside it"):
            published(spec, five, keep=1)
    else:
        assert published(spec, five, keep=1).live == {"m": 5}


# -- orders ------------------------------------------------------------------------------------------------------------


def test_versions_are_published_kept_and_retired_in_any_order(models: Path, tmp_path: Path) -> None:
    """At a shard with copies of its own: what is open is always answered, and right; what is not is refused."""
    whole = tmp_path / "whole" / "m"
    write(whole, 1, dict.fromkeys(range(10), 1.0), items={1: 1.0})
    for number in (3, 4):
        write(whole, number, {each: float(number) for each in range(number, 20)}, items={1: 1.0})
        delta_of(models / str(number - 1), whole / str(number), models / str(number))
    keys = np.arange(25, dtype=np.uint64)
    truth = {}
    for number in (1, 2, 3, 4):
        with running([0]) as processes:
            serve(processes, spec_of(placed(whole, number)))
            truth[number] = asked(processes, number, keys)
    random = np.random.default_rng(3)
    with running([0], tmp_path / "data") as processes:
        for epoch in range(1, 25):
            opened = [number for number in (1, 2, 3, 4) if random.random() < 0.5] or [4]
            spec = spec_of(*(placed(models, number) for number in opened))
            serve(processes, spec, epoch)
            wait_tidied(processes[0])
            for number in (1, 2, 3, 4):
                if number in opened:
                    assert asked(processes, number, keys) == truth[number], (epoch, opened, number)
                else:
                    with pytest.raises(RingpullError):
                        asked(processes, number, keys)


def test_the_middle_of_a_chain_is_never_another_one(models: Path, tmp_path: Path) -> None:
    """The delta in the middle is exported anew, while it is kept open and after it was let go."""
    write(tmp_path / "whole" / "m", 3, dict.fromkeys(range(5), 3.0), items={1: 1.0})
    delta_of(models / "2", tmp_path / "whole" / "m" / "3", models / "3")
    second, third = placed(models, 2), placed(models, 3)
    shutil.rmtree(models / "2")
    delta_of(models / "1", write(tmp_path / "again" / "m", 2, {7: 7.0}, items={1: 1.0}), models / "2")
    assert "other content now" in loss_of(second)
    assert f"table users of m/3 in {models / '2'}" in loss_of(third)
    spec = replace(spec_of(second, third), live={"m": 3})
    for known in (spec, spec_of(third)):
        with pytest.raises(OtherContent, match="m/2"):
            published(known, find_version(Publish(model="m", version=2), known), keep=1)
    with pytest.raises(OtherContent, match="is a delta of m/2 with the identity"):
        placed(models, 3)


def test_one_number_with_two_contents_one_after_the_other(models: Path, tmp_path: Path) -> None:
    """A delta that was bad is exported again under its number, once it is closed. Copies of the first are not taken."""
    keys = np.arange(25, dtype=np.uint64)
    with running([0], tmp_path / "data") as processes:
        second = placed(models, 2)
        serve(processes, spec_of(placed(models, 1), second))
        first = asked(processes, 2, keys)
        shutil.rmtree(models / "2")
        whole = write(tmp_path / "again" / "m", 2, dict.fromkeys(range(3, 9), 6.0), items={1: 1.0})
        delta_of(models / "1", whole, models / "2")
        spec = spec_of(placed(models, 1), second)
        for known in (spec, replace(spec, live={"m": 1})):
            with pytest.raises(OtherContent):
                published(known, find_version(Publish(model="m", version=2), known), keep=1)
        serve(processes, spec_of(placed(models, 1)), 2)
        alone: DeploymentSpec = spec_of(placed(models, 1))
        spec = published(alone, find_version(Publish(model="m", version=2), alone), keep=1)
        serve(processes, spec, 3)
        found = asked(processes, 2, keys)
    assert found != first
    with running([0]) as processes:
        serve(processes, spec_of(placed(tmp_path / "again" / "m", 2)))
        assert asked(processes, 2, keys) == found
