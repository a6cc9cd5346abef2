"""The rows of a table with the largest scores, over HTTP.

    POST /v1/models/MODEL[/versions/N|/labels/LABEL][/tables/TABLE]:top_k

Without a table it is the one that an output of the model is made for.

Errors are TensorFlow Serving's, `{"error": TEXT}`, as elsewhere below `/v1/models/`.
"""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ringpull.inference.head.frontends.http.bodies import open_call, receive_unpacked
from ringpull.inference.head.frontends.lookups.routes import asked_of
from ringpull.inference.head.frontends.parts import Parts
from ringpull.inference.head.frontends.top_k.answering import answered
from ringpull.inference.head.frontends.top_k.json_bodies import answer_bytes, read_top_k, write_answer
from ringpull.inference.wire.json_reading import parse_json
from ringpull.inference.wire.json_writing import JsonWriter

PATHS: Final = tuple(
    f"/v1/models/{{model}}{which}{table}:top_k"
    for which in ("", "/versions/{version}", "/labels/{label}")
    for table in ("/tables/{table}", "")
)


def routes(parts: Parts) -> list[Route]:
    """Return what is answered over HTTP."""

    async def top_k(request: Request) -> Response:
        with open_call(parts, request, "top_k") as call:
            body, named = await receive_unpacked(request, call), asked_of(request, parts.catalog)
            asked = await call.aside(len(body), lambda: read_top_k(parse_json(body), call.limits, **named))
            answer = await answered(call, asked)
            nbytes, most = answer_bytes(answer), call.limits.max_message_bytes
            call.take_room(min(nbytes, most))
            writer = JsonWriter(most, call.deadline_s)
            content = await call.aside(nbytes, lambda: write_answer(answer, writer))
        return Response(content, media_type="application/json")

    return [Route(path, top_k, methods=["POST"]) for path in PATHS]
