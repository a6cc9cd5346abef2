"""A browser for all tests of the page, and a head for each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.chromium import chromium
from tests.inference.page.page_head import PageHead, page_head


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture
def head() -> Iterator[PageHead]:
    with page_head() as made:
        yield made
