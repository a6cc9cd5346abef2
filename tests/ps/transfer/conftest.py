"""One S3 server for all tests here that ask for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.object_store import S3


@pytest.fixture(scope="package")
def s3_server() -> Iterator[S3]:
    from tests.object_store import S3

    with S3() as server:
        yield server


@pytest.fixture
def s3(s3_server: S3) -> Iterator[S3]:
    """Return the server, which has given nothing away yet and refuses nothing."""
    s3_server.forget()
    yield s3_server
    s3_server.refuses, s3_server.before_get = lambda key: False, lambda key: None
