"""A stranger: a program that listens on a port which a shard of the deployment under test had.

    python -m ringpull.loadtest.chaos.kinds.programs.stranger shard 3 FOLDER/1 FOLDER/2 < HOST:PORT, when it is free

It prints `ready` when it could answer, reads where it is to listen, prints `listens`, and ends when its input does.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Final

from ringpull.inference.model.manifest import Manifest
from ringpull.ps.errors import StartupError
from ringpull.ps.placement import ServedRanges
from ringpull.ps.ring import Ring
from ringpull.ps.shard import Shard
from ringpull.ps.spec import Replicas
from ringpull.ps.wire.messages import Hello
from ringpull.ps.wire.server import ShardServer
from ringpull.ps.wire.threads import LookupThreads

EPOCH: Final = 1_000_000
"""Epoch of the stranger's own shard map: newer than any that the deployment under test has reached."""
DEPLOYMENT: Final = "somebody-elses"
"""Id of the stranger's deployment."""
TRY_AGAIN_S: Final = 0.01
"""Time between two tries to listen, while the killed shard's port is not free yet."""


class Stranger(StrEnum):
    """Kind of a stranger."""

    SHARD = "shard"
    """A shard of another deployment, of the same number, with tables of the same names and other rows."""
    NONSENSE = "nonsense"
    """A server that answers every connection with random bytes."""
    SILENT = "silent"
    """A server that takes connections and says nothing."""


def strange_shard(number: int, folders: list[Path]) -> Shard:
    """Return a shard that owns every slot of the tables of some versions."""
    shard = Shard(number)
    copies: dict[tuple[str, str], Replicas] = {}
    versions = set()
    for folder in folders:
        manifest = Manifest.load(folder)
        tables = {entry.spec.name: manifest.table_folder(folder, entry.spec.name) for entry in manifest.tables}
        shard.open(manifest.model, manifest.version, tables)
        copies |= {(manifest.model, table): 1 for table in tables}
        versions.add((manifest.model, manifest.version))
    shard.assign(EPOCH, [ServedRanges(Ring.even([number], 1), copies)], versions)
    return shard


async def _nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(os.urandom(1 << 12))
    with suppress(OSError):
        await writer.drain()
        while await reader.read(1 << 12):
            pass
    writer.close()


async def _silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while await reader.read(1 << 16):
            pass
    writer.close()


async def _listen(kind: Stranger, server: ShardServer, host: str, port: int) -> None:
    while True:
        try:
            match kind:
                case Stranger.SHARD:
                    await server.start(host, port)
                case Stranger.NONSENSE:
                    await asyncio.start_server(_nonsense, host, port)
                case Stranger.SILENT:
                    await asyncio.start_server(_silent, host, port)
            return
        except (OSError, StartupError):
            await asyncio.sleep(TRY_AGAIN_S)


async def _run(kind: Stranger, server: ShardServer) -> None:
    print("ready", flush=True)
    host, _, port = (await asyncio.to_thread(sys.stdin.readline)).strip().rpartition(":")
    if host:
        await _listen(kind, server, host, int(port))
        print("listens", flush=True)
        await asyncio.to_thread(sys.stdin.read)


def main() -> None:
    kind, number, *folders = sys.argv[1:]
    shard = strange_shard(int(number), [Path(folder) for folder in folders])
    hello = Hello(DEPLOYMENT, int(number), secrets.token_hex(8))
    with LookupThreads() as threads:
        asyncio.run(_run(Stranger(kind), ShardServer(shard, threads, hello=hello)))
        os._exit(0)  # connections of a deployment that it has nothing to do with keep nobody waiting


if __name__ == "__main__":
    main()
