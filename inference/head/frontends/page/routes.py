"""The page over HTTP."""

from __future__ import annotations

from starlette.routing import Route

from ringpull.inference.head.frontends.parts import Parts


def routes(parts: Parts) -> list[Route]:
    """Return what is answered over HTTP."""
    return []
