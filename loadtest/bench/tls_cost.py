"""The cost of TLS: rate and processor time of requests to a deployment that speaks it, beside one in plain text.

One model served three times: in plain text, with a certificate, and with a CA, so that the client shows one as well.
Between head and shards both ends show one in either case. They are loaded in turns, in an order that is drawn anew for
every round. Requests of one candidate are the worst case of what a message costs, those of 128 of what bytes cost. The
generator encrypts and decrypts on the same cores, which is in the rates and not in the processor time of a request.

Then the data plane alone, a caller and a shard without tables: processor time of both ends for a pull of about 2 kB, of
1 MiB, and for a connection. Certificates are of P-256, made by `openssl`.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
import uvloop

from ringpull.inference.client.credentials import Credentials
from ringpull.loadtest.bench.asked_rates import IN_FLIGHT, PATIENT, ROUNDS, ROWS, SHARDS, compare, in_drawn_order
from ringpull.loadtest.bench.harness import QUICK, Report
from ringpull.loadtest.bench.wire import NoTables
from ringpull.loadtest.deployment import deployed
from ringpull.loadtest.dlrm import dlrm_folder
from ringpull.loadtest.process import cpu_seconds, server
from ringpull.ps.pull_messages import Op, PullRequest, SubLookup
from ringpull.ps.tls import LiveTls, TlsFiles
from ringpull.ps.wire.connection import Connection
from ringpull.ps.wire.server import ShardServer
from ringpull.ps.wire.threads import LookupThreads

TRIPS = {"2 kB": 1_000 if QUICK else 2_000, "1 MiB": 50 if QUICK else 200}
CONNECTIONS = 50 if QUICK else 200
DIM: Final = 64
BAGS: Final = {"2 kB": 8, "1 MiB": (1 << 20) // (4 * DIM)}
"""Bags of a pull by the bytes of its reply."""
KEY_KIND: Final = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")


def main() -> None:
    folder = dlrm_folder(ROWS)
    report = Report(
        "TLS, with and without a client's certificate, beside plain text: requests/s, CPU of head and shards"
    )
    with ExitStack() as stack:
        made = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ringpull-bench-")))
        ca, cert, key = (str(path) for path in certificate(made))
        shown = ("--tls-cert", cert, "--tls-key", key)
        options: dict[str, tuple[tuple[str, ...], Credentials]] = {
            "none": ((), Credentials()),
            "tls": (shown, Credentials.given(ca, "", "", "")),
            "mutual": ((*shown, "--tls-ca", ca), Credentials.given(ca, cert, key, "")),
        }
        with data_plane(TlsFiles(cert=cert, key=key, ca=ca)) as ends:
            _compare_data_plane(report, ends)
        contenders = {
            name: (stack.enter_context(deployed(folder, SHARDS, *PATIENT, *given)), credentials)
            for name, (given, credentials) in options.items()
        }
        for candidates in IN_FLIGHT:
            compare(report, contenders, ("tls", "mutual"), candidates)
    report.finish()


def certificate(folder: Path) -> tuple[Path, Path, Path]:
    """Make a CA and a certificate of it for this machine; return the files of the CA, the certificate and its key.

    Raises:
        RuntimeError: There is no `openssl`, or it is older than 3.
    """
    ca, ca_key, cert, key = (folder / name for name in ("ca.pem", "ca.key", "cert.pem", "key.pem"))
    names = ("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE")
    by_ca = ("-CA", str(ca), "-CAkey", str(ca_key))
    _openssl("-keyout", str(ca_key), "-out", str(ca), "-subj", "/CN=ca of a bench")
    _openssl("-keyout", str(key), "-out", str(cert), "-subj", "/CN=localhost", *by_ca, *names)
    return ca, cert, key


def _openssl(*options: str) -> None:
    try:
        ran = subprocess.run(
            ["openssl", "req", "-x509", *KEY_KIND, *options], capture_output=True, encoding="utf-8", check=False
        )
    except OSError as exc:
        raise RuntimeError(f"certificates cannot be made: openssl: {exc.strerror}") from exc
    if ran.returncode:
        raise RuntimeError(f"certificates cannot be made: {ran.stderr.strip()}")


# -- the data plane alone ----------------------------------------------------------------------------------------------


class Ends:
    """Both ends of the data plane, each a process, which is connected by each contender."""

    def __init__(self, runner: asyncio.Runner, shard: psutil.Process, contenders: Mapping[str, Plane]) -> None:
        self._runner = runner
        self._shard = shard
        self._contenders = contenders
        self._open = {name: runner.run(each.connect()) for name, each in contenders.items()}

    def close(self) -> None:
        """Hang up."""
        for connection in self._open.values():
            self._runner.run(connection.close())

    def pull_us(self, name: str, request: PullRequest, times: int) -> float:
        """Return the processor time of a pull, at both ends."""

        async def pulls() -> None:
            for _ in range(times):
                await self._open[name].request(request, deadline_s=time.monotonic() + 60)

        return self._timed_us(pulls(), times)

    def connection_us(self, name: str) -> float:
        """Return the processor time of a connection with its handshake, hello and one pull, at both ends."""
        request = request_of(1)

        async def connections() -> None:
            for _ in range(CONNECTIONS):
                connection = await self._contenders[name].connect()
                await connection.request(request, deadline_s=time.monotonic() + 60)
                await connection.close()

        return self._timed_us(connections(), CONNECTIONS)

    def _timed_us(self, work: Coroutine[Any, Any, None], times: int) -> float:
        theirs_s, ours_s = cpu_seconds([self._shard]), time.process_time()
        self._runner.run(work)
        return (cpu_seconds([self._shard]) - theirs_s + time.process_time() - ours_s) / times * 1e6


@dataclass(frozen=True, slots=True)
class Plane:
    """A port of a shard without tables, and what is spoken there."""

    port: int
    tls: LiveTls | None

    async def connect(self) -> Connection:
        return await Connection.connect("127.0.0.1", self.port, tls=self.tls)


@contextmanager
def data_plane(files: TlsFiles) -> Iterator[Ends]:
    """Yield both ends of the data plane, connected with TLS and in plain text."""
    with (
        server("ringpull.loadtest.bench.tls_cost", "serve", files.cert, files.key, files.ca) as (ports, shard),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        with_tls, plain = map(int, ports.split())
        ends = Ends(runner, shard, {"tls": Plane(with_tls, LiveTls(files)), "none": Plane(plain, None)})
        yield ends
        ends.close()


async def serve(files: TlsFiles) -> None:
    """Serve a shard without tables, with TLS and in plain text."""
    with LookupThreads() as threads:
        ports = [(await ShardServer(NoTables(), threads, tls=tls).start())[1] for tls in (LiveTls(files), None)]
        print("ready", *ports, flush=True)
        await asyncio.Event().wait()


def _compare_data_plane(report: Report, ends: Ends) -> None:
    names = ("tls", "none")
    for size, bags in BAGS.items():
        pulls = {name: partial(ends.pull_us, name, request_of(bags), TRIPS[size]) for name in names}
        samples = in_drawn_order(pulls, rounds=ROUNDS)
        key = f"tls_pull_cpu_{size.replace(' ', '').lower()}"
        report.compare(f"CPU us of both ends, a pull of {size}", samples, names, key=key)
    connections = in_drawn_order({name: partial(ends.connection_us, name) for name in names}, rounds=ROUNDS)
    report.compare("CPU us of both ends, a connection", connections, names, key="tls_connection_cpu")


def request_of(bags: int) -> PullRequest:
    """Return a pull of one look-up of so many bags, of a key each."""
    lookups = (SubLookup("table", Op.SUM, bags, bags, False),)
    positions, lengths = np.arange(bags, dtype=np.uint64), np.ones(bags, np.uint32)
    return PullRequest("model", 1, 1, lookups, positions, lengths, np.empty(0, np.float32))


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        cert, key, ca = sys.argv[2:]
        uvloop.run(serve(TlsFiles(cert=cert, key=key, ca=ca)))
    else:
        main()
