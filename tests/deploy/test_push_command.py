"""`ringpull push`: what it sends of which file, how it goes on after a kill, and what it refuses."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ringpull.deploy import push_journal
from ringpull.deploy.push_journal import PushJournal
from ringpull.deploy.pushed_file import open_file
from ringpull.inference.client import lanes
from ringpull.inference.head.frontends.writer.messages import decode_push
from ringpull.inference.importers.tables.source import ReadOptions
from ringpull.inference.proto import writer_pb2 as pb
from ringpull.inference.proto.ringpull_pb2 import TableInfo
from ringpull.inference.push_answer import PushAnswer
from ringpull.ps.errors import Forbidden, InvalidInput, Unavailable, UnmetCondition
from tests.deploy.running import Run
from tests.guarded import GuardedHead, guarded_head
from tests.inference.pushes.fake_shards import FakeShards

pytestmark = pytest.mark.net


@pytest.fixture
def shards() -> FakeShards:
    return FakeShards()


@pytest.fixture
def head(shards: FakeShards) -> Iterator[GuardedHead]:
    with guarded_head(token="") as head:
        head.push = shards.answer
        yield head


def parquet(folder: Path, keys: Any, values: Any, name: str = "rows.parquet") -> Path:
    vectors = pa.array([[each] for each in np.asarray(values, np.float32)], pa.list_(pa.float32()))
    pq.write_table(pa.table({"id": pa.array(keys), "vector": vectors}), folder / name)
    return folder / name


def rows_of(shards: FakeShards) -> dict[int, float | None]:
    return {key: None if row is None else float(np.frombuffer(row, "<f4")[0]) for (_, key), row in shards.rows.items()}


def of_second_half(message: pb.PushRequest) -> bool:
    """Whether a message has any of the last half of 2,000 rows, which never go out with the first block."""
    return bool(np.max(np.asarray(decode_push(message).rows).view("<f4"), initial=0.0) >= 1000)


def dies_halfway(shards: FakeShards, message: pb.PushRequest) -> PushAnswer:
    """Answer for rows of the first half, in however many messages they come.

    Raises:
        Forbidden: A row of the second half is among them; it is not tried again.
    """
    if of_second_half(message):
        raise Forbidden("not now")
    return shards.answer(message)


def test_rows_of_files_are_pushed(ringpull: Run, head: GuardedHead, shards: FakeShards, tmp_path: Path) -> None:
    file = parquet(tmp_path, [1, 2, 2], [0.5, 1.5, 2.5])
    ran = ringpull("push", "ranker", "items", file, "--id", "id", "--vector", "vector", "--target", head.target)
    assert ran.status == 0, ran.err
    assert rows_of(shards) == {1: 0.5, 2: 2.5}
    assert "3 rows written to ranker/items; stamp " in ran.out
    assert "Parquet, 1 file, 3 rows" in ran.err
    np.savez(tmp_path / "rows.npz", id=np.array([3]), vector=np.array([[7.0]], np.float32))
    (tmp_path / "rows.csv").write_text("id,v0\n4,8.5\n")
    for name, rows in (("rows.npz", 1), ("rows.csv", 1)):
        ran = ringpull("push", "ranker", "items", tmp_path / name, "--json", "--target", head.target)
        assert ran.status == 0, ran.err
        told = json.loads(ran.out)
        assert (told["rows"], told["new_keys"], told["blocks"], told["lineage"]) == (rows, 1, 1, "0000000000000007")
    assert rows_of(shards) == {1: 0.5, 2: 2.5, 3: 7.0, 4: 8.5}


def test_keys_are_taken_out(ringpull: Run, head: GuardedHead, shards: FakeShards, tmp_path: Path) -> None:
    ringpull("push", "ranker", "items", parquet(tmp_path, [1, 2, 3, 4], [1, 2, 3, 4]), "--target", head.target)
    (tmp_path / "gone.txt").write_text("1\n2\n")
    ran = ringpull("push", "ranker", "items", tmp_path / "gone.txt", "--remove", "--target", head.target)
    assert ran.status == 0, ran.err
    assert "2 keys taken out of ranker/items" in ran.out
    ran = ringpull(
        "push", "ranker", "items", parquet(tmp_path, [4], [4], "4.parquet"), "--remove", "--target", head.target
    )
    assert ran.status == 0, ran.err
    assert rows_of(shards) == {1: None, 2: None, 3: 3.0, 4: None}


@pytest.mark.parametrize("name", ["gone.txt", "gone.npy"])
def test_the_first_key_to_take_out_is_told_as_people_write_it(tmp_path: Path, name: str) -> None:
    np.save(tmp_path / "gone.npy", np.array([7, 8]))
    (tmp_path / "gone.txt").write_text("7\n8\n")
    opened = open_file(str(tmp_path / name), ReadOptions(), remove=True, table=None)
    assert opened.described.endswith("2 keys, integers, the first 7")


def test_lines_of_several_columns_are_no_keys_to_take_out(tmp_path: Path) -> None:
    """Each line would be a key that no row has, and the command would say that it took them out."""
    path = tmp_path / "gone.csv"
    table = TableInfo(name="names", dim=1, key_type="string", live=True)
    path.write_text("name,why\na,left\nb,left\n")
    with pytest.raises(InvalidInput, match="several columns, such as 'name,why'; say which one has the keys"):
        open_file(str(path), ReadOptions(), remove=True, table=table)
    assert open_file(str(path), ReadOptions(id="name"), remove=True, table=table).described.endswith("strings")
    path.write_text("name\na\n")  # nothing tells that this begins with a column's name, so it is shown
    assert (
        "gone.csv: 2 keys, strings, the first 'name'"
        in open_file(str(path), ReadOptions(), remove=True, table=table).described
    )
    as_it_is = path.rename(tmp_path / "gone.txt")
    as_it_is.write_text("a,b\n")
    assert open_file(str(as_it_is), ReadOptions(), remove=True, table=table).rows == 1


ITEMS = TableInfo(name="items", dim=1, key_type="int64", live=True)


def test_keys_below_the_name_of_their_column_are_taken_out(tmp_path: Path) -> None:
    path = tmp_path / "gone.csv"
    path.write_text("id\n7\n8\n")
    with pytest.raises(InvalidInput, match=r"first line is 'id', and all others are integers; .* --id id$"):
        open_file(str(path), ReadOptions(), remove=True, table=ITEMS)
    opened = open_file(str(path), ReadOptions(id="id"), remove=True, table=ITEMS)
    assert [block.keys.tolist() for block in opened.blocks()] == [[7, 8]]
    with pytest.raises(InvalidInput, match=r"there is no column 'key'; its only one is called \['id'\]"):
        open_file(str(path), ReadOptions(id="key"), remove=True, table=ITEMS)


@pytest.mark.parametrize("column", [None, "id"])
def test_a_parquet_of_keys_alone_is_taken_out(tmp_path: Path, column: str | None) -> None:
    path, names = tmp_path / "gone.parquet", TableInfo(name="names", dim=1, key_type="string", live=True)
    for keys, table in (([7, 8], ITEMS), (["a", "b"], names)):
        pq.write_table(pa.table({"id": keys}), path)
        opened = open_file(str(path), ReadOptions(id=column), remove=True, table=table)
        assert [block.keys.tolist() for block in opened.blocks()] == [keys]
    with pytest.raises(InvalidInput, match="there is no column 'key'; its columns are id"):
        open_file(str(path), ReadOptions(id="key"), remove=True, table=names)


def test_parts_of_keys_of_several_types_are_not_put_together(tmp_path: Path) -> None:
    """They would be floats to numpy, and keys beyond 2^53 other ones."""
    for part, kind in enumerate((pa.int64(), pa.uint64())):
        pq.write_table(pa.table({"id": pa.array([7], kind)}), tmp_path / f"gone-{part}.parquet")
    with pytest.raises(InvalidInput, match=r"gone-1\.parquet: its keys are of another type"):
        open_file(str(tmp_path / "gone-*.parquet"), ReadOptions(), remove=True, table=ITEMS)


def test_a_push_that_was_cut_off_goes_on_and_repeats_nothing(
    ringpull: Run, head: GuardedHead, shards: FakeShards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ringpull.inference.importers.tables import parquet as reader

    monkeypatch.setattr(reader, "PIECE_BYTES", 400)  # 100 rows a block
    keys, values = np.arange(2000) % 700, np.arange(2000)
    file = parquet(tmp_path, keys, values)

    def dies(message: pb.PushRequest) -> PushAnswer:
        if of_second_half(message):
            shards.down.add(1)
        return dies_halfway(shards, message)

    head.push = dies
    arguments = ("push", "ranker", "items", file, "--target", head.target)
    ran = ringpull(*arguments)
    assert ran.status == 1
    assert "of table items: " in ran.err
    assert re.search(r"\d+ blocks are acknowledged; the same command goes on from there", ran.err)
    before = len(shards.applied)
    assert 0 < before < 2000
    shards.down.clear()
    head.push = shards.answer
    ran = ringpull(*arguments)
    assert ran.status == 0, ran.err
    assert rows_of(shards) == {int(key): float(value) for key, value in zip(keys, values, strict=True)}
    assert sorted(row for _, _, row in shards.applied) == sorted(np.float32(each).tobytes() for each in values)
    # Now that it is done, the same again is another push.
    ran = ringpull(*arguments)
    assert ran.status == 0, ran.err
    assert len(shards.applied) == 4000


def test_a_push_that_somebody_has_to_act_on_does_not_only_say_that_it_goes_on(
    ringpull: Run, head: GuardedHead, shards: FakeShards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of the shards has lost its rows for good: the same command alone would be refused again."""
    from ringpull.inference.importers.tables import parquet as reader

    monkeypatch.setattr(reader, "PIECE_BYTES", 400)  # 100 rows a block

    def lost(message: pb.PushRequest) -> PushAnswer:
        if of_second_half(message):
            raise UnmetCondition("pushed rows of shard 1 are missing")
        return shards.answer(message)

    head.push = lost
    ran = ringpull("push", "ranker", "items", parquet(tmp_path, range(2000), range(2000)), "--target", head.target)
    assert ran.status == 1
    assert "pushed rows of shard 1 are missing" in ran.err
    told = r"\d+ blocks are acknowledged; the same command goes on from there once that is mended, or begins anew"
    assert re.search(told, " ".join(ran.err.split()))


@pytest.fixture
def cut_off(
    ringpull: Run, head: GuardedHead, shards: FakeShards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Any, ...]:
    """Arguments of a push of 2,000 rows, 0 to 1,999, that ended amidst."""
    from ringpull.inference.importers.tables import parquet as reader

    monkeypatch.setattr(reader, "PIECE_BYTES", 400)  # 100 rows a block
    head.push = partial(dies_halfway, shards)
    file = parquet(tmp_path, np.arange(2000), np.arange(2000))
    arguments = ("push", "ranker", "items", file, "--target", head.target)
    assert ringpull(*arguments).status == 1
    assert 0 < len(shards.rows) < 2000
    head.push = shards.answer
    return arguments


def test_a_push_begins_anew_where_its_rows_are_gone(
    ringpull: Run, head: GuardedHead, shards: FakeShards, cut_off: tuple[Any, ...]
) -> None:
    """A deployment that kept pushed rows in memory was served anew: what was acknowledged is not there."""
    shards.rows.clear()
    shards.numbers.clear()
    ran = ringpull(*cut_off)
    assert ran.status == 0, ran.err
    assert "begins anew: what was acknowledged before is not known there any more" in ran.err
    assert rows_of(shards) == {key: float(key) for key in range(2000)}


def test_a_push_begins_anew_where_an_older_build_cut_its_rows_otherwise(
    monkeypatch: pytest.MonkeyPatch, ringpull: Run, shards: FakeShards, cut_off: tuple[Any, ...]
) -> None:
    """Its numbers would say of other rows that they are there."""
    monkeypatch.setattr(lanes, "CUT", lanes.CUT + 1)
    before = len(shards.applied)
    ran = ringpull(*cut_off)
    assert ran.status == 0, ran.err
    assert len(shards.applied) == before + 2000
    assert rows_of(shards) == {key: float(key) for key in range(2000)}


def test_a_push_begins_anew_behind_another_into_the_same_table(
    ringpull: Run, head: GuardedHead, shards: FakeShards, cut_off: tuple[Any, ...], tmp_path: Path
) -> None:
    other = parquet(tmp_path, np.arange(2000), -np.arange(2000), "other.parquet")
    for file in (other, cut_off[3]):
        ran = ringpull(*cut_off[:3], file, *cut_off[4:])
        assert ran.status == 0, ran.err
    assert rows_of(shards) == {key: float(key) for key in range(2000)}


def test_under_a_name_a_file_is_pushed_once_and_another_file_too(
    ringpull: Run, head: GuardedHead, shards: FakeShards, tmp_path: Path
) -> None:
    monday, tuesday = parquet(tmp_path, [1, 2], [1, 2], "m.parquet"), parquet(tmp_path, [1, 2], [3, 4], "t.parquet")
    for file, told, rows in (
        (monday, "2 rows written", {1: 1.0, 2: 2.0}),
        (tuesday, "2 rows written", {1: 3.0, 2: 4.0}),
        (monday, "0 rows written", {1: 3.0, 2: 4.0}),
    ):
        ran = ringpull("push", "ranker", "items", file, "--writer", "nightly", "--target", head.target)
        assert ran.status == 0, ran.err
        assert ran.out.startswith(told)
        assert rows_of(shards) == rows
    assert "2 rows had been pushed before" in ran.err


def test_a_state_folder_that_cannot_be_written_is_named_and_a_name_needs_none(
    ringpull: Run, head: GuardedHead, shards: FakeShards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RINGPULL_STATE_DIR", str(tmp_path / "file" / "state"))
    arguments = ("push", "ranker", "items", parquet(tmp_path, [1], [1]), "--target", head.target)
    ran = ringpull(*arguments)
    assert ran.status == 1
    assert "cannot be written, where it is noted how far this push is: Not a directory; RINGPULL_STATE_DIR" in ran.err
    assert shards.rows == {}
    ran = ringpull(*arguments, "--writer", "nightly")
    assert ran.status == 0, ran.err
    assert rows_of(shards) == {1: 1.0}


def test_a_push_goes_on_where_its_journal_cannot_be_written_any_more(
    ringpull: Run, head: GuardedHead, shards: FakeShards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full costs no more than that blocks are sent again after a kill, and known by their numbers."""
    from ringpull.inference.importers.tables import parquet as reader

    monkeypatch.setattr(reader, "PIECE_BYTES", 400)  # 100 rows a block
    monkeypatch.setattr(push_journal, "EVERY_S", 0.0)
    write = Path.write_text

    def full(path: Path, content: str, encoding: str | None = None) -> int:
        if '"blocks": 0' not in content:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, content, encoding)

    monkeypatch.setattr(Path, "write_text", full)
    ran = ringpull(
        "push", "ranker", "items", parquet(tmp_path, np.arange(2000), np.arange(2000)), "--target", head.target
    )
    assert ran.status == 0, ran.err
    assert len(rows_of(shards)) == 2000


def test_a_push_that_ends_takes_no_folder_from_one_that_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    into = ("127.0.0.1:8500", "ranker", "items")
    first, second = PushJournal(tmp_path, into, ("monday",)), PushJournal(tmp_path, into, ("tuesday",))
    first.begin()
    make = Path.mkdir

    def made(path: Path, *arguments: Any, **more: Any) -> None:
        make(path, *arguments, **more)
        first.end()

    monkeypatch.setattr(Path, "mkdir", made)
    second.begin()
    second.end()


def test_what_may_go_away_is_tried_again(ringpull: Run, head: GuardedHead, shards: FakeShards, tmp_path: Path) -> None:
    tries = []

    def fails(message: pb.PushRequest) -> PushAnswer:
        tries.append(message.number)
        if len(tries) < 7:
            raise Unavailable("a shard is away")
        return shards.answer(message)

    head.push = fails
    ran = ringpull("push", "ranker", "items", parquet(tmp_path, [1], [1]), "--target", head.target)
    assert ran.status == 0, ran.err
    assert (len(tries), len(set(tries))) == (7, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("items", "{wide}"), "has vectors of 2 numbers; table items has vectors of 1 numbers"),
        (("items", "{texts}"), "its keys are strings; table items is keyed by integers"),
        (("nothing", "{rows}"), "model ranker has no table 'nothing'; it has: items, texts"),
        (("texts", "{rows}"), "table texts of ranker/3 takes no pushes (those that do: items)"),
        (("items", "{folder}/absent.parquet"), "absent.parquet"),
        (("items", "{rows}", "--remove", "--vector", "vector"), "--remove takes keys out: give no --vector"),
        (("items", "{keys}", "--remove", "--id", "key"), "a file of keys alone has a key a line, or is a .npy"),
        (("items", "{rows}", "--timeout", "0"), "--timeout is 0"),
        (("items", "{rows}", "--writer", ""), "--writer has 0 characters; a name has 1 to 111"),
        (("items", "{rows}", "--writer", "x" * 112), "--writer has 112 characters; a name has 1 to 111"),
        (("items", "{rows}", "--id", "nobody"), "nobody"),
        (("items", "{nan}"), "must be a finite float32"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_sent(
    ringpull: Run, head: GuardedHead, shards: FakeShards, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    np.savez(tmp_path / "wide.npz", id=np.array([1]), vector=np.ones((1, 2), np.float32))
    pq.write_table(pa.table({"id": [1]}), tmp_path / "keys.parquet")
    places = {
        "keys": tmp_path / "keys.parquet",
        "folder": tmp_path,
        "rows": parquet(tmp_path, [1], [1]),
        "wide": tmp_path / "wide.npz",
        "texts": parquet(tmp_path, ["a"], [1], "texts.parquet"),
        "nan": parquet(tmp_path, [1], [np.nan], "nan.parquet"),
    }
    ran = ringpull("push", "ranker", *[each.format(**places) for each in arguments], "--target", head.target)
    assert ran.status == 1
    assert message in ran.err
    assert shards.rows == {}
