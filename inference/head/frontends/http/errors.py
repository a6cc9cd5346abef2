"""Errors over HTTP: the status by the one table, the body in the style of the API that was asked.

Whose API a path is of is told by how it begins, so that also a path that nothing is at, and a caller who is not let
in, are answered in the style that the client reads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from ringpull.inference.wire.status_codes import MAX_ERROR_CHARS, http_headers, public_text, status_of


class Style(Enum):
    """Form of an error's body."""

    OURS = "ours"
    """`{"code": NAME_OF_GRPC, "message": TEXT}`."""
    TEXT = "text"
    """`{"error": TEXT}`: TensorFlow Serving and the Open Inference Protocol."""


STYLES: Final = (("/v1/models/", Style.TEXT), ("/v2", Style.TEXT))
"""Styles by the beginning of the path, in small letters; elsewhere it is ours."""

OTHER_STATUSES: Final = {404: "NOT_FOUND", 405: "UNIMPLEMENTED"}
"""Names of gRPC for what HTTP itself refuses, by its status."""


def style_of(path: str) -> Style:
    """Return the style of errors below a path."""
    lowered = path.lower()
    return next((style for beginning, style in STYLES if lowered.startswith(beginning)), Style.OURS)


def error_response(error: Exception, style: Style) -> Response:
    """Return the answer to a request that ended with an error, with the headers that go with it."""
    status = status_of(error)
    return _response(style, status.grpc, public_text(error), status.http, http_headers(error))


async def failed(request: Request, error: Exception) -> Response:
    """Answer a request that ended with an error."""
    return error_response(error, style_of(request.url.path))


async def refused(request: Request, error: Exception) -> Response:
    """Answer a request that Starlette has refused: nothing is at its path, or not by its method."""
    assert isinstance(error, HTTPException)
    code = OTHER_STATUSES.get(error.status_code, "INVALID_ARGUMENT")
    text = f"{error.detail}: {request.method} {request.url.path[:MAX_ERROR_CHARS]}"
    return _response(style_of(request.url.path), code, text, error.status_code, error.headers)


def json_bytes(value: Any) -> bytes:
    """Return a value as JSON in UTF-8. Half a character, as `"\\ud800"` in a request, becomes a question mark."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _response(style: Style, code: str, text: str, status: int, headers: Mapping[str, str] | None) -> Response:
    body = {"code": code, "message": text} if style is Style.OURS else {"error": text}
    return Response(json_bytes(body), status, headers, media_type="application/json")
