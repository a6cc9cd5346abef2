"""A version served over HTTP with all protocols, its tables answered by the slow reference."""

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from ringpull.inference.head.catalog import Catalog, ServedVersion
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.head.predictor import Predictor
from ringpull.inference.model.version import LoadedVersion
from tests.inference.export.versions import Exported
from tests.inference.fakes import ReferenceRouter
from tests.inference.http_served import http_served
from tests.inference.tfs.rest_served import RestServed

CONFIG = HeadConfig(max_candidates=1_000)


class ImportedServed(RestServed):
    """A catalog of one version, whose rows come from its own tables."""

    def __init__(self, executor: ThreadPoolExecutor, folder: Path) -> None:
        super().__init__(executor, CONFIG, ())
        router = ReferenceRouter(Exported(folder).tables)
        self.versions = [ServedVersion(LoadedVersion.load(folder), router, executor, max_batch_rows=256)]
        self.catalog = Catalog(self.versions)
        self.predictor = Predictor(self.catalog, CONFIG)


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[str]:
    """URL of a served version."""
    with ThreadPoolExecutor(1) as executor:
        served = ImportedServed(executor, folder)
        async with http_served(served) as http:
            yield f"http://127.0.0.1:{http.port}"
        await served.stop()


@asynccontextmanager
async def asking(folder: Path) -> AsyncIterator[Any]:
    """A function that asks a served version as a client of TensorFlow Serving does: path and body in, JSON out."""
    async with serving(folder) as served, httpx.AsyncClient(timeout=60) as client:

        async def ask(path: str, body: Any = None) -> Any:
            url = f"{served}/v1/models/{folder.parent.name}{path}"
            answer = await (client.get(url) if body is None else client.post(url, json=body))
            return answer.json()

        yield ask
