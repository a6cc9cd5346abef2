"""The server's own counters, to hold a tool's count against, and to see how many ids were in no table."""

from __future__ import annotations

import logging

from ringpull.inference.client.client import Client
from ringpull.inference.errors import RingpullError
from ringpull.loadtest.report import ServerCounts

logger = logging.getLogger(__name__)


def server_counts(client: Client, model: str) -> ServerCounts | None:
    """Return the counters now, keys and missing ones of the model's tables; None when the server does not tell."""
    try:
        status = client.status()
    except RingpullError as exc:
        logger.warning("the server's own counts are left out: %s", exc)
        return None
    tables = [table for table in status.tables if table.model == model]
    return ServerCounts(
        requests=status.requests,
        keys=sum(table.keys for table in tables),
        missing=sum(table.missing for table in tables),
    )
