"""The load of benches over HTTP: whole requests as bytes, over kept connections, one at a time on each.

No client library is between: what is measured is the server. A reply is read by its Content-Length.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import psutil
import uvloop

from ringpull.loadtest.bench.load import check_answered
from ringpull.loadtest.process import cpu_seconds


@dataclass(slots=True)
class HttpRun:
    """Outcomes of a run."""

    statuses: Counter[str] = field(default_factory=Counter)
    """Answers by `OK`, or else by their HTTP status."""
    wall_s: float = 0.0
    server_cpu_s: float = 0.0
    last: bytes = b""
    """Body of the last answer."""

    @property
    def calls_per_s(self) -> float:
        return self.statuses["OK"] / self.wall_s

    @property
    def server_cpu_per_call_s(self) -> float:
        return self.server_cpu_s / self.statuses["OK"]


def post(path: str, body: bytes, *headers: str) -> bytes:
    """Return a whole request."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


@dataclass(frozen=True, slots=True)
class HttpTarget:
    """A server under load, and what costs its time."""

    address: str
    """HOST:PORT."""
    processes: Sequence[psutil.Process] = ()

    def closed_loop(self, requests: list[bytes], *, in_flight: int, seconds: float) -> HttpRun:
        """Keep so many connections asking for `seconds`.

        Raises:
            RuntimeError: An answer was not 200.
        """
        run = HttpRun()

        async def go() -> None:
            until_s = time.perf_counter() + seconds
            await asyncio.gather(
                *[self._ask(requests[each:] + requests[:each], until_s, run) for each in range(in_flight)]
            )

        server_cpu_s, begin_s = cpu_seconds(self.processes), time.perf_counter()
        uvloop.run(go())
        run.wall_s = time.perf_counter() - begin_s
        run.server_cpu_s = cpu_seconds(self.processes) - server_cpu_s
        check_answered(self.address, run.statuses)
        return run

    async def _ask(self, requests: list[bytes], until_s: float, run: HttpRun) -> None:
        host, _, port = self.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        number = 0
        while time.perf_counter() < until_s:
            writer.write(requests[number % len(requests)])
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            length = int(head.split("\r\ncontent-length:")[1].split("\r\n")[0])
            run.last = await reader.readexactly(length)
            status = head.split(" ", 2)[1]
            run.statuses["OK" if status == "200" else status] += 1
            number += 1
        writer.close()
        await writer.wait_closed()
