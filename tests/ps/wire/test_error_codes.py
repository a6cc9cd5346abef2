"""Errors across the wire: every class that a verb may raise, and codes from another build."""

from __future__ import annotations

import pickle

import pytest

from ringpull.ps import errors
from ringpull.ps.errors import LimitExceeded, NotOwner, RingpullError, Unavailable
from ringpull.ps.wire.codec import decode_reply, encode_reply
from ringpull.ps.wire.error_codes import ERROR_CODES, INTERNAL, MAX_MESSAGE_CHARS, error_of, error_reply
from ringpull.ps.wire.frames import REPLIES, REPLY_LIMITS, Decoder
from ringpull.ps.wire.messages import ErrorReply
from tests.ps.wire.feeding import feed, joined


def test_every_code_comes_back_as_its_class() -> None:
    for code, error in ERROR_CODES.items():
        reply = error_reply(error("why"))
        assert (reply.code, reply.message) == (code, "why")
        assert type(error_of(reply)) is error
        assert str(error_of(reply)) == "why"


def test_codes_are_fixed() -> None:
    """Golden: peers of other builds know these names."""
    assert {code: error.__name__ for code, error in ERROR_CODES.items()} == {
        "INVALID_INPUT": "InvalidInput",
        "NOT_FOUND": "NotFound",
        "LIMIT_EXCEEDED": "LimitExceeded",
        "CORRUPT_DATA": "CorruptData",
        "OTHER_CONTENT": "OtherContent",
        "DEADLINE_EXCEEDED": "DeadlineExceeded",
        "CANCELLED": "RequestCancelled",
        "UNAVAILABLE": "Unavailable",
        "NOT_OWNER": "NotOwner",
        "PROTOCOL_ERROR": "ProtocolError",
        "STRANGER": "Stranger",
        "UNMET_CONDITION": "UnmetCondition",
        "STALE_LINEAGE": "StaleLineage",
        "STALE_NUMBER": "StaleNumber",
    }


def test_not_owner_carries_its_epoch() -> None:
    error = error_of(error_reply(NotOwner("moved", epoch=12)))
    assert isinstance(error, NotOwner)
    assert error.epoch == 12


@pytest.mark.parametrize(("asked_s", "told_s"), [(None, None), (0.5, 0.5), (0.0, 0.001), (600.0, 600.0)])
def test_a_limit_carries_when_to_come_again(asked_s: float | None, told_s: float | None) -> None:
    frames = feed(
        Decoder(REPLIES, REPLY_LIMITS),
        joined(encode_reply(error_reply(LimitExceeded("full", retry_after_s=asked_s)), 1)),
    )
    reply = decode_reply(frames[0])
    assert isinstance(reply, ErrorReply)
    error = error_of(reply)
    assert isinstance(error, LimitExceeded)
    assert (str(error), error.retry_after_s) == ("full", told_s)


def test_a_subclass_travels_as_the_nearest_class_with_a_code() -> None:
    class Quarantined(Unavailable):
        pass

    assert error_reply(Quarantined("slot 5")) == ErrorReply("UNAVAILABLE", "slot 5")
    assert error_reply(errors.ConnectionLost("x")).code == "UNAVAILABLE"


def test_what_nobody_foresaw_names_the_exception() -> None:
    assert error_reply(KeyError("k")) == ErrorReply(INTERNAL, "KeyError: 'k'")


def test_a_code_of_a_later_build_is_a_plain_error() -> None:
    error = error_of(ErrorReply("QUOTA", "no more today"))
    assert type(error) is RingpullError
    assert "no more today (QUOTA)" in str(error)


def test_messages_are_bounded() -> None:
    assert len(error_reply(ValueError("x" * 10**6)).message) == MAX_MESSAGE_CHARS


def test_every_error_can_be_pickled() -> None:
    """Control calls raise them through Ray."""
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, RingpullError):
            copy = pickle.loads(pickle.dumps(kind("why")))
            assert (type(copy), str(copy)) == (kind, "why")
    assert pickle.loads(pickle.dumps(NotOwner("moved", epoch=3))).epoch == 3
