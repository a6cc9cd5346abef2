"""`ringpull top-k`: what it asks for, and what people and programs see."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ringpull.inference.proto import ringpull_pb2 as pb
from tests.deploy.running import Run
from tests.guarded import GuardedHead, guarded_head

pytestmark = pytest.mark.net


@pytest.fixture
def head() -> Iterator[GuardedHead]:
    with guarded_head(token="") as head:
        head.best = pb.TopKResponse(
            model="ranker",
            version=3,
            table="items",
            keys=pb.Column(int64s=pb.Int64List(values=[50, -1, 7]), offsets=[0, 2, 3]),
            scores=[0.5, 0.25, 3],
            found=b"\1\0",
            missing=1,
        )
        yield head


def one_query(keys: pb.Column, hashed: bool = False) -> pb.TopKResponse:
    keys.offsets.extend([0, 1])
    return pb.TopKResponse(model="ranker", version=3, table="items", keys=keys, scores=[0.5], hashed=hashed)


def test_keys_for_people_and_for_programs(ringpull: Run, head: GuardedHead) -> None:
    arguments = ("top-k", "ranker", "items", "7", "9", "--k", "2", "--exclude", "3", "--among", "1", "--among", "2")
    ran = ringpull(*arguments, "--target", head.target)
    assert ran.status == 0, ran.err
    assert "ranker version 3, table items" in ran.out
    lines = [line.split() for line in ran.out.splitlines()]
    assert ["7", "1", "50", "0.5"] in lines
    assert ["7", "2", "-1", "0.25"] in lines
    assert ["9", "1", "7", "3"] in lines
    assert "1 keys of the queries are not in the table" in ran.err
    asked = head.top_ks[-1]
    assert (asked.model, asked.table, asked.k, asked.metric) == ("ranker", "items", 2, pb.TopKRequest.DOT)
    assert (asked.query_table, asked.keep_self, asked.version) == ("", False, 0)
    for column, keys in ((asked.like, [7, 9]), (asked.exclude, [3]), (asked.among, [1, 2])):
        assert np.frombuffer(column.raw.data, np.int64).tolist() == keys
    assert json.loads(ringpull(*arguments, "--json", "--target", head.target).out) == {
        "model": "ranker",
        "version": 3,
        "table": "items",
        "keys": [[50, -1], [7]],
        "scores": [[0.5, 0.25], [3.0]],
        "hashed": False,
        "found": [True, False],
        "missing": 1,
        "lost": 0,
        "lost_queries": 0,
    }


def test_keys_are_read_by_the_type_of_their_table(ringpull: Run, head: GuardedHead, tmp_path: Path) -> None:
    file = tmp_path / "seen"
    file.write_text("5\n-6\n", encoding="utf-8")
    ran = ringpull(
        *("top-k", "ranker", "items", "a", "7", "--query-table", "texts", "--keep-self", "--exclude-from", file),
        *("--metric", "cosine", "--version", "3", "--target", head.target),
    )
    assert ran.status == 0, ran.err
    asked = head.top_ks[-1]
    assert (asked.like.raw.dtype, asked.like.raw.data, asked.query_table) == (pb.STRING, b"a7", "texts")
    assert np.frombuffer(asked.exclude.raw.data, np.int64).tolist() == [5, -6]
    assert (asked.metric, asked.version, asked.keep_self) == (pb.TopKRequest.COSINE, 3, True)


def test_vectors_of_options_files_and_standard_input(
    ringpull: Run, head: GuardedHead, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sent(*arguments: object) -> list[list[float]]:
        ran = ringpull("top-k", "ranker", "items", *arguments, "--target", head.target)
        assert ran.status == 0, ran.err
        vectors = head.top_ks[-1].vectors
        return np.frombuffer(vectors.data, np.float32).reshape(tuple(vectors.shape)).tolist()

    head.best.ClearField("found")
    assert sent("--vector", "0.5,1", "--vector=-2 3e0") == [[0.5, 1], [-2, 3]]
    lines = tmp_path / "lines"
    lines.write_text("1, 2\n\n3\t4\n", encoding="utf-8")
    assert sent("--vector", "0,0", "--vectors-from", lines) == [[0, 0], [1, 2], [3, 4]]
    array = tmp_path / "queries.npy"
    np.save(array, np.array([[1, 2], [3, 4]], np.float64))
    assert sent("--vectors-from", array) == [[1, 2], [3, 4]]
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"7,8\n9,9\n")))
    assert sent("--vectors-from", "-") == [[7, 8], [9, 9]]


def test_features_and_keys_that_are_texts_or_hashes(ringpull: Run, head: GuardedHead, tmp_path: Path) -> None:
    request = tmp_path / "request.json"
    request.write_text('{"features": {"item": [[1, 2]]}, "context": {"user": 7}}', encoding="utf-8")
    head.best = one_query(pb.Column(strings=pb.StringList(values=["é\x1b[31m"])))
    arguments = ("top-k", "ranker", "items", "--features", request, "--output", "query", "--target", head.target)
    ran = ringpull(*arguments)
    assert ran.status == 0, ran.err
    assert r"é\x1b[31m" in ran.out
    assert head.top_ks[-1].output == "query"
    assert head.top_ks[-1].features.HasField("packed")
    head.best = one_query(pb.Column(uint64s=pb.UInt64List(values=[2**64 - 1])), hashed=True)
    ran = ringpull(*arguments)
    assert "hash of key" in ran.out
    assert str(2**64 - 1) in ran.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give the queries in one way"),
        (("7", "--vector", "1,2"), "given: KEYS, --vector"),
        (("x",), "key 'x' is no integer"),
        (("7", "--exclude", "x"), "key 'x' is no integer"),
        (("7", "--exclude-from", "nowhere"), "--exclude-from nowhere"),
        (("--vector", "1_0,2"), "--vector: '1_0,2' is no list of numbers"),
        (("--vector", "1,x"), "--vector: '1,x' is no list of numbers"),
        (("--vector", "1,nan"), "query: holds NaN"),
        (("--vectors-from", "nowhere.npy"), "--vectors-from nowhere.npy"),
        (("--features", "nowhere"), "--features nowhere"),
        (("7", "--k", "0"), "k: is 0"),
        (("7", "--metric", "l2"), "metric: is 'l2'"),
        (("7", "--query-table", "nothing"), "no table 'nothing'"),
        (("7", "--timeout", "0"), "--timeout"),
    ],
)
def test_what_may_not_be_is_a_clear_error(
    ringpull: Run, head: GuardedHead, arguments: tuple[str, ...], message: str
) -> None:
    ran = ringpull("top-k", "ranker", "items", *arguments, "--target", head.target)
    assert ran.status == 1
    assert message in " ".join(ran.err.split())
    assert not head.top_ks


def test_an_npy_file_is_never_unpickled(ringpull: Run, head: GuardedHead, tmp_path: Path) -> None:
    file = tmp_path / "objects.npy"
    np.save(file, np.array([{}], object), allow_pickle=True)
    ran = ringpull("top-k", "ranker", "items", "--vectors-from", file, "--target", head.target)
    assert ran.status == 1
    assert "is no .npy file of numbers" in " ".join(ran.err.split())
