"""TensorFlow Serving's API over HTTP: where it is mounted."""

from __future__ import annotations

import re

from starlette.routing import Route

from ringpull.inference.head.frontends.parts import Parts
from ringpull.inference.head.frontends.tfs.rest import RestApi


def routes(parts: Parts) -> list[Route]:
    """Return what is answered over HTTP: everything below `/v1/models/`, in capitals, too, by any method.

    A line end in a name is part of it: the path has to come here for that to be answered as any unknown name is.
    """
    api = Route("/v1/models/{asked:path}", RestApi(parts))
    api.path_regex = re.compile(api.path_regex.pattern, re.IGNORECASE | re.DOTALL)
    return [api]
