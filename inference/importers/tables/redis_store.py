"""Redis: one key a row, which holds the vector or a hash with it, or one hash whose fields are the ids of all rows.

Keys are found by SCAN and read some thousands at a time. SCAN may give a key twice, which is one row here; and it is no
snapshot: of what is written, added or deleted meanwhile, the old or the new may come. So an import can't go on where
one was killed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import redis

from ringpull.inference.importers.tables.cells import Ids, Vectors, bytes_of, refuse_lists_of_integers
from ringpull.inference.importers.tables.seen import Seen
from ringpull.inference.importers.tables.source import ReadOptions, TablePiece, skipped
from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.errors import InvalidInput, Unavailable
from ringpull.ps.spec import Float32Array, RowType

AT_A_TIME: Final = 2000
"""Keys that are asked for at a time."""
TIMEOUT_S: Final = 60.0
_VECTORS: Final = (b"features", b"vector", b"embedding", b"emb", b"emb_vector", b"values")
_SHOWN: Final = 5
_SPECIAL: Final = re.compile(rb"([\\*?\[\]])")

Pairs = list[tuple[bytes, bytes]]
"""Ids and what lies under them."""


def open_table(where: str, options: ReadOptions) -> RedisSource:
    """Open the table that keys of a database hold.

    Raises:
        InvalidInput: There are no such keys, or they hold something else; the message says what there is.
        Unavailable: The server does not answer.
    """
    shown = _without_password(where)
    with _errors(shown):
        try:
            # The second protocol, which servers before Redis 6 speak, too.
            client = redis.Redis.from_url(where, socket_timeout=TIMEOUT_S, decode_responses=False, protocol=2)
        except (ValueError, TypeError) as exc:
            raise InvalidInput(f"{shown}: {exc}") from exc
        try:
            _check_alone(client, shown)
            return RedisSource(client, _layout(client, shown, options), shown, options)
        except BaseException:
            client.close()
            raise


class Layout(Protocol):
    """How rows lie in a database."""

    described: str

    def pairs(self) -> Iterator[Pairs]:
        """Yield ids with their values, some at a time, perhaps none, perhaps one twice."""


class RedisSource:
    """A table in Redis."""

    def __init__(self, client: Any, layout: Layout, where: str, options: ReadOptions) -> None:
        """Use `open_table`."""
        self.rows: int | None = None
        self.fingerprint: str | None = None
        self._client = client
        self._layout = layout
        self._where = where
        first = next((pairs for pairs in layout.pairs() if pairs), None)
        if first is None:
            raise InvalidInput(f"{where}: {layout.described} has no rows")
        self._ids = Ids(where, options.id_type, [key for key, _ in first])
        self.key_type = self._ids.key_type
        self._vectors: Vectors | None = None
        if options.value is None:
            if options.encoding is None and not options.vector:
                refuse_lists_of_integers([value for _, value in first], where)
            self._vectors = Vectors(where, options.encoding, first[0][1], _of_id(first[0][0]))
        self.dim = 0 if self._vectors is None else self._vectors.dim
        self.row_type = RowType.BYTES if self._vectors is None else RowType.FLOAT32
        held = "bytes" if self._vectors is None else f"{self.dim} numbers as {self._vectors.encoding}"
        self.described = (
            f"{where}: {layout.described}, ids {self.key_type.value}, {held}; no snapshot: what is written meanwhile"
            " may be in it or not"
        )

    def pieces(self, start: int = 0) -> Iterator[TablePiece]:
        """Yield all rows but the first `start`, in an order of the server's own."""
        return skipped(self._pieces(), start)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _pieces(self) -> Iterator[TablePiece]:
        seen = Seen()
        with _errors(self._where):
            for pairs in self._layout.pairs():
                new = [pairs[number] for number in seen.new([key for key, _ in pairs])]
                if new:
                    yield self._piece(new)

    def _piece(self, pairs: Pairs) -> TablePiece:
        def shown(number: int) -> str:
            return _of_id(pairs[number][0])

        keys = self._ids.read([key for key, _ in pairs], shown)
        cells = [value for _, value in pairs]
        rows: Float32Array | BytesRows
        rows = bytes_of(cells, self._where, shown) if self._vectors is None else self._vectors.read(cells, shown)
        return TablePiece(keys, rows, f"{self._where}: {self._layout.described}", None)


class _OneHash:
    """One hash of all rows: its fields are the ids."""

    def __init__(self, client: Any, key: bytes) -> None:
        self.described = f"hash {_text(key)}"
        self._client = client
        self._key = key

    def pairs(self) -> Iterator[Pairs]:
        cursor = 0
        while True:
            cursor, found = self._client.hscan(self._key, cursor, count=AT_A_TIME)
            yield list(found.items())
            if not cursor:
                return


class _Keys:
    """One key a row, found by a pattern: the id is what stands in the place of its `*`."""

    def __init__(self, client: Any, pattern: bytes) -> None:
        self.described = f"keys {_text(pattern)}"
        self._client = client
        self._before, _, self._behind = pattern.partition(b"*")
        self._match = b"*".join(_SPECIAL.sub(rb"\\\1", part) for part in (self._before, self._behind))

    def found(self) -> Iterator[list[bytes]]:
        """Yield the keys, some at a time."""
        cursor = 0
        while True:
            cursor, keys = self._client.scan(cursor, match=self._match, count=AT_A_TIME)
            # Of `a*a` the key `a` is none: what stands before the id and behind it lie over each other.
            yield [key for key in keys if len(key) >= len(self._before) + len(self._behind)]
            if not cursor:
                return

    def id_of(self, key: bytes) -> bytes:
        return key[len(self._before) : len(key) - len(self._behind)]

    def kind(self, keys: Sequence[bytes]) -> list[str]:
        """Return what some keys hold; "none" of one that is gone."""
        with self._client.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.type(key)
            return [kind.decode() for kind in pipeline.execute()]


class _Strings(_Keys):
    """One string a row."""

    def __init__(self, client: Any, pattern: bytes, where: str) -> None:
        super().__init__(client, pattern)
        self._where = where

    def pairs(self) -> Iterator[Pairs]:
        for keys in self.found():
            values = self._client.mget(keys) if keys else []
            missing = [key for key, value in zip(keys, values, strict=True) if value is None]
            for key, kind in zip(missing, self.kind(missing) if missing else (), strict=True):
                if kind != "none":
                    raise InvalidInput(
                        f"{self._where}: key {_text(key)} is a {kind}, and others are strings; keys must be a pattern"
                        " of one kind"
                    )
            yield [(self.id_of(key), value) for key, value in zip(keys, values, strict=True) if value is not None]


class _Hashes(_Keys):
    """One hash a row, which has the vector in one field, or in one field a number."""

    def __init__(
        self, client: Any, pattern: bytes, where: str, fields: Sequence[bytes], id_field: bytes | None
    ) -> None:
        super().__init__(client, pattern)
        self.described += f", fields {', '.join(map(_text, fields))}"
        self._where = where
        self._asked = [*fields, *([] if id_field is None else [id_field])]
        self._fields = len(fields)

    def pairs(self) -> Iterator[Pairs]:
        for keys in self.found():
            with self._client.pipeline(transaction=False) as pipeline:
                for key in keys:
                    pipeline.hmget(key, self._asked)
                rows = pipeline.execute(raise_on_error=False)
            lacking = [key for key, row in zip(keys, rows, strict=True) if isinstance(row, Exception) or None in row]
            gone = set()
            for key, kind in zip(lacking, self.kind(lacking) if lacking else (), strict=True):
                if kind != "none":
                    what = f"is a {kind}" if kind != "hash" else f"has not all of {', '.join(map(_text, self._asked))}"
                    raise InvalidInput(f"{self._where}: key {_text(key)} {what}; keys must be a pattern of one kind")
                gone.add(key)
            yield [
                (row[-1] if len(row) > self._fields else self.id_of(key), b",".join(row[: self._fields]))
                for key, row in zip(keys, rows, strict=True)
                if key not in gone
            ]


def _layout(client: Any, where: str, options: ReadOptions) -> Layout:
    if options.keys is None:
        return _OneHash(client, _only_hash(client, where))
    pattern = options.keys.encode()
    if b"*" not in pattern:
        kind = client.type(pattern).decode()
        if kind != "hash":
            held = "is not there" if kind == "none" else f"is a {kind}"
            raise InvalidInput(
                f"{where}: key {options.keys} {held}; keys must be the name of a hash of all rows, or a pattern with *"
            )
        return _OneHash(client, pattern)
    if pattern.count(b"*") > 1:
        raise InvalidInput(f"{where}: keys is {options.keys!r}; one * stands for the id")
    keys = _Keys(client, pattern)
    first = next((each[0] for each in keys.found() if each), None)
    kind = "none" if first is None else keys.kind([first])[0]
    if first is None or kind == "none":
        raise InvalidInput(f"{where}: no key is like {options.keys!r}; {_what_there_is(client)}")
    if kind == "string":
        return _Strings(client, pattern, where)
    if kind != "hash":
        raise InvalidInput(f"{where}: key {_text(first)} is a {kind}; rows are strings or hashes")
    return _hashes(client, pattern, where, first, options)


def _hashes(client: Any, pattern: bytes, where: str, first: bytes, options: ReadOptions) -> Layout:
    held: list[bytes] = client.hkeys(first)
    known = ", ".join(map(_text, held[: _SHOWN * 4]))
    for name in (options.id, *options.vector, options.value):
        if name is not None and name.encode() not in held:
            raise InvalidInput(f"{where}: hash {_text(first)} has no field {name!r}; it has {known}")
    id_field = None if options.id is None else options.id.encode()
    asked = (options.value,) if options.value is not None else options.vector
    fields = [name.encode() for name in asked]
    if not fields:
        rest = [name for name in held if name != id_field]
        fields = rest if len(rest) == 1 else [name for name in rest if name.lower() in _VECTORS]
        if len(fields) != 1:
            raise InvalidInput(f"{where}: vector must be one or more fields of the hashes; {_text(first)} has {known}")
    return _Hashes(client, pattern, where, fields, id_field)


def _only_hash(client: Any, where: str) -> bytes:
    _, keys = client.scan(0, count=AT_A_TIME)
    if client.dbsize() == 1 and len(keys) == 1 and client.type(keys[0]) == b"hash":
        return bytes(keys[0])
    raise InvalidInput(
        f"{where}: keys must be a pattern, whose * stands for the id, such as item:*, or the name of a hash of all"
        f" rows; {_what_there_is(client)}"
    )


def _what_there_is(client: Any) -> str:
    _, keys = client.scan(0, count=AT_A_TIME)
    shown = ", ".join(sorted(map(_text, keys))[:_SHOWN])
    return f"there are {client.dbsize()} keys" + (f", among them {shown}" if shown else "")


def _check_alone(client: Any, where: str) -> None:
    """Check that a server has all of its keys: one of a cluster would give its part for the whole."""
    try:
        told = client.info("cluster")
    except redis.exceptions.ResponseError:  # not permitted, or not known
        return
    if told.get("cluster_enabled"):
        raise InvalidInput(
            f"{where}: is one of a cluster, and has a part of its keys; import an RDB of all of it through a server"
            " that is alone"
        )


@contextmanager
def _errors(where: str) -> Iterator[None]:
    try:
        yield
    except (redis.exceptions.AuthenticationError, redis.exceptions.NoPermissionError) as exc:
        raise InvalidInput(f"{where}: the server refuses: {exc}; give name and password in the URL") from exc
    except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError) as exc:
        raise Unavailable(f"{where}: the server does not answer: {exc}") from exc
    except redis.exceptions.RedisError as exc:
        raise InvalidInput(f"{where}: the server refuses: {exc}") from exc


def _without_password(where: str) -> str:
    parts = urlsplit(where)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _of_id(key: bytes) -> str:
    return f"id {_text(key)}"


def _text(key: bytes) -> str:
    return key.decode("utf-8", "backslashreplace")[:200]
