"""The page over HTTP: files that are the same for everybody, and hold no secret.

What it shows it asks by its script: `/status`, and `/v1/predict` for the form. So the gate asks for a token there, not
here. The headers keep anything from outside away from it, and it from being shown within another page.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from hashlib import sha256
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ringpull.inference.head.frontends.parts import Parts

FOLDER: Final = Path(__file__).parent

FILES: Final = {
    "/": ("page.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/ring.js": ("ring.js", "text/javascript"),
    "/try.js": ("try.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}
"""File and type by path. `ringpull.inference.head.frontends.http.gate.PAGE` has these paths, too."""

POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src data:",  # its icon
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)

HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Kept, but asked for whether it is the newest: the next build has another script.
    "Cache-Control": "no-cache",
}


def routes(parts: Parts) -> list[Route]:
    """Return what is answered over HTTP."""
    return [Route(path, _answer(FOLDER / name, kind)) for path, (name, kind) in FILES.items()]


def _answer(file: Path, kind: str) -> Callable[[Request], Awaitable[Response]]:
    body = file.read_bytes()
    tag = f'"{sha256(body).hexdigest()[:16]}"'
    headers = {**HEADERS, "ETag": tag}

    async def endpoint(request: Request) -> Response:
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(body, media_type=kind, headers=headers)

    return endpoint
