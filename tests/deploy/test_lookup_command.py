"""`ringpull lookup`: what it asks for, and what people and programs see."""

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
from ringpull.ps.bytes_rows import BytesRows
from tests.deploy.running import Run
from tests.guarded import GuardedHead, guarded_head

pytestmark = pytest.mark.net


@pytest.fixture
def head() -> Iterator[GuardedHead]:
    with guarded_head(token="") as head:
        yield head


def vectors(rows: list[list[float]], found: list[bool] | None = None) -> pb.LookupResponse:
    values = np.array(rows, np.float32)
    known = b"" if found is None else bytes(found)
    missing = 0 if found is None else found.count(False)
    tensor = pb.Tensor(shape=values.shape, data=values.tobytes())
    return pb.LookupResponse(model="ranker", version=3, vectors=tensor, found=known, missing=missing)


def texts(rows: list[bytes], found: list[bool]) -> pb.LookupResponse:
    packed = BytesRows.of(rows)
    message = pb.BytesRows(data=packed.data.tobytes(), offsets=packed.offsets.tobytes())
    return pb.LookupResponse(model="ranker", version=3, bytes=message, found=bytes(found), missing=found.count(False))


def test_vectors_are_shortened_for_people_and_whole_for_programs(ringpull: Run, head: GuardedHead) -> None:
    head.rows = vectors([[0.5] * 12, [0.0] * 12], [True, False])
    ran = ringpull("lookup", "ranker", "items", "7", "9", "--target", head.target)
    assert ran.status == 0, ran.err
    assert "ranker version 3, table items" in ran.out
    assert "0.5, 0.5" in ran.out
    assert "... (12 numbers)" in ran.out
    assert "1 of 2 keys are not in the table" in ran.err
    asked = head.lookups[-1]
    assert np.frombuffer(asked.keys.raw.data, np.int64).tolist() == [7, 9]
    assert (asked.model, asked.table, asked.version, asked.pooling) == ("ranker", "items", 0, 0)
    shown = json.loads(ringpull("lookup", "ranker", "items", "7", "9", "--json", "--target", head.target).out)
    assert shown == {
        "model": "ranker",
        "version": 3,
        "rows": [[0.5] * 12, [0.0] * 12],
        "found": [True, False],
        "missing": 1,
        "lost": 0,
    }


def test_bytes_are_text_where_they_are_utf_8(ringpull: Run, head: GuardedHead) -> None:
    head.rows = texts(["zürich [bold]".encode(), b"\xff\0", b"", b"x" * 1000], [True, True, False, True])
    arguments = ("lookup", "ranker", "texts", "a", "7", "b", "c", "--target", head.target)
    ran = ringpull(*arguments)
    assert ran.status == 0, ran.err
    for shown in ("zürich [bold]", "ff 00 (2 bytes, no text)", "... (1000 bytes)"):
        assert shown in ran.out.replace("\n", " ")
    raw = head.lookups[-1].keys.raw
    assert (raw.dtype, raw.data) == (pb.STRING, b"a7bc")
    assert json.loads(ringpull(*arguments, "--json").out)["rows"] == ["zürich [bold]", {"b64": "/wA="}, "", "x" * 1000]


def test_bags_versions_and_keys_of_a_file(ringpull: Run, head: GuardedHead, tmp_path: Path) -> None:
    head.rows = vectors([[1.0], [2.0], [0.0]])
    file = tmp_path / "keys"
    file.write_text("3|4|-5\n\n", encoding="utf-8")
    ran = ringpull(
        *("lookup", "ranker", "items", "1|2", "--keys-from", file, "--pooling", "mean", "--version", "3"),
        *("--target", head.target),
    )
    assert ran.status == 0, ran.err
    assert "bag" in ran.out
    asked = head.lookups[-1]
    assert np.frombuffer(asked.keys.raw.data, np.int64).tolist() == [1, 2, 3, 4, -5]
    assert np.frombuffer(asked.keys.raw_offsets, np.int64).tolist() == [0, 2, 5, 5]
    assert (asked.pooling, asked.version) == (pb.LookupRequest.MEAN, 3)


def test_keys_of_standard_input(ringpull: Run, head: GuardedHead, monkeypatch: pytest.MonkeyPatch) -> None:
    head.rows = vectors([[1.0], [2.0]], [True, True])
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"-7\n8")))
    ran = ringpull("lookup", "ranker", "items", "--keys-from", "-", "--label", "best", "--target", head.target)
    assert ran.status == 0, ran.err
    assert np.frombuffer(head.lookups[-1].keys.raw.data, np.int64).tolist() == [-7, 8]
    assert head.lookups[-1].label == "best"


def test_only_line_ends_separate_keys_of_a_file(ringpull: Run, head: GuardedHead, tmp_path: Path) -> None:
    head.rows = texts([b"1", b"2"], [True, True])
    file = tmp_path / "keys"
    file.write_bytes("a\x85b\u2028c\x0c\r\nd\n".encode())
    ringpull("lookup", "ranker", "texts", "--keys-from", file, "--target", head.target)
    asked = head.lookups[-1].keys.raw
    assert np.frombuffer(asked.lengths, np.uint32).tolist() == [len("a\x85b\u2028c\x0c".encode()), 1]


def test_a_byte_order_mark_is_no_part_of_the_first_key(ringpull: Run, head: GuardedHead, tmp_path: Path) -> None:
    head.rows = texts([b"1", b"2"], [True, True])
    file = tmp_path / "keys"
    file.write_bytes("\ufeffa\r\nb\r\n".encode())
    ringpull("lookup", "ranker", "texts", "--keys-from", file, "--target", head.target)
    assert np.frombuffer(head.lookups[-1].keys.raw.lengths, np.uint32).tolist() == [1, 1]


def test_no_pooling_can_be_said(ringpull: Run, head: GuardedHead) -> None:
    assert ringpull("lookup", "ranker", "items", "7", "--pooling", "none", "--target", head.target).status == 0
    assert not head.lookups[-1].keys.raw_offsets


def test_what_would_move_the_cursor_is_escaped(ringpull: Run, head: GuardedHead) -> None:
    head.rows = texts(["é\x1b[31m\t\u2028ü".encode()], [True])
    ran = ringpull("lookup", "ranker", "texts", "a", "--target", head.target)
    assert r"é\x1b[31m\t\u2028ü" in ran.out


def test_text_of_several_lines_is_text(ringpull: Run, head: GuardedHead) -> None:
    head.rows = texts([b'{\n\t"items": [1, 2]\n}\n'], [True])
    ran = ringpull("lookup", "ranker", "texts", "a", "--target", head.target)
    assert "no text" not in ran.out
    assert '"items": [1, 2]' in ran.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ranker", "items"), "give the keys as arguments"),
        (("ranker", "items", "x"), "key 'x' is no integer; table items is keyed by integers"),
        (("ranker", "items", "1_0"), "key '1_0' is no integer"),
        (("ranker", "users", "1"), "model ranker has no table 'users'; it has: items, texts"),
        (("ranker", "items", "1", "--pooling", "avg"), "pooling: is 'avg'"),
        (("ranker", "items", "--keys-from", "/nowhere/keys"), "--keys-from /nowhere/keys"),
        (("ranker", "items", "1", "--timeout", "0"), "--timeout"),
        (("ranker", "items", "1", "--version", "0"), "version is 0"),
        (("ranker", "items", "9" * 5000), f"key '{'9' * 79} is no integer"),
    ],
    ids=range(9),
)
def test_what_cannot_be_asked(ringpull: Run, head: GuardedHead, arguments: tuple[str, ...], message: str) -> None:
    ran = ringpull("lookup", *arguments, "--target", head.target)
    assert ran.status == 1
    assert message in ran.err
    assert not head.lookups
