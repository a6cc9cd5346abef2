"""What a deployment tells over HTTP, read as scrapers and health checks do: with TLS and a token, where it has them."""

from __future__ import annotations

import urllib.error
import urllib.request
from typing import Final

from ringpull.inference.client.credentials import Credentials
from ringpull.inference.client.targets import stays_here
from ringpull.inference.errors import Unavailable

TIMEOUT_S: Final = 30.0


def read(address: str, path: str, credentials: Credentials | None = None, *, timeout_s: float = TIMEOUT_S) -> bytes:
    """Return the body of an answer; no proxy of the environment is asked for what is on this machine.

    Args:
        address: HOST:PORT of HTTP.
        credentials: Credentials for TLS, and a token; None: those of the environment.

    Raises:
        InvalidInput: The credentials of the environment cannot be used.
        Unavailable: There was no answer, or another one than 200; the message has the address, and what came.
    """
    shown = Credentials.given() if credentials is None else credentials
    handlers: list[urllib.request.BaseHandler] = []
    if stays_here(address):
        handlers.append(urllib.request.ProxyHandler({}))
    if shown.tls:
        handlers.append(urllib.request.HTTPSHandler(context=shown.ssl_context()))
    request = urllib.request.Request(f"http{'s' if shown.tls else ''}://{address}{path}")
    if shown.authorization:
        request.add_unredirected_header("Authorization", shown.authorization)
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=timeout_s) as answer:
            body: bytes = answer.read()
            return body
    except urllib.error.HTTPError as exc:
        raise Unavailable(f"{address}{path}: {exc.code} {exc.reason}") from exc
    except OSError as exc:
        raise Unavailable(f"{address}{path}: {getattr(exc, 'reason', exc)}") from exc
