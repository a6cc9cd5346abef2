"""Delta versions at shards: whatever a version is made of, it answers as a full export of the merged rows, bit for bit.

Versions are written, found, placed, opened or copied, and pulled as in a deployment, but without Ray.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ringpull.deploy.model_folders import find_version, find_versions
from ringpull.inference.export.delta.versions import delta_of
from ringpull.inference.export.table_options import TableOptions
from ringpull.inference.export.tables_alone import export_tables
from ringpull.ps.damage import Damage
from ringpull.ps.errors import InvalidInput, NotFound, OtherContent
from ringpull.ps.hashing import SLOT_SHIFT, SLOTS, positions_of
from ringpull.ps.process import ShardProcess
from ringpull.ps.pull_messages import Op
from ringpull.ps.ring import Ring
from ringpull.ps.wire.messages import DescribeRequest, RangePullRequest
from ringpull.router.control.changes import published
from ringpull.router.control.deployment_spec import DeploymentSpec, PlacedVersion, initial_spec
from ringpull.router.control.operations import ModelSource, Publish
from ringpull.router.control.placements import StreamSources, placements_of
from ringpull.router.shard_map import ShardAddress
from tests.ps.damaging import flip
from tests.ps.tables import pull_request, pulled

KEYS = 3000


@dataclass
class Written:
    """Versions 1 to 3 of a model: a full one, and two deltas; and full exports of the same."""

    folder: Path
    whole: Path
    is_bytes: bool
    gone: NDArray[np.uint64]

    def placed(self, number: int, whole: bool = False) -> PlacedVersion:
        [found] = find_versions(
            ModelSource(name="m", folder=str(self.whole if whole else self.folder), versions=(number,))
        )
        return found


def rows_of(seed: int, keys: NDArray[np.uint64], row_type: str) -> Any:
    random = np.random.default_rng(seed)
    if row_type == "bytes":
        return [random.bytes(length) for length in random.integers(8, 40, len(keys))]
    return random.normal(size=(len(keys), 6)).astype(np.float32)


@pytest.fixture(scope="module", params=["float32", "int8", "bytes"])
def written(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Written:
    folder, row_type = tmp_path_factory.mktemp(request.param), request.param
    keys = np.random.default_rng(7).integers(0, 2**64, KEYS, np.uint64)
    rows = dict(zip(keys.tolist(), rows_of(0, keys, row_type), strict=True))
    options = {} if row_type == "bytes" else {"users": TableOptions(row_type=row_type)}

    def export(number: int) -> None:
        now = np.array(list(rows), np.uint64)
        values = list(rows.values())
        given = (now, values if row_type == "bytes" else np.array(values, np.float32))
        fixed = (np.arange(5), np.ones((5, 2), np.float32))
        export_tables({"users": given, "fixed": fixed}, folder / "whole" / "m", number, options=options, quiet=True)

    export(1)
    gone = []
    for number in (2, 3):
        some = np.random.default_rng(number).choice(np.array(list(rows), np.uint64), 400, replace=False)
        fresh = np.random.default_rng(number + 10).integers(0, 2**64, 150, np.uint64)
        went, changed = some[:100], np.concatenate([some[100:], fresh, *([gone[0][:30]] if gone else [])])
        for key in went.tolist():
            del rows[key]
        rows.update(zip(changed.tolist(), rows_of(number, changed, row_type), strict=True))
        gone.append(went)
        export(number)
    (folder / "m").mkdir()
    shutil.copytree(folder / "whole" / "m" / "1", folder / "m" / "1")
    for number in (2, 3):
        delta_of(folder / "m" / str(number - 1), folder / "whole" / "m" / str(number), folder / "m" / str(number))
    asked = np.unique(np.concatenate([keys, *gone, np.array(list(rows), np.uint64), np.arange(20, dtype=np.uint64)]))
    return Written(folder / "m", folder / "whole" / "m", row_type == "bytes", asked)


def spec_of(*versions: PlacedVersion, shards: int = 1, replicas: int = 1) -> DeploymentSpec:
    spec = initial_spec(range(shards), versions[:1])
    return spec.with_models(versions, {"m": versions[-1].version}, {})


@contextmanager
def running(shards: Sequence[int], data: Path | None = None) -> Iterator[dict[int, ShardProcess]]:
    processes = {each: ShardProcess(each, data_dir=data, tidy_after_s=0.0, metrics=False) for each in shards}
    try:
        yield processes
    finally:
        for each in processes.values():
            each.stop()


def serve(
    processes: dict[int, ShardProcess], spec: DeploymentSpec, epoch: int = 1, sources: StreamSources | None = None
) -> None:
    for shard, process in processes.items():
        process.prepare(placements_of(shard, [spec], sources))
    for process in processes.values():
        named = {(each.model, each.version): each.identity for each in spec.versions}
        process.assign(epoch, [spec.served_ranges], named)


def answers(
    processes: dict[int, ShardProcess], ring: Ring, keys: NDArray[np.uint64], version: int, *, bytes_: bool
) -> Any:
    """Return what all shards answer for the keys, each for its own: rows end to end, found, and sums of bags of 3."""
    slots = (positions_of(keys) >> np.uint64(SLOT_SHIFT)).astype(np.int64)
    found = []
    for shard, process in processes.items():
        own = keys[ring.owned_mask(shard, 1)[slots] != 0]
        own = own[: len(own) // 3 * 3]
        wanted = [("users", Op.ROWS, own, (), None), ("fixed", Op.ROWS, np.empty(0, np.uint64), (), None)]
        if not bytes_:
            wanted.append(("users", Op.SUM, own, [3] * (len(own) // 3), None))
        reply = process._shard.pull(pull_request(wanted, model="m", version=version))
        found.append((pulled(reply), reply.found.tolist(), reply.missing.tolist()))
    return found


def expected(written: Written, spec: DeploymentSpec, number: int) -> Any:
    """Return what a full export of the same rows answers."""
    whole = written.placed(number, whole=True)
    with running(spec.shards) as processes:
        serve(processes, replace(spec, versions=(whole,), live={"m": number}))
        return answers(processes, spec.ring, written.gone, number, bytes_=written.is_bytes)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("copied", [False, True])
def test_base_and_deltas_are_one_full_export(written: Written, tmp_path: Path, shards: int, copied: bool) -> None:
    spec = spec_of(*(written.placed(number) for number in (1, 2, 3)), shards=shards)
    with running(spec.shards, tmp_path if copied else None) as processes:
        serve(processes, spec)
        for number in (1, 2, 3):
            found = answers(processes, spec.ring, written.gone, number, bytes_=written.is_bytes)
            assert found == expected(written, spec, number), number
        if copied:
            bases = sorted(str(path.relative_to(tmp_path / "shard-0")) for path in tmp_path.glob("shard-0/m/*/*"))
            assert bases == [
                "m/1/fixed",
                "m/1/users",
                "m/2/users+2",
                "m/2/users+2+gone",
                "m/3/users+3",
                "m/3/users+3+gone",
            ]


def test_parts_are_mapped_once(written: Written) -> None:
    spec = spec_of(*(written.placed(number) for number in (1, 2, 3)))
    with running([0]) as processes:
        serve(processes, spec)
        shard = processes[0]._shard
        assert shard.bases("m", 3).keys() == {"users", "users+2", "users+2+gone", "users+3", "users+3+gone", "fixed"}
        for number, name in ((1, "users"), (2, "users"), (2, "users+2"), (1, "fixed")):
            one, other = (shard.bases("m", each)[name] for each in (number, 3))
            assert one is not other
            assert one.sections is other.sections
        opened = shard._state.versions["m", 3]
        assert opened.lineage == int(spec.versions[0].identity, 16)
        told = shard.files(files_request(3))
        assert [each.table for each in told.tables] == ["fixed"], "a table with deltas is asked of shards"


def files_request(version: int) -> Any:
    from ringpull.ps.wire.files_messages import FilesRequest

    return FilesRequest("m", version)


@pytest.mark.parametrize("copied", [False, True])
def test_folders_may_go_once_they_are_open(written: Written, tmp_path: Path, copied: bool) -> None:
    folder = tmp_path / "models" / "m"
    shutil.copytree(written.folder, folder)
    data = tmp_path / "data" if copied else None
    with running([0], data) as processes:
        [first] = find_versions(ModelSource(name="m", folder=str(folder), versions=(1,)))
        spec = spec_of(first)
        serve(processes, spec)
        spec = published(spec, find_version(Publish(model="m", version=2), spec), keep=1)
        serve(processes, spec, 2)
        shutil.rmtree(folder / "1")
        shutil.rmtree(folder / "2")
        spec = published(spec, find_version(Publish(model="m", version=3), spec), keep=0)
        assert [each.name for each in spec.versions] == ["m/3"]
        serve(processes, spec, 3)
        wait_tidied(processes[0])
        found = answers(processes, spec.ring, written.gone, 3, bytes_=written.is_bytes)
        assert found == expected(written, spec, 3)
        with pytest.raises(NotFound):
            answers(processes, spec.ring, written.gone, 2, bytes_=written.is_bytes)
    if data is not None:
        with running([0], data) as processes:
            serve(processes, spec)
            assert answers(processes, spec.ring, written.gone, 3, bytes_=written.is_bytes) == found


def wait_tidied(process: ShardProcess) -> None:
    if process._tidying is not None:
        process._tidying.join()


def test_new_owners_are_streamed_every_part(written: Written, tmp_path: Path) -> None:
    """The folders are out of reach by then: the others stream what they have."""
    folder = tmp_path / "models" / "m"
    shutil.copytree(written.folder, folder)
    versions = [find_versions(ModelSource(name="m", folder=str(folder), versions=(number,)))[0] for number in (2, 3)]
    spec = spec_of(*versions, shards=2)
    with running([0, 1, 2], tmp_path / "data") as processes:
        old = {shard: processes[shard] for shard in (0, 1)}
        serve(old, spec)
        shutil.rmtree(folder)
        after = DeploymentSpec(spec.ring.with_shards([0, 1, 2]), spec.replicas, spec.versions, spec.live)
        live = {
            shard: ShardAddress(shard, *each.address(), each.heartbeat().incarnation) for shard, each in old.items()
        }
        for shard, process in processes.items():
            process.prepare(placements_of(shard, [spec, after] if shard < 2 else [after], StreamSources(spec, live)))
        for process in processes.values():
            process.assign(2, [after.served_ranges], {("m", each.version): each.identity for each in after.versions})
            wait_tidied(process)
        for number in (2, 3):
            found = answers(processes, after.ring, written.gone, number, bytes_=written.is_bytes)
            assert found == expected(written, after, number)


def test_parts_are_described_and_streamed_by_name(written: Written) -> None:
    spec = spec_of(written.placed(3))
    with running([0]) as processes:
        serve(processes, spec)
        shard = processes[0]._shard
        part = next(each for each in spec.versions[0].tables["users"].parts if each.version == 2 and not each.gone)
        told = shard.describe(DescribeRequest("m", 3, "users+2", 0, SLOTS, identity=part.identity))
        assert (told.identity, told.rows) == (part.identity, part.rows)
        block = shard.range_pull(RangePullRequest("m", 3, "users+2+gone", 0, SLOTS, 0, 1 << 20))
        assert len(block.positions) == 100
        with pytest.raises(NotFound, match="there is no part 'users\\+7'"):
            shard.describe(DescribeRequest("m", 3, "users+7", 0, SLOTS))
        with pytest.raises(OtherContent):
            shard.describe(DescribeRequest("m", 3, "users+2", 0, SLOTS, identity=1))


def test_damage_of_a_part_is_refused_for_its_slots_alone(written: Written, tmp_path: Path) -> None:
    folder = tmp_path / "models" / "m"
    shutil.copytree(written.folder, folder)
    [third] = find_versions(ModelSource(name="m", folder=str(folder), versions=(3,)))
    with running([0]) as processes:
        serve(processes, spec_of(third))
        process = processes[0]
        shard, key = process._shard, ("m", 3, "users+2")
        base = shard.base(key)
        assert base is not None
        flip(folder / "2" / "tables" / "users" / "rows", 100)
        damage: Damage = process._damage
        bad = base.verify()
        assert bad
        damage.note(shard, key, base, [(each.file, each.block) for each in bad], bad)
        table = shard._state.versions["m", 3].tables["users"].table
        assert [(each.begin, each.end) for each in table.unanswered()] == [bad[0].slots]
        assert shard._state.versions["m", 3].tables["fixed"].table.unanswered() == []
        assert "users+2" in process.heartbeat().warnings[0]
        damage.note(shard, key, base, [(each.file, each.block) for each in bad], [])
        assert shard._state.versions["m", 3].tables["users"].table.unanswered() == []


@pytest.mark.parametrize("shards", [1, 3])
def test_a_row_that_was_changed_is_counted_once(written: Written, shards: int) -> None:
    spec = spec_of(written.placed(3), shards=shards)
    with running(spec.shards) as processes:
        serve(processes, spec)
        told = [(each.table, each.rows) for process in processes.values() for each in process.statistics().tables]
    rows = {name: sum(count for table, count in told if table == name) for name in ("users", "fixed")}
    assert rows == {"users": written.placed(3, whole=True).tables["users"].rows, "fixed": 5}
    placed = spec.versions[0].tables["users"]
    assert placed.newer_rows == 2 * (300 + 150 + 100) + 30


# -- what is refused ---------------------------------------------------------------------------------------------------


def copied(written: Written, tmp_path: Path) -> Path:
    folder = tmp_path / "m"
    shutil.copytree(written.folder, folder)
    return folder


def remove_first(folder: Path) -> None:
    shutil.rmtree(folder / "1")


def exchange_first(folder: Path) -> None:
    shutil.rmtree(folder / "1")
    export_tables({"users": ([1], [b"a"]), "fixed": ([1], [b"b"])}, folder, 1, quiet=True)


def remove_middle(folder: Path) -> None:
    shutil.rmtree(folder / "2")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (remove_first, InvalidInput, r"m/2 in .* is a delta of m/1 \([0-9a-f]{16}\), which is not there"),
        (remove_middle, InvalidInput, r"m/3 in .* is a delta of m/2 \([0-9a-f]{16}\), which is not there"),
        (exchange_first, OtherContent, r"m/2 in .* is a delta of m/1 with the identity [0-9a-f]{16}, and m/1 in"),
    ],
)
def test_chains_that_are_not_whole(
    written: Written, tmp_path: Path, change: Callable[[Path], None], error: type[Exception], message: str
) -> None:
    folder = copied(written, tmp_path)
    change(folder)
    with pytest.raises(error, match=message):
        find_versions(ModelSource(name="m", folder=str(folder), versions=(3,)))


def test_two_deltas_of_one_version_do_not_follow_each_other(written: Written, tmp_path: Path) -> None:
    folder = copied(written, tmp_path)
    delta_of(folder / "1", written.whole / "3", folder / "4")
    first, second, third, fourth = (
        find_versions(ModelSource(name="m", folder=str(folder), versions=(number,)))[0] for number in (1, 2, 3, 4)
    )
    spec = published(published(spec_of(first), second, keep=2), third, keep=2)
    with pytest.raises(InvalidInput, match="m/4 follows m/1, and m/3, which is live, is not among what it is made of"):
        published(spec, fourth, keep=2)
    assert published(published(spec, first, keep=2), fourth, keep=2).live == {"m": 4}


def test_a_stale_trainer_does_not_bring_back_an_old_lineage(written: Written, tmp_path: Path) -> None:
    folder = copied(written, tmp_path)
    export_tables({"users": ([1], [b"a"]), "fixed": ([1], [b"b"])}, folder, 9, quiet=True)
    delta_of(folder / "2", written.whole / "3", folder / "10")
    second, ninth, tenth = (
        find_versions(ModelSource(name="m", folder=str(folder), versions=(number,)))[0] for number in (2, 9, 10)
    )
    spec = published(spec_of(second), ninth, keep=1)
    with pytest.raises(InvalidInput, match=r"m/10 follows m/2, of the lineage .* m/9, which is live, is of"):
        published(spec, tenth, keep=1)
    assert published(published(spec, second, keep=1), tenth, keep=1).live == {"m": 10}


def test_one_number_is_one_version_in_all_chains(written: Written, tmp_path: Path) -> None:
    export_tables({"users": ([1], [b"a"]), "fixed": ([1], [b"b"])}, tmp_path / "m", 1, quiet=True)
    [first] = find_versions(ModelSource(name="m", folder=str(tmp_path / "m"), versions=(1,)))
    with pytest.raises(OtherContent, match=r"m/1 is made of m/1 with the identity .*, and m/2, which is open, of one"):
        published(spec_of(written.placed(2)), first, keep=1)
