"""Rehearsal of calls that are taken straight from gRPC's core, before any that counts.

`direct_calls` builds on what grpc.aio does not promise. That names and parameters are there is no proof that they do
what they did in the builds that were read. So a process that is about to serve makes a few calls of its own first, over
a socket that has no file: more than are asked for at a time, one that fails with words, and one whose caller goes away.
Where one of them does not end as it should, all methods are served by grpc.aio's own loop, and the log says why.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from typing import Any, Final

import grpc
import grpc.aio

from ringpull.inference.head.frontends.grpc import direct_calls
from ringpull.inference.head.frontends.grpc.taking_in import AHEAD, server

NAME: Final = "ringpull.Rehearsal"
METHOD: Final = "Say"
FAILS: Final = b"fails"
WAITS: Final = b"waits"
HEADER: Final = ("rehearsal", "of a header")
TIMEOUT_S: Final = 60.0
"""Deadline of the calls, which none is to miss."""
PATIENCE_S: Final = 20.0
"""Time for all of it, which takes some 30 ms: a start is held up no longer where calls are not answered at all."""
STOP_S: Final = 5.0

_well: Final[list[bool]] = []
"""Outcomes of rehearsals in this process: there is one, or as many as were begun at the same time."""


async def rehearse() -> None:
    """Make sure, once in a process, that this build of grpc.aio serves calls directly as it should; else none are."""
    if _well or not direct_calls.available():
        return
    try:
        async with asyncio.timeout(PATIENCE_S):
            wrong = await _found()
    except TimeoutError:
        wrong = f"calls do not end within {PATIENCE_S:g} s"
    except grpc.aio.AioRpcError as exc:
        wrong = f"calls end as {exc.code().name}"
    except Exception as exc:  # whatever a build of gRPC raises
        wrong = f"{type(exc).__name__}: {exc}"
    _well.append(not wrong)
    if wrong:
        direct_calls.refuse(wrong)


async def _found() -> str:
    """Return what is wrong with calls that are served directly; empty: nothing."""
    waits, gone = asyncio.Event(), asyncio.Event()

    async def say(_messages: Any, context: grpc.aio.ServicerContext) -> bytes:
        body = bytes(await context.read())
        if body == FAILS:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "in words", (HEADER,))
        if body == WAITS:
            waits.set()
            try:
                await asyncio.Event().wait()
            finally:
                gone.set()
        left_s, headers = context.time_remaining(), context.invocation_metadata() or ()
        if not 0 < left_s <= TIMEOUT_S + 1 or HEADER not in [tuple(each) for each in headers] or not context.peer():
            return b""
        return body

    handlers = {METHOD: grpc.stream_unary_rpc_method_handler(say)}
    served = server(())
    served.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(NAME, handlers),))
    served.add_registered_method_handlers(NAME, handlers)
    address = f"unix-abstract:ringpull-{os.getpid()}-{uuid.uuid4().hex}"
    served.add_insecure_port(address)
    await served.start()
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            return await _wrong(channel.unary_unary(f"/{NAME}/{METHOD}"), waits, gone)
    finally:
        # One that serves nothing may not stop either.
        await asyncio.wait([asyncio.create_task(served.stop(None))], timeout=STOP_S)


async def _wrong(say: grpc.aio.UnaryUnaryMultiCallable, waits: asyncio.Event, gone: asyncio.Event) -> str:
    sent = [b"%d" % number for number in range(AHEAD + 8)]
    if await asyncio.gather(*(say(each, timeout=TIMEOUT_S, metadata=(HEADER,)) for each in sent)) != sent:
        return "calls are not answered as they were asked"
    failed = say(FAILS, timeout=TIMEOUT_S)
    if (await failed.code(), await failed.details()) != (grpc.StatusCode.RESOURCE_EXHAUSTED, "in words"):
        return "a call that fails does not say why"
    if HEADER not in [tuple(each) for each in await failed.trailing_metadata() or ()]:
        return "a call that fails has no trailing headers"
    call = say(WAITS, timeout=TIMEOUT_S)
    await waits.wait()
    call.cancel()
    await gone.wait()
    return ""
