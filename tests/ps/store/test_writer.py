"""`TableWriter`: whatever the order, chunks and buffer, the table holds exactly the rows given, or there is none."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmh3
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringpull.ps.errors import DuplicateKey, ExportError, HashCollision, InvalidInput
from ringpull.ps.hashing import SLOT_SHIFT, as_keys, keys_of, keys_of_strings, positions_of
from ringpull.ps.spec import KeyType, TableSpec
from ringpull.ps.store import format as fmt
from ringpull.ps.store.base import Base
from ringpull.ps.store.writer import TableWriter

COLLIDING = ("u0000000s0000000", "9im3mx8HC0GcBev1")
"""Two strings whose murmur3 x64 128, seed 0, have equal low halves. Found by walking the hash of a 16-byte input
backwards: with h the wanted low half, any a gives b = unfmix64(h - fmix64(a)), and a and b give the two 8-byte blocks
of an input with that half; one in 2^32 such inputs is all letters, digits, '-' and '_'. It took 8.7e9 values of a."""

INT64_EDGES = np.array([0, 1, -1, 2**63 - 1, -(2**63), 42], np.int64)
UINT64_EDGES = np.array([0, 1, 2**63 - 1, 2**63, 2**64 - 1], np.uint64)


def rows_of(count: int, dim: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)


def assert_holds(base: Base, keys: np.ndarray, rows: np.ndarray) -> None:
    """The base holds exactly these rows, bit for bit, in ring order."""
    assert base.rows == len(keys)
    numbers = base.find(positions_of(keys))
    assert np.array_equal(base.raw_rows(0, base.rows)[numbers], np.ascontiguousarray(rows).view(np.uint8))
    positions = base.positions_slice(0, base.rows)
    assert np.array_equal(positions, np.sort(positions_of(keys)))


@pytest.mark.parametrize("keys", [INT64_EDGES, UINT64_EDGES, np.arange(-5, 5, dtype=np.int32)])
def test_keys_of_the_whole_integer_range(tmp_path: Path, keys: np.ndarray) -> None:
    key_type = KeyType.UINT64 if keys.dtype == np.uint64 else KeyType.INT64
    rows = rows_of(len(keys))
    with TableWriter(tmp_path / "t", TableSpec(name="t", dim=3, key_type=key_type)) as writer:
        writer.add(keys, rows)
        written = writer.finish()
    base = Base.open(tmp_path / "t", verify_rows=True)
    assert_holds(base, as_keys(keys), rows)
    assert base.spec.key_type is key_type
    assert written.rows == len(keys)
    assert written.bytes == base.bytes == sum(path.stat().st_size for path in (tmp_path / "t").iterdir())


def test_string_keys_in_lists_and_arrays(tmp_path: Path) -> None:
    texts = ["", "a", "user:42", "zürich", "日本", "a" * 5000]
    rows = rows_of(len(texts) + 2)
    with TableWriter(tmp_path / "t", TableSpec(name="t", dim=3, key_type=KeyType.STRING)) as writer:
        writer.add(texts, rows[:6])
        writer.add(np.array(["x"]), rows[6:7])
        writer.add(np.array(["y"], object), rows[7:])
        writer.finish()
    assert_holds(Base.open(tmp_path / "t"), keys_of_strings([*texts, "x", "y"]), rows)


@pytest.mark.medium
@settings(deadline=None, max_examples=40)
@given(
    count=st.integers(0, 3000),
    chunk=st.integers(1, 700),
    buffer_rows=st.integers(1, 800),
    dim=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_any_chunks_through_any_buffer(
    tmp_path_factory: pytest.TempPathFactory, count: int, chunk: int, buffer_rows: int, dim: int, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("any") / "t"
    keys = np.unique(np.random.default_rng(seed).integers(0, 2**64, count, np.uint64))
    np.random.default_rng(seed).shuffle(keys)
    rows = rows_of(len(keys), dim, seed)
    with TableWriter(folder, TableSpec(name="t", dim=dim), buffer_bytes=buffer_rows * (4 * dim + 16)) as writer:
        for begin in range(0, len(keys), chunk):
            writer.add(keys[begin : begin + chunk], rows[begin : begin + chunk])
        writer.finish()
    assert_holds(Base.open(folder, verify_rows=True), keys, rows)
    assert [path.name for path in folder.parent.iterdir()] == ["t"]
    shutil.rmtree(folder)


def test_rows_of_one_slot_that_do_not_fit_the_buffer(tmp_path: Path) -> None:
    """Positions need not be uniform: the sort halves the ring until a piece fits."""
    positions = np.arange(5000, dtype=np.uint64) * np.uint64(3) + np.uint64(7 << SLOT_SHIFT)
    keys, rows = keys_of(positions), rows_of(5000)
    order = np.random.default_rng(1).permutation(5000)
    with TableWriter(tmp_path / "t", TableSpec(name="t", dim=3), buffer_bytes=300 * 28) as writer:
        writer.add(keys[order], rows[order])
        writer.finish()
    assert_holds(Base.open(tmp_path / "t", verify_rows=True), keys, rows)


def test_rows_that_are_not_contiguous(tmp_path: Path) -> None:
    rows = rows_of(20, 6)
    with TableWriter(tmp_path / "t", TableSpec(name="t", dim=3)) as writer:
        writer.add(np.arange(20)[::2], rows[::2, ::2])
        writer.finish()
    assert_holds(Base.open(tmp_path / "t"), as_keys(np.arange(0, 20, 2)), rows[::2, ::2])


def test_an_empty_table(tmp_path: Path) -> None:
    with TableWriter(tmp_path / "t", TableSpec(name="t", dim=3), default="mean") as writer:
        writer.add([], np.empty((0, 3), np.float32))
        writer.finish()
    base = Base.open(tmp_path / "t", verify_rows=True)
    assert (base.rows, base.block_count, base.row_range(0, 65536)) == (0, 0, (0, 0))
    assert base.find(np.array([0, 2**63, 2**64 - 1], np.uint64)).tolist() == [-1, -1, -1]
    assert base.spec.default_vector().tolist() == [0, 0, 0]
    base.prefault()


# -- default vectors ---------------------------------------------------------------------------------------------------


def written_default(tmp_path: Path, spec: TableSpec, default: Any) -> list[float]:
    with TableWriter(tmp_path / "t", spec, default=default) as writer:
        writer.add([1, 2, 3, 4], np.array([[1, 0], [2, 0], [3, 0], [4, 1]], np.float32))
        writer.finish()
    values: list[float] = Base.open(tmp_path / "t").spec.default_vector().tolist()
    return values


@pytest.mark.parametrize(
    ("default", "expected"),
    [(None, [9, 9]), ("zeros", [0, 0]), ("mean", [2.5, 0.25]), (np.array([3, -1], np.float32), [3, -1])],
)
def test_defaults(tmp_path: Path, default: Any, expected: list[float]) -> None:
    spec = TableSpec(name="t", dim=2, default=(9.0, 9.0))
    assert written_default(tmp_path, spec, default) == expected


@pytest.mark.parametrize("default", ["median", np.zeros(3, np.float32), np.zeros(2), [0.0, 0.0]])
def test_other_defaults_are_refused(tmp_path: Path, default: Any) -> None:
    with pytest.raises(InvalidInput, match="table t: default is"):
        written_default(tmp_path, TableSpec(name="t", dim=2), default)


def test_a_mean_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    with TableWriter(tmp_path / "t", TableSpec(name="t", dim=1), default="mean") as writer:
        writer.add([1, 2], np.array([[1], [np.nan]], np.float32))
        with pytest.raises(ExportError, match=r"table t: .*mean"):
            writer.finish()


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("buffer_rows", [2, 10, 1000])
@pytest.mark.parametrize(
    ("key", "key_type", "shown"), [(-7, KeyType.INT64, "-7"), (2**64 - 7, KeyType.UINT64, f"{2**64 - 7}")]
)
def test_a_duplicate_key_is_named(tmp_path: Path, buffer_rows: int, key: int, key_type: KeyType, shown: str) -> None:
    others = np.arange(100, dtype=np.uint64)
    keys = np.concatenate(
        [others[:50], np.array([key % 2**64], np.uint64), others[50:], np.array([key % 2**64], np.uint64)]
    )
    spec = TableSpec(name="t", dim=1, key_type=key_type)
    with TableWriter(tmp_path / "t", spec, buffer_bytes=20 * buffer_rows) as writer:
        writer.add(keys, rows_of(len(keys), 1))
        with pytest.raises(DuplicateKey, match=f"table t: key {shown} was given more than once"):
            writer.finish()
    assert list(tmp_path.iterdir()) == []


def test_one_key_given_more_often_than_the_buffer_holds(tmp_path: Path) -> None:
    with TableWriter(tmp_path / "t", TableSpec(name="t", dim=1), buffer_bytes=100) as writer:
        writer.add(np.full(500, 12), rows_of(500, 1))
        with pytest.raises(DuplicateKey, match="key 12 "):
            writer.finish()


@pytest.mark.parametrize("buffer_rows", [2, 1000])
def test_a_duplicate_string_is_named(tmp_path: Path, buffer_rows: int) -> None:
    texts = ["zürich", *(f"city {i}" for i in range(30)), "zürich"]
    spec = TableSpec(name="t", dim=1, key_type=KeyType.STRING)
    with TableWriter(tmp_path / "t", spec, buffer_bytes=20 * buffer_rows) as writer:
        writer.add(texts, rows_of(len(texts), 1))
        with pytest.raises(DuplicateKey, match="table t: key 'zürich' was given more than once"):
            writer.finish()


def test_two_strings_of_one_hash_are_both_named(tmp_path: Path) -> None:
    one, other = COLLIDING
    assert mmh3.hash64(one, 0)[0] == mmh3.hash64(other, 0)[0]
    assert mmh3.hash64(one, 0)[1] != mmh3.hash64(other, 0)[1]
    with TableWriter(tmp_path / "t", TableSpec(name="t", dim=1, key_type=KeyType.STRING)) as writer:
        writer.add([one, "between", other], rows_of(3, 1))
        with pytest.raises(HashCollision) as error:
            writer.finish()
    assert one in str(error.value)
    assert other in str(error.value)


@pytest.mark.parametrize(
    ("keys", "rows", "what"),
    [
        ([1, 2], rows_of(3, 2), r"rows are float32 \(3, 2\); they must be float32 \(2, 2\)"),
        ([1, 2], rows_of(2, 3), r"must be float32 \(2, 2\)"),
        ([1, 2], rows_of(2, 2).astype(np.float64), "rows are float64"),
        ([1, 2], [[1.0, 2.0], [3.0, 4.0]], "rows are list"),
        ([1.5, 2], rows_of(2, 2), "keys are float64"),
        (["a", "b"], rows_of(2, 2), "must be integers"),
        ([[1], [2]], rows_of(2, 2), "must be integers"),
        (np.array([True, False]), rows_of(2, 2), "must be integers"),
    ],
)
def test_wrong_integers_and_rows_are_refused(tmp_path: Path, keys: Any, rows: Any, what: str) -> None:
    with TableWriter(tmp_path / "t", TableSpec(name="t", dim=2)) as writer, pytest.raises(InvalidInput, match=what):
        writer.add(keys, rows)


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        (["a", 3], "must be strings"),
        (np.arange(2), "must be strings"),
        (np.array([["a"], ["b"]]), "must be strings"),
        (["a", "\ud800"], "not valid Unicode"),
    ],
)
def test_wrong_strings_are_refused(tmp_path: Path, keys: Any, what: str) -> None:
    spec = TableSpec(name="t", dim=2, key_type=KeyType.STRING)
    with TableWriter(tmp_path / "t", spec) as writer, pytest.raises(InvalidInput, match=what):
        writer.add(keys, rows_of(2, 2))


# -- whole or not at all -----------------------------------------------------------------------------------------------


def test_nothing_is_left_without_finish(tmp_path: Path) -> None:
    with TableWriter(tmp_path / "t", TableSpec(name="t", dim=2), buffer_bytes=1000) as writer:
        writer.add(np.arange(500), rows_of(500, 2))
        assert not (tmp_path / "t").exists()
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    with pytest.raises(ExportError, match="exists already"):
        TableWriter(tmp_path / "t", TableSpec(name="t", dim=2))


def test_a_folder_that_came_meanwhile_is_kept(tmp_path: Path) -> None:
    with TableWriter(tmp_path / "t", TableSpec(name="t", dim=2)) as writer:
        (tmp_path / "t").mkdir()
        with pytest.raises(ExportError, match="exists already"):
            writer.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


@pytest.mark.parametrize("call", [lambda w: w.finish(), lambda w: w.add([1], rows_of(1, 2))])
def test_a_finished_writer_takes_no_more(tmp_path: Path, call: Callable[[TableWriter], object]) -> None:
    with TableWriter(tmp_path / "t", TableSpec(name="t", dim=2)) as writer:
        writer.finish()
        with pytest.raises(InvalidInput, match="finish"):
            call(writer)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="cannot make"):
        TableWriter(tmp_path / "file" / "t", TableSpec(name="t", dim=2))


# -- the numbers of the format -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [0, 1, 7, 100, 10**6, 10**7, 2**32, 10**10])
def test_the_index_takes_about_half_a_byte_per_key(rows: int) -> None:
    bits = fmt.index_bits(rows)
    keys_per_bucket = rows / (1 << bits)
    assert bits >= 1
    assert keys_per_bucket < 11.4
    if rows >= 100:
        assert keys_per_bucket > 5.6


def test_blocks_end_at_slots_and_are_about_a_mebibyte(tmp_path: Path) -> None:
    """A block ends at the first slot boundary from 1 MiB on; inside one huge slot at 2 MiB."""
    dim, row_bytes = 4096, 16384
    spread = np.arange(200, dtype=np.uint64) << np.uint64(SLOT_SHIFT + 3)  # one row a slot
    huge = np.uint64(60000 << SLOT_SHIFT) + np.arange(300, dtype=np.uint64)  # 4.7 MiB in one slot
    with TableWriter(tmp_path / "t", TableSpec(name="t", dim=dim)) as writer:
        writer.add(keys_of(np.concatenate([huge, spread])), rows_of(500, dim))
        writer.finish()
    base = Base.open(tmp_path / "t", verify_rows=True)
    firsts = base.sections.blocks[:, 0].astype(np.int64)
    assert firsts.tolist() == [0, 64, 128, 192, 320, 448]
    assert 64 * row_bytes == fmt.BLOCK_BYTES
