"""Redis: what a server holds, in every layout, where one is installed; what one may answer, by a made-up server."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

import ringpull.inference.importers.tables.redis_store as store
from ringpull.inference.importers.tables.cells import Ids
from ringpull.inference.importers.tables.formats import open_source
from ringpull.inference.importers.tables.seen import Seen
from ringpull.inference.importers.tables.source import ReadOptions
from ringpull.ps.errors import InvalidInput, RingpullError, Unavailable
from tests.inference.importers.tables.whole_reading import table_of

ROWS = np.arange(90, dtype=np.float32).reshape(30, 3) / 8
EXPECTED = {number * 7: row for number, row in enumerate(ROWS.tolist())}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of this test's own, at a Unix socket."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    folder = tmp_path_factory.mktemp("redis")
    socket = folder / "redis.sock"
    command = [program, "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if "accept connections" in line:
                break
        yield f"unix://{socket}"
    finally:
        process.terminate()
        process.stdout.close()
        process.wait()


@pytest.fixture
def client(server: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server) as client:
        client.flushall()
        yield client


def refused(where: str, *words: str, kind: type[RingpullError] = InvalidInput, **options: Any) -> None:
    with pytest.raises(kind) as error:
        table_of(where, **options)
    assert all(word in str(error.value) for word in words), error.value


ENCODED: dict[str, Callable[[Any], bytes]] = {
    "float32": lambda row: row.tobytes(),
    "float64": lambda row: row.astype(np.float64).tobytes(),
    "text": lambda row: ",".join(map(str, row)).encode(),
    "json": lambda row: json.dumps(row.tolist()).encode(),
}


@pytest.mark.parametrize("encoding", ENCODED)
def test_every_layout(server: str, client: redis.Redis, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = {str(key): ENCODED[encoding](np.array(row, np.float32)) for key, row in EXPECTED.items()}
    client.mset({f"item:{key}:v": value for key, value in packed.items()})
    client.hset("items", mapping=packed)
    for key, value in packed.items():
        client.hset(f"row:{key}", mapping={"emb": value, "name": f"n{key}", "other": "x"})
    given = "float64" if encoding == "float64" else None
    for at_a_time in (2000, 7):
        monkeypatch.setattr(store, "AT_A_TIME", at_a_time)
        assert table_of(server, keys="item:*:v", encoding=given) == EXPECTED
        assert table_of(server, keys="items", encoding=given) == EXPECTED
        assert table_of(server, keys="row:*", encoding=given) == EXPECTED
        named = table_of(server, keys="row:*", vector=("emb",), id="name", encoding=given)
        assert named == {f"n{key}": row for key, row in EXPECTED.items()}
    assert "no snapshot" in open_source(server, ReadOptions(keys="items", encoding=given)).described


def test_the_only_hash_is_taken_and_numbers_in_fields(server: str, client: redis.Redis) -> None:
    client.hset("items", mapping={"a b": "1.5 2", "käse": "3 4"})
    assert table_of(server) == {"a b": [1.5, 2], "käse": [3, 4]}
    client.hset("row:5", mapping={"x": "1.5", "y": "2"})
    assert table_of(server, keys="row:*", vector=("y", "x")) == {5: [2, 1.5]}
    assert table_of(server, keys="row:*", vector=("y",), id_type="string") == {"5": [2]}
    client.hset("pair:5", mapping={"v": "3,4"})
    assert table_of(server, keys="pair:*", vector=("v",)) == {5: [3, 4]}
    refused(server, "keys must be", "3 keys", "items", "row:5")


def test_rows_of_bytes(server: str, client: redis.Redis) -> None:
    client.mset({"page:a": b"\0\xff", "page:b": b""})
    client.hset("row:1", mapping={"page": "<p>", "x": "1"})
    assert table_of(server, keys="page:*", value="page") == {"a": b"\0\xff", "b": b""}
    assert table_of(server, keys="row:*", value="page") == {1: b"<p>"}
    client.set("page:c", bytes((1 << 20) + 1))
    refused(server, "id c", "1048577 bytes", keys="page:*", value="page")


def test_signs_of_patterns_in_keys_mean_themselves(server: str, client: redis.Redis) -> None:
    client.mset({"a[b]?\\:1": "1.5,2", "ab?\\:2": "3,4", "a[b]?\\:1:z": "5.5,6"})
    assert table_of(server, keys="a[b]?\\:*:z") == {1: [5.5, 6]}
    assert table_of(server, keys="a[b]?\\:*", id_type="string") == {"1": [1.5, 2], "1:z": [5.5, 6]}
    client.mset({"aba": "1", "abXba": "2"})
    assert table_of(server, keys="ab*ba", id_type="string") == {"X": [2]}, (
        "aba is none: its two ends lie over each other"
    )


def test_what_is_not_there_or_of_another_kind_is_said(server: str, client: redis.Redis) -> None:
    refused(server, "0 keys", keys="item:*")
    client.mset({"item:1": "1,2", "list-no": "x"})
    client.rpush("list:1", "a")
    refused(server, "no key is like 'user:*'", "3 keys", "item:1", keys="user:*")
    refused(server, "list:1 is a list", keys="list:*")
    refused(server, "item:1 is a string", keys="item:1")
    refused(server, "is not there", keys="item")
    refused(server, "one * stands for the id", keys="*:*")
    client.rpush("item:2", "a")
    refused(server, "item:2 is a list", keys="item:*")
    client.hset("row:1", mapping={"x": "1,2"})
    refused(server, "row:1", "'emb'", "x", keys="row:*", vector=("emb",))
    client.hset("row:1", mapping={"y": "1,2"})
    refused(server, "vector must be", "x", "y", keys="row:*")
    client.hset("row:2", mapping={"x": "1,2"})
    client.hset("row:2", mapping={"y": "1,2"})
    client.hdel("row:2", "x")
    refused(server, "row:", keys="row:*", vector=("x",))
    client.set("row:3", "x")
    refused(server, "row:", keys="row:*", vector=("y",))


@pytest.mark.parametrize("bad", [b"1,2,3", b"x", b"1,1e300", b"", b"\xff\xfe"])
def test_vectors_that_are_none_are_refused_with_their_id(server: str, client: redis.Redis, bad: bytes) -> None:
    client.hset("items", mapping={"1": "1,2", "57": bad})
    refused(server, "id 57", keys="items", encoding="text")


def test_ids_of_two_kinds_are_refused() -> None:
    ids = Ids("redis://here", None, [b"1", b"2"])
    with pytest.raises(InvalidInput, match=r"id x .*id_type string"):
        ids.read([b"1", b"x"], lambda number: f"id {'1x'[number]}")


def test_a_server_that_is_away_and_a_url_that_is_none(tmp_path: Path) -> None:
    refused(f"unix://{tmp_path}/none.sock", "does not answer", kind=Unavailable, keys="a:*")
    with pytest.raises(InvalidInput) as error:
        open_source("redis://me:secret@here/x?socket_timeout=no", ReadOptions(keys="a:*"))
    assert "secret" not in str(error.value)


class Scripted:
    """A server that answers what a test says: SCAN may give a key twice, and keys go while they are read."""

    def __init__(self, pages: list[list[bytes]], values: dict[bytes, bytes], cluster: int = 0) -> None:
        self._pages = pages
        self._values = values
        self._cluster = cluster

    def scan(self, cursor: int, **_: Any) -> tuple[int, list[bytes]]:
        return (cursor + 1) % len(self._pages), self._pages[cursor]

    def mget(self, keys: list[bytes]) -> list[bytes | None]:
        return [self._values.get(key) for key in keys]

    def type(self, key: bytes) -> bytes:
        return b"string" if key in self._values else b"none"

    def info(self, _: str) -> dict[str, int]:
        return {"cluster_enabled": self._cluster}

    def dbsize(self) -> int:
        return len(self._values)

    def close(self) -> None:
        """Close nothing."""

    def pipeline(self, *, transaction: bool) -> Pipelined:
        assert not transaction
        return Pipelined(self)


class Pipelined:
    def __init__(self, server: Scripted) -> None:
        self._server = server
        self._asked: list[bytes] = []

    def __enter__(self) -> Pipelined:
        return self

    def __exit__(self, *_: object) -> None:
        """Close nothing."""

    def type(self, key: bytes) -> None:
        self._asked.append(key)

    def execute(self) -> list[bytes]:
        return [self._server.type(key) for key in self._asked]


def test_a_key_that_is_given_twice_is_one_row_and_one_that_is_gone_none(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = [[], [b"i:1", b"i:2", b"i:1"], [b"i:gone", b"i:2"], [], [b"i:3", b"i:1"]]
    values = {b"i:1": b"1,2.5", b"i:2": b"3,4", b"i:3": b"5,6"}
    monkeypatch.setattr(redis.Redis, "from_url", lambda *_, **__: Scripted(pages, values))
    assert table_of("redis://here", keys="i:*") == {1: [1, 2.5], 2: [3, 4], 3: [5, 6]}
    monkeypatch.setattr(redis.Redis, "from_url", lambda *_, **__: Scripted(pages, values, cluster=1))
    refused("redis://here", "cluster", keys="i:*")


@pytest.mark.parametrize("values", [(b"3,5,8", b"4,0,1"), (b"[3, 5]", b"[4, -1]")])
def test_lists_of_integers_are_taken_for_vectors_only_where_somebody_says_so(
    monkeypatch: pytest.MonkeyPatch, values: tuple[bytes, bytes]
) -> None:
    stored = dict(zip([b"i:1", b"i:2"], values, strict=True))
    monkeypatch.setattr(redis.Redis, "from_url", lambda *_, **__: Scripted([[b"i:1", b"i:2"]], stored))
    refused("redis://here", "lists of integers, such as", "encoding, text or json", keys="i:*")
    assert table_of("redis://here", keys="i:*", value="value") == {1: values[0], 2: values[1]}
    encoding = "json" if values[0].startswith(b"[") else "text"
    assert list(table_of("redis://here", keys="i:*", encoding=encoding)) == [1, 2]


def test_what_was_seen_is_known_again_however_much_it_is() -> None:
    generator = np.random.default_rng(5)
    seen, known = Seen(), set[bytes]()
    for _ in range(60):
        texts = [b"%d" % number for number in generator.integers(0, 4000, generator.integers(0, 200))]
        fresh = [texts[number] for number in seen.new(texts)]
        assert sorted(fresh) == sorted(set(texts) - known)
        known |= set(texts)
