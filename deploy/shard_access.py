"""Access of a command to the shards of a deployment, as one of its own processes: a connection to each, over TCP.

Shards ask nobody for tokens. Where a deployment speaks TLS they demand a certificate of its CA, or without a CA the
deployment's very own: that of the command's options (`--tls-cert`, `--tls-key`), which then has to be one of these.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ringpull.deploy import command_credentials
from ringpull.ps.hashing import SLOTS
from ringpull.ps.placement import RangeSource
from ringpull.ps.ring import SlotRange
from ringpull.ps.tls import LiveTls, TlsFiles
from ringpull.ps.transfer.peer import Peers
from ringpull.router.newest import Ask

_ALL = SlotRange(0, SLOTS)


@contextmanager
def asking_shards(deployment: str) -> Iterator[Ask]:
    """Yield what asks a shard by its address, until the context ends.

    Args:
        deployment: Id of the deployment; empty: any.

    Raises:
        InvalidInput: A file of the command's TLS options cannot be used.
    """
    shown = command_credentials.current()
    files = TlsFiles(cert=shown.cert_file, key=shown.key_file, ca=shown.ca_file) if shown.cert_file else TlsFiles()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="shards", daemon=True)
    thread.start()
    peers = Peers(loop, deployment, LiveTls.of(files))
    try:
        yield lambda address, request: peers.request(
            RangeSource(_ALL, address.host, address.port, address.shard, address.incarnation), request
        )
    finally:
        peers.interrupt()
        peers.close()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
