"""Check of who reads the metrics of a process that is no head: a shard's, whose port is asked by scrapers only."""

from __future__ import annotations

import logging
import threading
from typing import Final

from ringpull.inference.head.tokens.settings import TokenSettings
from ringpull.inference.head.tokens.tokens import Tokens
from ringpull.ps.errors import InvalidInput, Unavailable
from ringpull.router.control.verbs import Role

logger: Final = logging.getLogger(__name__)


class ScrapeCheck:
    """Check of callers by tokens, which it reads again each time: scrapers come seldom. Safe to use from any thread.

    A shard serves rows whatever its tokens are like: while they cannot be read, its metrics are refused, and no more.
    """

    def __init__(self, settings: TokenSettings) -> None:
        """Note where the tokens are; they are read when somebody asks.

        Args:
            settings: Where they are.
        """
        self._settings = settings
        self._lock = threading.Lock()
        self._tokens: Tokens | None = None

    def __call__(self, authorization: str | None) -> None:
        """Check what a caller shows.

        Raises:
            Unauthenticated: It has to show a token that is known here.
            Forbidden: Its token may not read.
            Unavailable: The tokens cannot be read.
        """
        with self._lock:
            if self._tokens is not None:
                self._tokens.look()
            tokens = self._tokens = self._tokens or self._read()
        tokens.admit(authorization, Role.READ)

    def _read(self) -> Tokens:
        try:
            return Tokens(self._settings)
        except InvalidInput as exc:
            logger.warning("metrics are refused: %s", exc)
            raise Unavailable("the tokens cannot be read here; the log of this process says why") from None


def scrape_check(settings: TokenSettings) -> ScrapeCheck | None:
    """Return the check for these settings; None where nothing is asked of anyone."""
    return ScrapeCheck(settings) if settings.asked else None
