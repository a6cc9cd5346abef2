"""Rows by key over HTTP.

    POST /v1/models/MODEL[/versions/N|/labels/LABEL]/tables/TABLE:lookup

Errors are TensorFlow Serving's, `{"error": TEXT}`, as elsewhere below `/v1/models/`.
"""

from __future__ import annotations

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ringpull.inference.head.frontends.http.bodies import aside, decompressed, open_call, receive_body
from ringpull.inference.head.frontends.lookups.json_bodies import AskedRows, json_bytes
from ringpull.inference.head.frontends.parts import Parts
from ringpull.inference.wire.json_reading import parse_json
from ringpull.inference.wire.json_writing import JsonWriter
from ringpull.ps.errors import InvalidInput

PATHS: Final = tuple(
    f"/v1/models/{{model}}{which}/tables/{{table}}:lookup" for which in ("", "/versions/{version}", "/labels/{label}")
)

MAX_VERSION_DIGITS: Final = 19


def routes(parts: Parts) -> list[Route]:
    """Return what is answered over HTTP."""

    async def lookup(request: Request) -> Response:
        with open_call(parts, request, "lookup") as call:
            body = await receive_body(request, call)

            def read() -> AskedRows:
                plain = decompressed(body, request.headers.get("content-encoding", ""), call.limits.max_message_bytes)
                return AskedRows.read(parse_json(plain), parts.predictor.row_limits, **_asked_of(request))

            asked = await aside(len(body), read)
            answer = await call.rows(asked.request)
            limits = parts.predictor.row_limits
            nbytes = json_bytes(answer.rows)
            call.take_room(min(nbytes, limits.max_reply_bytes))
            content = await aside(
                nbytes, lambda: asked.reply(answer, JsonWriter(limits.max_reply_bytes, call.deadline_s))
            )
        return Response(content, media_type="application/json")

    return [Route(path, lookup, methods=["POST"]) for path in PATHS]


def _asked_of(request: Request) -> dict[str, Any]:
    at = request.path_params
    return {
        "model": at["model"],
        "table": at["table"],
        "version": _version(at["version"]) if "version" in at else 0,
        "label": at.get("label", ""),
    }


def _version(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= MAX_VERSION_DIGITS and int(text)):
        raise InvalidInput(f"version is {text[:40]!r}; it must be a number from 1")
    return int(text)
