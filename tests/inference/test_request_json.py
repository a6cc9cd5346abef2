"""Requests written by hand, in the contract's JSON form and in the short one."""

from __future__ import annotations

import pytest

from ringpull.inference.schema.columns import Ragged
from ringpull.inference.wire.codec import encode_request
from ringpull.inference.wire.request_json import call_from_json, columns_from_json
from ringpull.ps.errors import InvalidInput

GRPCURL = """{
  "model": "ranker", "version": "2", "outputs": ["score"], "withTimings": true,
  "features": {
    "item": {"int64s": {"values": ["10", 11]}},
    "genres": {"strings": {"values": ["drama", "war"]}, "offsets": [0, 2, 2]},
    "price": {"floats": {"values": [1.5, 2]}}
  },
  "context": {"user": {"int64s": {"values": [7]}}}
}"""

SHORT = """{
  "model": "ranker", "version": 2, "outputs": ["score"], "with_timings": true,
  "features": {"item": [10, 11], "genres": [["drama", "war"], []], "price": [1.5, 2]},
  "context": {"user": 7}
}"""


def test_both_forms_are_the_same_request() -> None:
    one, other = (encode_request(call_from_json(text)) for text in (GRPCURL, SHORT))
    assert one == other
    assert one.version == 2
    assert one.with_timings


def test_what_is_no_request_is_told_in_one_line() -> None:
    for text in ('{"bogus": 1}', '{"features": {"a": {"int64s": {"values": ["x"]}}}}'):
        with pytest.raises(InvalidInput, match=r"\Arequest: .*bogus|\Afeature a: ") as raised:
            call_from_json(text)
        assert len(str(raised.value).splitlines()) == 1


def test_columns_may_mix_both_forms() -> None:
    columns = columns_from_json({"a": 1, "b": {"strings": {"values": ["x"]}}, "c": [[1], []], "d": [1, 2**63 + 5]})
    assert columns["a"].tolist() == [1]
    assert columns["b"].tolist() == ["x"]
    assert isinstance(columns["c"], Ragged)
    assert columns["d"].tolist() == [1, 2**63 + 5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "must be a JSON object"),
        ('{"model": 7}', "request: .*model"),
        ('{"modle": "x"}', 'request: .*"modle"'),
        ('{"features": [1]}', "must be JSON objects"),
        ('{"features": {"a": null}}', "feature a"),
        ('{"features": {"a": {"int32s": [1]}}}', "feature a: .*int32s"),
        ('{"features": {"a": {"int64s": {"values": ["x"]}}}}', "feature a"),
        ('{"features": {"a": [1, "x"]}}', "feature a: values of type int, str"),
    ],
)
def test_errors_name_the_place(text, message) -> None:
    with pytest.raises(InvalidInput, match=message):
        call_from_json(text)


def test_bytes_are_utf_8_with_a_mark_before_them_or_not() -> None:
    """Whatever the language of the machine is: read as ISO-8859-1, another id would be looked up."""
    text = '{"model": "ranker", "features": {"town": ["Köln", "東京"]}}'
    for given in (text, "\ufeff" + text, text.encode(), text.encode("utf-8-sig")):
        assert list(call_from_json(given).features["town"]) == ["Köln", "東京"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"model": "\xff"}', "request: not UTF-8: byte 0xff at 11"),
        ('{"model": "Köln"}'.encode("iso-8859-1"), "request: not UTF-8: byte 0xf6 at 12"),
        ('{"model": "ranker"}'.encode("utf-16"), "request: not UTF-8: byte 0xff at 0"),
        (b'{"model": "\xed\xa0\x80"}', "request: not UTF-8: byte 0xed at 11"),
        (b"[" * 100_000, "request: not JSON: "),
        (b'{"a":' * 100_000, "request: not JSON: "),
        (b"9" * 10_000, "request: not JSON: "),
        (b"", "request: not JSON: "),
    ],
)
def test_what_is_no_request_is_refused_by_name(content: bytes, says: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        call_from_json(content)
    assert str(raised.value).startswith(says)


@pytest.mark.parametrize(
    "text",
    [
        '{"model": "\\ud800"}',
        '{"model": "ranker", "features": {"town": ["\\ud800"]}}',
        '{"model": "ranker", "features": {"\\ud800": [1]}}',
        '{"model": "ranker", "features": {"town": {"strings": {"values": ["\\ud800"]}}}}',
    ],
)
def test_half_a_character_is_refused(text: str) -> None:
    """JSON can name one, UTF-8 cannot hold it."""
    with pytest.raises(InvalidInput):
        encode_request(call_from_json(text)).SerializeToString()
