"""Rows by key of real shards equal dictionaries, however slots are cut: a model's own tables, and tables alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ringpull import BytesRows, TableOptions, export_tables
from ringpull.inference.head.config import HeadConfig
from ringpull.ps.errors import InvalidInput, LimitExceeded, NotFound
from ringpull.ps.hashing import keys_of_strings
from ringpull.ps.spec import ALL, Pooling, Replicas
from tests.integration.local import local_cluster
from tests.reference import ReferenceBytes, ReferenceTable, assert_close

pytestmark = pytest.mark.net

DIM = 5


def made(rng: np.random.Generator, rows: int = 400) -> dict[str, tuple[Any, np.ndarray, ReferenceTable]]:
    """Raw keys, some more that are unknown, and what the table is, by table."""
    numbers = rng.choice(2**40, rows, replace=False) - 2**39
    texts = [f"user:{n}" for n in numbers.tolist()]
    vectors = rng.normal(size=(rows, DIM)).astype(np.float32)
    default = rng.normal(size=DIM).astype(np.float32)
    return {
        "numbers": (numbers, vectors, ReferenceTable.from_arrays(numbers.view(np.uint64), vectors, default)),
        "texts": (texts, vectors, ReferenceTable.from_arrays(keys_of_strings(texts), vectors)),
    }


def export(folder: Path, tables: dict[str, tuple[Any, np.ndarray, ReferenceTable]], version: int) -> Path:
    options = {"numbers": TableOptions(default=tables["numbers"][2].default)}
    given = {name: (keys, rows) for name, (keys, rows, _) in tables.items()}
    return export_tables(given, folder / "feed", version, options=options, quiet=True).path


def asked(rng: np.random.Generator, keys: Any, size: int) -> tuple[Any, np.ndarray]:
    """Keys to ask for, with duplicates and unknown ones among them, and as uint64."""
    known = np.array(keys, object if isinstance(keys, list) else None)[rng.integers(0, len(keys), size)]
    strange = rng.random(size) < 0.2
    if isinstance(keys, list):
        texts = [f"no:{i}" if other else key for i, (key, other) in enumerate(zip(known, strange, strict=True))]
        return texts, keys_of_strings(texts)
    numbers = np.where(strange, rng.integers(2**50, 2**60, size), known)
    return numbers, numbers.view(np.uint64)


@pytest.mark.medium
@pytest.mark.parametrize(("shards", "replicas"), [(1, 1), (2, 1), (5, 1), (8, 1), (5, 2), (3, ALL), (1, 3)])
def test_rows_and_bags_equal_the_reference(tmp_path: Path, shards: int, replicas: Replicas) -> None:
    rng = np.random.default_rng(shards)
    tables = made(rng)
    folder = export(tmp_path, tables, 1)
    with local_cluster([folder], shards=shards, replicas=replicas, verify=True) as cluster, cluster.client() as client:
        for name, (keys, _, reference) in tables.items():
            for size in (0, 1, 50, 1000):
                sent, as_keys = asked(rng, keys, size)
                rows, found = client.lookup("feed", name, sent)
                expected, known = reference.pull(as_keys)
                np.testing.assert_array_equal(rows, expected)
                np.testing.assert_array_equal(found, known)
            for pooling in ("sum", "mean", "max"):
                sent, as_keys = asked(rng, keys, 200)
                offsets = np.sort(np.concatenate([[0, 200], rng.integers(0, 200, 30)]))
                weights = rng.normal(size=200).astype(np.float32) if pooling == "sum" else None
                rows, found = client.lookup("feed", name, sent, pooling=pooling, offsets=offsets, weights=weights)
                assert found is None
                assert_close(rows, reference.pull_bags(as_keys, offsets, Pooling(pooling), weights), 100.0)
        status = client.status()
        assert {(each.table, each.rows) for each in status.tables} == {("numbers", 400), ("texts", 400)}
        assert [each.name for each in client.models()] == ["feed"]


@pytest.mark.medium
@pytest.mark.parametrize(("shards", "replicas"), [(1, 1), (3, 1), (5, 2), (3, ALL)])
def test_rows_of_bytes_equal_the_dictionary(tmp_path: Path, shards: int, replicas: Replicas) -> None:
    rng = np.random.default_rng(shards)
    texts = [f"user:{n}" for n in range(300)]
    rows = [rng.bytes(int(size)) for size in rng.integers(0, 900, 300)]
    reference = ReferenceBytes(dict(zip(keys_of_strings(texts).tolist(), rows, strict=True)))
    folder = export_tables({"results": (texts, rows)}, tmp_path / "feed", 1, quiet=True).path
    with local_cluster([folder], shards=shards, replicas=replicas, verify=True) as cluster, cluster.client() as client:
        for size in (0, 1, 40, 1000):
            sent, as_keys = asked(rng, texts, size)
            answer = client.lookup("feed", "results", sent)
            expected, known = reference.pull(as_keys)
            assert isinstance(answer.rows, BytesRows)
            assert list(answer.rows) == expected
            np.testing.assert_array_equal(answer.found, known)
            assert answer.missing == (~known).sum()
        assert answer.rows[-1] == expected[-1]
        with pytest.raises(InvalidInput, match="pooling: table results has rows of bytes, which have no sum"):
            client.lookup("feed", "results", ["a"], pooling="sum", offsets=[0, 1])
        [info] = client.model("feed").tables
        assert (info.row_type, info.dim, info.rows) == ("bytes", 0, 300)


@pytest.mark.medium
def test_a_reply_of_bytes_that_is_too_long_is_refused(tmp_path: Path) -> None:
    folder = export_tables({"results": ([1, 2], [b"x" * 900, b""])}, tmp_path / "feed", 1, quiet=True).path
    config = HeadConfig(default_timeout_s=60, max_message_bytes=100_000)
    with local_cluster([folder], config=config) as cluster, cluster.client() as client:
        assert len(client.lookup("feed", "results", [1] * 90).rows) == 90
        with pytest.raises(LimitExceeded, match=r"have .* bytes; max_message_bytes is 100000") as raised:
            client.lookup("feed", "results", [1] * 120)
        assert raised.value.retry_after_s is None


@pytest.mark.medium
def test_each_version_answers_with_its_own_rows(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    versions = {number: made(rng) for number in (1, 2)}
    folders = [export(tmp_path, tables, number) for number, tables in versions.items()]
    with local_cluster(folders) as cluster, cluster.client() as client:
        for number in (1, 2, None):
            keys, rows, _ = versions[number or 2]["texts"]
            answer = client.lookup("feed", "texts", keys, version=number)
            np.testing.assert_array_equal(answer.rows, rows)
            assert answer.version == (number or 2)
        with pytest.raises(NotFound, match="no version 3"):
            client.lookup("feed", "texts", ["a"], version=3)


@pytest.mark.medium
def test_a_models_own_tables_can_be_asked(exported: tuple[Any, Path]) -> None:
    from ringpull.inference.model.manifest import Manifest
    from ringpull.ps.hashing import keys_of
    from ringpull.ps.store.base import Base

    _, folder = exported
    manifest = Manifest.load(folder)
    with local_cluster([folder], shards=3) as cluster, cluster.client() as client:
        for entry in manifest.tables:
            base = Base.open(manifest.table_folder(folder, entry.spec.name))
            keys = keys_of(base.sections.positions)
            expected = np.array([base.row(row) for row in range(base.rows)], np.float32)
            base.close()
            sent = client.lookup("ranker", entry.spec.name, keys) if entry.spec.key_type != "string" else None
            if sent is not None:
                np.testing.assert_array_equal(sent.rows, expected)
                assert sent.missing == 0
