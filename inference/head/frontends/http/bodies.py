"""Bodies of HTTP requests: received within a call's deadline and limits, unpacked, and read as JSON.

    with open_call(parts, request) as call:
        body = await receive_unpacked(request, call)
        asked = await call.aside(len(body), lambda: decode(parse_json(body)))

What a body says of its own length refuses it before a byte is read, where it is too long; it takes no room and counts
as no work, for whoever says so may never send it. The bytes that have come are counted as they come
(`ringpull.inference.head.receiving`). A client that goes away cancels the call: `LimitedProtocol` cancels its task.
"""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from starlette.requests import ClientDisconnect, Request

from ringpull.inference.head.aside import LONG_BYTES, ON_LOOP_BYTES
from ringpull.inference.head.frontends.http.gate import authorization_of
from ringpull.inference.head.frontends.parts import Parts
from ringpull.inference.head.metrics.call_log import Verb
from ringpull.inference.head.predictor import OpenCall
from ringpull.ps.errors import InvalidInput, LimitExceeded

TIMEOUT_HEADER: Final = "request-timeout"
"""Header by which a client states its deadline: seconds from when it asked."""
MAX_SHORT_BYTES: Final = 1 << 20
"""Longest body of a request that is no prediction."""
WINDOW_BITS: Final = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
"""What zlib takes for a content coding: RFC 9110, 8.4.1; "deflate" has zlib's header."""

MAX_MEMBERS: Final = 2048
"""Most parts that a body of gzip may consist of: files one after another (RFC 1952, 2.2)."""
FIRST_BYTES: Final = 1 << 10
"""Bytes of a part that are unpacked first, and then as many again: those that follow its end are copied."""

_SECONDS: Final = re.compile(r"[0-9]{1,15}(?:\.[0-9]{0,15})?|\.[0-9]{1,15}")


class _Bound(NamedTuple):
    """Longest body that is taken, and what says so."""

    name: str
    nbytes: int


@contextmanager
def open_call(parts: Parts, request: Request, verb: Verb = "predict") -> Iterator[OpenCall]:
    """Admit a prediction of which nothing but the header was read, and have it among the calls in flight until it ends.

    Args:
        verb: What is asked for, where it is no prediction but rows by key.

    Raises:
        InvalidInput: The deadline that its header states is none.
        Unauthenticated, Forbidden, LimitExceeded, DeadlineExceeded: See `Predictor.open`.
    """
    predictor = parts.predictor
    with (
        predictor.receiving.in_flight.place(),
        predictor.open(timeout_of(request), authorization=authorization_of(request.scope), verb=verb) as call,
    ):
        yield call


def timeout_of(request: Request) -> float | None:
    """Return the time that a client gives its request, in seconds; None: it does not say.

    Raises:
        InvalidInput: Its header has no such number.
    """
    stated = request.headers.get(TIMEOUT_HEADER)
    if stated is None:
        return None
    if not _SECONDS.fullmatch(stated):
        raise InvalidInput(f"Request-Timeout is {stated[:40]!r}; it must be a number of seconds, such as 0.25")
    return float(stated)


async def receive_body(request: Request, call: OpenCall) -> bytes:
    """Receive the body of a prediction, and tell the call how long it is.

    Raises:
        LimitExceeded: It is too long, there is no room for it now, or it cannot be answered in time.
        DeadlineExceeded: The deadline, or the time limit for receiving, passed first.
        InvalidInput: Its header states no length.
    """
    bound = _Bound("max_message_bytes", call.limits.max_message_bytes)
    _check_stated_length(request, bound)
    body = await call.within_deadline(_receive(request, bound, call.holds), _sender_of(request))
    call.received(len(body))
    return body


async def receive_unpacked(request: Request, call: OpenCall) -> bytes:
    """Receive the body of a prediction as it was before it was compressed, and tell the call how long that is.

    Raises:
        LimitExceeded: It is too long, there is no room for it now, or it cannot be answered in time.
        DeadlineExceeded: The deadline, or the time limit for receiving, passed first.
        InvalidInput: Its header states no length, or it is not compressed as that says.
    """
    body = await receive_body(request, call)
    encoding, longest = request.headers.get("content-encoding", ""), call.limits.max_message_bytes
    if not encoding:
        return body
    plain = None
    # How long it becomes shows as it is unpacked: what is short waits for no other.
    for most in (ON_LOOP_BYTES, LONG_BYTES):
        if plain is None and 4 * len(body) <= most < longest:
            plain = await call.aside(most, lambda most=most: _unpacked(body, encoding, most))  # type: ignore[misc]
    if plain is None:
        plain = await call.aside(longest, lambda: decompressed(body, encoding, longest))
    call.received(len(plain))
    return plain


async def receive_short(request: Request, max_bytes: int = MAX_SHORT_BYTES) -> bytes:
    """Receive the body of a request that is no prediction.

    Raises:
        LimitExceeded: It has more than `max_bytes`.
        InvalidInput: Its header states no length.
    """
    bound = _Bound("the most here", max_bytes)
    _check_stated_length(request, bound)
    return await _receive(request, bound, lambda nbytes: None)


def decompressed(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """Return a body as it was before it was compressed.

    Args:
        encoding: Value of `Content-Encoding`: gzip, deflate, identity, or empty.
        max_bytes: Longest that it may become; no more than that is ever unpacked.

    Raises:
        InvalidInput: It is not compressed like that, or that is not known here.
        LimitExceeded: It becomes longer than `max_bytes`.
    """
    plain = _unpacked(body, encoding, max_bytes)
    if plain is None:
        raise LimitExceeded(f"the body is longer than max_message_bytes, {max_bytes}, once it is unpacked")
    return plain


def _unpacked(body: bytes, encoding: str, max_bytes: int) -> bytes | None:
    """Return a body as it was before it was compressed; None: that is longer than `max_bytes`."""
    coding = encoding.strip().lower().removeprefix("x-")
    if coding in ("", "identity"):
        return body if len(body) <= max_bytes else None
    if coding not in WINDOW_BITS:
        raise InvalidInput(f"Content-Encoding is {encoding[:40]!r}; it must be gzip, deflate or identity")
    plain, at = bytearray(), 0
    for _ in range(MAX_MEMBERS if coding == "gzip" else 1):
        unpacking = zlib.decompressobj(WINDOW_BITS[coding])
        begin = at
        while not unpacking.eof and at < len(body):
            piece = body[at : at + max(FIRST_BYTES, at - begin)]
            try:
                # One byte more, so that what is too long shows.
                plain += unpacking.decompress(piece, max_bytes + 1 - len(plain))
            except zlib.error as exc:
                raise InvalidInput(f"the body is not {coding}: {exc}") from exc
            if len(plain) > max_bytes:
                return None
            at += len(piece) - len(unpacking.unused_data)
        if not unpacking.eof:
            raise InvalidInput(f"the body is not {coding}: it ends too early")
        if at == len(body):
            return bytes(plain)
    raise InvalidInput(f"the body is not {coding}: {len(body) - at} bytes follow its end")


def _check_stated_length(request: Request, bound: _Bound) -> None:
    stated = request.headers.get("content-length")
    if stated is not None:
        if not (stated.isascii() and stated.isdecimal()):
            raise InvalidInput(f"Content-Length is {stated[:40]!r}; it must be a number of bytes")
        if len(stated) > 18 or int(stated) > bound.nbytes:
            raise _too_long(stated[:40], bound)


async def _receive(request: Request, bound: _Bound, holds: Callable[[int], None]) -> bytes:
    chunks, nbytes = [], 0
    try:
        async for chunk in request.stream():
            nbytes += len(chunk)
            if nbytes > bound.nbytes:
                raise _too_long(f"more than {bound.nbytes}", bound)
            holds(len(chunk))
            chunks.append(chunk)
    except ClientDisconnect:
        # Servers that do not cancel the task of a client that went away.
        raise asyncio.CancelledError from None
    return b"".join(chunks)


def _too_long(length: str, bound: _Bound) -> LimitExceeded:
    return LimitExceeded(f"the body has {length} bytes; {bound.name} is {bound.nbytes}")


def _sender_of(request: Request) -> str:
    client = request.client
    return f"http {client.host} {client.port}" if client is not None else "http"
