"""The Chromium that is installed, driven by playwright, for tests of the page. Without one they are skipped."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")

PATIENCE_MS = 60_000
"""Longest wait for something that has to come; only a broken build waits so long."""


@contextmanager
def chromium() -> Iterator[Any]:
    """Return a browser, or skip the test and say why."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: it drives the browser")
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"there is no Chromium here: {', '.join(NAMES)}; Debian's package is called chromium")
    with sync_api.sync_playwright() as playwright:
        # Root has no sandbox, and a container little shared memory.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage"])
        try:
            yield browser
        finally:
            browser.close()


class Tab:
    """One page in a browser, and everything that it complains of."""

    def __init__(
        self, browser: Any, *, width: int = 1200, height: int = 900, dark: bool = False, **options: Any
    ) -> None:
        scheme = "dark" if dark else "light"
        self._context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, **options)
        self.page = self._context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.complaints: list[str] = []
        """Errors of scripts, of the content security policy, and of the console."""
        self.asked: list[str] = []
        """Addresses of all that was asked for."""
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda line: self._hear(line))
        self.page.on("request", lambda request: self.asked.append(request.url))

    def _hear(self, line: Any) -> None:
        if line.type in ("error", "warning"):
            self.complaints.append(line.text)

    def close(self) -> None:
        self._context.close()


@contextmanager
def tab(browser: Any, url: str, **options: Any) -> Iterator[Tab]:
    """Open a page, and hold against it what it complains of unless the test has taken note and cleared that."""
    opened = Tab(browser, **options)
    try:
        opened.page.goto(url)
        yield opened
        assert opened.complaints == []
    finally:
        opened.close()
