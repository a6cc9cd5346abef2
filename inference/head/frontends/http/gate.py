"""The gate of a head's HTTP: who may ask is decided before it is looked at what for.

What nobody is asked for is in `FREE`. A path that is not here is asked for like one that is, so that whoever may ask
for nothing learns nothing, not even that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from ringpull.inference.head.access import ANY_ROLE, Access
from ringpull.inference.head.audit import AuditLog, Entry
from ringpull.inference.head.frontends.http.errors import failed
from ringpull.ps.errors import RingpullError
from ringpull.router.control.verbs import Role

PAGE: Final = frozenset({"/", "/page.js", "/ring.js", "/try.js", "/page.css"})
"""Paths of the page, which is the same for everybody, and asks for a token itself."""
OIP_HEALTH: Final = ("/v2/health/live", "/v2/health/ready", "/v2/health/live/", "/v2/health/ready/")
FREE: Final = frozenset({"/healthz", *OIP_HEALTH}) | PAGE
"""Paths that are free for everyone: probes have no token."""
ROLES: Final[Mapping[str, tuple[Role, ...]]] = {
    "/status": (Role.READ,),
    "/v1/models": (Role.READ, Role.PREDICT),
    "/openapi.json": (Role.READ, Role.PREDICT),
    "/metrics": (Role.READ,),
    "/metrics/targets": (Role.READ,),
}
"""Roles of which one is needed, by path; any will do for a path that is not here."""


OPERATING: Final = re.compile(r"/v2/repository/models/(?P<model>[^/]+)/(?P<verb>load|unload)")
"""Paths of operators' verbs: of these it is told who was not let in."""


def asking(access: Access, audit: AuditLog | None = None) -> Middleware:
    """Return the middleware that holds every request against a rule.

    Args:
        audit: Where it is told who was not let in to ask for an operators' verb; None: nowhere.
    """
    return Middleware(_Gate, access, audit)


def authorization_of(scope: Scope) -> str | None:
    """Return what the caller of a request shows of itself, for `Access.admit`; None: nothing.

    Several headers are as one with all of their values: no such value is a token.
    """
    shown = [value for name, value in scope["headers"] if name == b"authorization"]
    return b", ".join(shown).decode("latin-1") if shown else None


def peer_of(scope: Scope) -> str:
    """Return the address that a request comes from, HOST:PORT; empty: it is not known."""
    client = scope.get("client")
    return "" if client is None else f"{client[0]}:{client[1]}"


class _Gate:
    def __init__(self, app: ASGIApp, access: Access, audit: AuditLog | None) -> None:
        self._app = app
        self._access = access
        self._audit = audit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in FREE:
            try:
                self._access.admit(authorization_of(scope), *ROLES.get(scope["path"], ANY_ROLE))
            except RingpullError as exc:
                self._tell(scope, exc)
                await (await failed(Request(scope), exc))(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _tell(self, scope: Scope, error: RingpullError) -> None:
        asked = OPERATING.fullmatch(scope["path"])
        if asked is None or self._audit is None:
            return
        entry = Entry(asked["verb"], asked["model"], peer_of(scope), "http")
        with suppress(RingpullError), self._audit.refusals_of(entry):
            raise error
