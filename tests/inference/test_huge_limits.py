"""Limits of a head that are as large as they can be: it starts and serves, or refuses them by their names."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from ringpull import AsyncClient
from ringpull.inference.head.config import HeadConfig
from ringpull.ps.errors import InvalidInput
from ringpull.ps.settings import MAX_INT32, MAX_INT64, MAX_WAIT_S
from tests.inference.served import Served, still_serves

CEILINGS = {
    "max_message_bytes": MAX_INT32,
    "max_pending_requests": MAX_INT32,
    "max_values_per_row": MAX_INT64,
    "max_connection_age_s": MAX_WAIT_S,
    "receive_timeout_s": MAX_WAIT_S,
    "http_timeout_s": MAX_WAIT_S,
}
"""Those that gRPC, or a kernel, takes as C's integers."""


@pytest.mark.net
async def test_at_their_ceilings_it_serves() -> None:
    with ThreadPoolExecutor(1) as executor:
        served = Served(executor, HeadConfig(share_port=True, **CEILINGS))
        target = f"127.0.0.1:{await served.server.start()}"
        try:
            async with AsyncClient(target, timeout_s=60) as client:
                await still_serves(client)
        finally:
            await served.server.stop(grace_s=0)
            await served.version.batcher.close(timeout_s=60)


@pytest.mark.parametrize("name", CEILINGS)
def test_over_them_they_are_refused(name: str) -> None:
    for value in (CEILINGS[name] + 1, 10**30, 10**400):
        with pytest.raises(InvalidInput, match=rf"{name} is [0-9.e+]+; it must be {CEILINGS[name]:,.0f} or less"):
            HeadConfig(**{name: value})
