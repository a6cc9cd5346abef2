"""The OpenAPI document of a head: what is served now, with each model's own features, for generated clients and tools.

Every live model has operations of its own, so that whoever reads the document needs no other word about it. Each has
examples that are answered as they are. The document is made anew when models came or went, and named by an ETag.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from ringpull import __version__
from ringpull.inference.head.access import Unasked
from ringpull.inference.head.catalog import ServedVersion
from ringpull.inference.head.frontends.http.errors import json_bytes
from ringpull.inference.head.frontends.json.operations import (
    any_prediction,
    fixed_paths,
    json_prediction,
    largest_scores,
    rows_by_key,
    tfs_prediction,
)
from ringpull.inference.head.frontends.json.operations import components as common_components
from ringpull.inference.head.frontends.parts import Parts

CACHING: Final = "no-cache"
"""What who keeps the document does: it asks whether it is still the same."""

_NO_IDENTIFIER: Final = re.compile(r"[^0-9A-Za-z_]")


class OpenApi:
    """The document as it is now. Owned by the event loop."""

    def __init__(self, parts: Parts) -> None:
        """Take the parts that say what is served."""
        self._catalog = parts.catalog
        self._asks_tokens = not isinstance(parts.predictor.access, Unasked)
        self._of: list[ServedVersion] | None = None
        """Versions that the text is of; None: there is none yet."""
        self._text = b""
        self._etag = ""

    async def answer(self, request: Request) -> Response:
        """Answer with the document, or that it is still the same."""
        live = self._catalog.live()
        if live != self._of:
            self._text = json_bytes(document(live, asks_tokens=self._asks_tokens))
            self._etag = f'"{sha256(self._text).hexdigest()[:32]}"'
            self._of = live
        headers = {"ETag": self._etag, "Cache-Control": CACHING}
        if self._etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(self._text, headers=headers, media_type="application/json")


def document(live: Sequence[ServedVersion], *, asks_tokens: bool) -> dict[str, Any]:
    """Return the document of these versions.

    Args:
        asks_tokens: Whether callers have to show a token.
    """
    scoring = [each for each in live if each.outputs]
    paths = fixed_paths()
    schemas: dict[str, Any] = {}
    paths["/v1/predict"] = {"post": any_prediction(scoring)}
    names = _Names()
    for each in scoring:
        model = each.loaded.manifest.model
        json_operation, added = json_prediction(each.loaded)
        schemas |= added
        paths[f"/v1/predict/{model}"] = {"post": json_operation}
        paths[f"/v1/models/{model}:predict"] = {"post": tfs_prediction(each.loaded)}
    for each in live:
        manifest = each.loaded.manifest
        for table in manifest.tables:
            path = f"/v1/models/{manifest.model}/tables/{table.spec.name}"
            paths[f"{path}:lookup"] = {"post": rows_by_key(each.loaded, table.spec)}
            if table.spec.dim:
                paths[f"{path}:top_k"] = {"post": largest_scores(each.loaded, table.spec)}
    for operations in paths.values():
        for operation in operations.values():
            operation["operationId"] = names.unique(operation["operationId"])
    components = common_components()
    components["schemas"] |= schemas
    found: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "ringpull",
            "version": __version__,
            "summary": "Predictions of recommendation models, and rows of their tables.",
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": components,
    }
    if asks_tokens:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        found["security"] = [{"token": []}]
    return found


class _Names:
    """Names of operations, which are all different, and identifiers wherever they are made code of."""

    def __init__(self) -> None:
        self._given: set[str] = set()

    def unique(self, wanted: str) -> str:
        """Return a name as it is wanted, or the next one that is free."""
        name = plain = _NO_IDENTIFIER.sub("_", wanted)
        number = 1
        while name in self._given:
            number += 1
            name = f"{plain}_{number}"
        self._given.add(name)
        return name
