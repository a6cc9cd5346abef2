"""What is answered of the Open Inference Protocol over HTTP, below `/v2`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ringpull.inference.head.aside import aside
from ringpull.inference.head.frontends.http.bodies import open_call, receive_short, receive_unpacked, timeout_of
from ringpull.inference.head.frontends.http.gate import authorization_of, peer_of
from ringpull.inference.head.frontends.oip.compression import MIN_BYTES, accepted, compressed
from ringpull.inference.head.frontends.oip.http_bodies import (
    HEADER_LENGTH,
    as_object,
    json_length,
    parameters_of,
    read_infer,
    reply_of,
)
from ringpull.inference.head.frontends.oip.infer_calls import version_of
from ringpull.inference.head.frontends.oip.models import Models
from ringpull.inference.head.frontends.oip.repository import Asker, load, reading, unload
from ringpull.inference.head.frontends.oip.service import MAY_DESCRIBE
from ringpull.inference.head.frontends.parts import Parts
from ringpull.inference.wire.json_reading import parse_json
from ringpull.inference.wire.json_writing import JsonWriter
from ringpull.ps.errors import InvalidInput, NotFound, Unsupported

Endpoint = Callable[[Request], Awaitable[Response]]

JSON_COST: Final = 4
"""Work of writing numbers as JSON, in that of reading as many bytes of JSON as they have."""


class Endpoints:
    """Endpoints over the parts of a head."""

    def __init__(self, parts: Parts) -> None:
        """Prepare to answer."""
        self._parts = parts
        self._models = Models(parts)

    async def live(self, request: Request) -> Response:
        """Tell that something answers here."""
        return JSONResponse({"live": True})

    async def ready(self, request: Request) -> Response:
        """Tell whether requests are welcome."""
        ready = request.app.state.healthy()
        return JSONResponse({"ready": ready}, 200 if ready else 503)

    async def server(self, request: Request) -> Response:
        """Describe the head."""
        self._admit(request)
        return JSONResponse(self._models.server())

    async def model_ready(self, request: Request) -> Response:
        """Tell whether a version is served."""
        name, version = _named(request)
        self._models.check_served(name, version)
        return JSONResponse({"name": name, "ready": True})

    async def metadata(self, request: Request) -> Response:
        """Describe what a version takes and gives."""
        self._admit(request)
        return JSONResponse(self._models.metadata(*_named(request)))

    async def config(self, request: Request) -> Response:
        """Describe a version as a configuration."""
        self._admit(request)
        return JSONResponse(self._models.config(*_named(request)))

    async def statistics(self, request: Request) -> Response:
        """Tell the counts of a version, of a model's versions, or of all."""
        self._admit(request)
        return JSONResponse(await self._models.statistics(*_named(request)))

    async def index(self, request: Request) -> Response:
        """List what is served. All of it is ready, so that to ask for what is ready asks for no less."""
        self._admit(request)
        ready = (await _fields(request)).get("ready")
        if not isinstance(ready, bool | None):
            raise InvalidInput(f"ready is {str(ready)[:40]}; it must be true or false")
        return JSONResponse(self._models.index())

    async def infer(self, request: Request) -> Response:
        """Score the rows of a request."""
        headers, path = request.headers, request.path_params
        with open_call(self._parts, request) as call:
            body = await receive_unpacked(request, call)
            length = json_length(body, headers.get(HEADER_LENGTH))
            asked = await call.aside(
                length, lambda: read_infer(body, length, path["model"], path.get("version", ""), call.limits)
            )
            answer = await self._models.infer(asked.call, call)
            cost = JSON_COST * sum(each.nbytes for each in answer.outputs)
            out = JsonWriter(call.limits.max_message_bytes, call.deadline_s)
            reply, json_bytes = await call.aside(cost, lambda: reply_of(asked, answer, out))
            return await _answer(b"".join(reply), json_bytes, headers.get("accept-encoding", ""))

    async def load(self, request: Request) -> Response:
        """Serve a model, or the newest version of one."""
        name = request.path_params["model"]
        await load(self._parts, name, *await self._change("load", name, request))
        return Response()

    async def unload(self, request: Request) -> Response:
        """Serve a model no more."""
        name = request.path_params["model"]
        await unload(self._parts, name, *await self._change("unload", name, request))
        return Response()

    async def no_regions(self, request: Request) -> Response:
        """List no shared memory."""
        if "region" in request.path_params:
            raise NotFound("no shared memory of that name is registered: none ever is here")
        return JSONResponse([])

    async def forget_region(self, request: Request) -> Response:
        """Do nothing: as clients ask for it before they begin, it must not fail."""
        return JSONResponse({})

    async def no_memory(self, request: Request) -> Response:
        """Refuse to share memory."""
        raise Unsupported("shared memory is not used here; send tensors in the request")

    async def no_settings(self, request: Request) -> Response:
        """Refuse to tell or change settings."""
        raise Unsupported("what is traced and logged is set where a head is started")

    async def _change(self, verb: str, name: str, request: Request) -> tuple[Collection[str], Asker]:
        """Return the names of the parameters of a load or an unload, and who asks for it."""
        asker = Asker(
            authorization=authorization_of(request.scope),
            access=request.app.state.access,
            peer=peer_of(request.scope),
            door="http",
            timeout_s=None,
        )
        with reading(self._parts, verb, name, asker):
            return parameters_of(await _fields(request)), replace(asker, timeout_s=timeout_of(request))

    def _admit(self, request: Request) -> None:
        """Let in whoever may ask what there is."""
        self._parts.predictor.access.admit(authorization_of(request.scope), *MAY_DESCRIBE)


def _named(request: Request) -> tuple[str, int]:
    """Return the model and version that a path names; empty, and 0: none."""
    path: dict[str, Any] = request.path_params
    return path.get("model", ""), version_of(path.get("version", ""))


async def _fields(request: Request) -> Mapping[str, Any]:
    """Return the object in a body, which may be empty."""
    body = await receive_short(request)
    return as_object("the body, where there is one,", parse_json(body)) if body.strip() else {}


async def _answer(body: bytes, json_bytes: int | None, accept_encoding: str) -> Response:
    """Return the reply with such a body.

    Args:
        json_bytes: Bytes of it that are JSON; None: all.
        accept_encoding: What the client takes.
    """
    headers = {} if json_bytes is None else {HEADER_LENGTH: str(json_bytes)}
    coding = accepted(accept_encoding) if accept_encoding and len(body) >= MIN_BYTES else ""
    if coding:
        plain = body
        body = await aside(len(plain), lambda: compressed(plain, coding))
        headers |= {"Content-Encoding": coding, "Vary": "Accept-Encoding"}
    kind = "application/json" if json_bytes is None else "application/octet-stream"
    return Response(body, headers=headers, media_type=kind)
