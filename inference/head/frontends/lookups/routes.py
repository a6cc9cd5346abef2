"""Rows by key over HTTP.

    POST /v1/models/MODEL[/versions/N|/labels/LABEL]/tables/TABLE:lookup

Errors are TensorFlow Serving's, `{"error": TEXT}`, as elsewhere below `/v1/models/`.
"""

from __future__ import annotations

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ringpull.inference.head.catalog import Catalog
from ringpull.inference.head.frontends.http.bodies import open_call, receive_unpacked
from ringpull.inference.head.frontends.lookups.json_bodies import AskedRows, json_bytes
from ringpull.inference.head.frontends.parts import Parts
from ringpull.inference.head.frontends.tfs.rest_paths import numbered
from ringpull.inference.head.frontends.tfs.signatures import number_of
from ringpull.inference.wire.json_reading import parse_json
from ringpull.inference.wire.json_writing import JsonWriter

PATHS: Final = tuple(
    f"/v1/models/{{model}}{which}/tables/{{table}}:lookup" for which in ("", "/versions/{version}", "/labels/{label}")
)


def routes(parts: Parts) -> list[Route]:
    """Return what is answered over HTTP."""

    async def lookup(request: Request) -> Response:
        with open_call(parts, request, "lookup") as call:
            body, named = await receive_unpacked(request, call), asked_of(request, parts.catalog)
            limits = parts.predictor.row_limits
            asked = await call.aside(len(body), lambda: AskedRows.read(parse_json(body), limits, **named))
            answer = await call.rows(asked.request)
            nbytes = json_bytes(answer.rows)
            call.take_room(min(nbytes, limits.max_reply_bytes))
            writer = JsonWriter(limits.max_reply_bytes, call.deadline_s)
            content = await call.aside(nbytes, lambda: asked.reply(answer, writer))
        return Response(content, media_type="application/json")

    return [Route(path, lookup, methods=["POST"]) for path in PATHS]


def asked_of(request: Request, catalog: Catalog) -> dict[str, Any]:
    """Return the table that a path names, and of which version, by the rules of all paths below `/v1/models/`."""
    at = request.path_params
    model, version = at["model"], 0
    if "version" in at:
        version = numbered(model, at["version"])
    elif "label" in at:
        version = number_of(catalog, model, at["label"])
    return {"model": model, "table": at.get("table", ""), "version": version, "label": ""}
