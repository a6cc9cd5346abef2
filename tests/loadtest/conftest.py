"""A small model served by real shards and a real head in this process, once for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.local import LocalCluster, local_cluster
from tests.integration.ranker import export_ranker


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Serve the ranker; one test at a time sends requests, so its counters are that test's."""
    _, version = export_ranker(tmp_path_factory.mktemp("loadtest"))
    with local_cluster([version]) as running:
        yield running
