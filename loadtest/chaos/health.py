"""Health of the deployment: every head listens, every shard answers and holds its rows, the coordinator answers and
says that no shard and no head lacks anything, such as a head that does not ask a restarted shard yet.

Seen from outside: by the gRPC of a head, and by the processes there are.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

import psutil

from ringpull import AsyncClient
from ringpull.deploy.ended import has_ended
from ringpull.inference.client.operations import ListMembers, OperationsClient
from ringpull.inference.errors import RingpullError
from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.loadtest.chaos.processes import listening
from ringpull.loadtest.deployment import Deployment

LOOK_S: Final = 0.2
"""Time between two looks, which cost processor time that the deployment could use."""
PATIENCE_S: Final = 120.0
"""Time after which the deployment must be healthy again."""
STATUS_TIMEOUT_S: Final = 5.0


class Broken(RuntimeError):
    """Raised when something did not come back; the message says what."""


class Health:
    """Looks at a deployment, and waits until it is healthy.

    Args:
        heads: How many there have to be.
    """

    def __init__(self, ours: Deployment, client: AsyncClient, operations: OperationsClient, heads: int) -> None:
        self._ours = ours
        self._client = client
        self._operations = operations
        self._heads = heads
        self._port = int(client.target.rpartition(":")[2])

    async def wait(self, *gone: psutil.Process) -> None:
        """Return when nothing is missing.

        Args:
            gone: Processes that were killed: until they have ended, nothing has been repaired.

        Raises:
            Broken: Something is still missing after two minutes.
        """
        until_s = time.monotonic() + PATIENCE_S
        while missing := await self.missing(*gone):
            if time.monotonic() > until_s:
                raise Broken(f"{PATIENCE_S:.0f} s after the fault: {missing}")
            await asyncio.sleep(LOOK_S)

    async def missing(self, *gone: psutil.Process) -> str:
        """Return the first thing that is missing; empty when the deployment is healthy."""
        for process in gone:
            if not has_ended(process):
                return f"process {process.pid} lives on"
        if missing := await asyncio.to_thread(self._missing_processes):
            return missing
        try:
            status = await self._client.status(timeout_s=STATUS_TIMEOUT_S)
        except RingpullError as exc:
            return f"no status: {exc}"
        # The coordinator last: what a head knows of a restarted shard it knows, too, and of the other heads besides.
        return missing_rows(status) or await asyncio.to_thread(self._missing_of_members)

    def _missing_processes(self) -> str:
        heads = listening(self._ours.running("head"), self._port)
        if heads != self._heads:
            return f"{heads} of {self._heads} heads listen"
        if len(self._ours.running("coordinator")) != 1:
            return "there is no coordinator"
        return ""

    def _missing_of_members(self) -> str:
        try:
            members = self._operations.call(ListMembers())
        except RingpullError as exc:
            return f"the coordinator does not answer: {exc}"
        return next((f"{each.member}: {each.missing}" for each in members if each.missing), "")


def missing_rows(status: pb.ClusterStatus) -> str:
    """Return the first shard or table of a status that is not complete; empty when all are."""
    for shard in status.shards:
        if not shard.alive:
            return f"shard {shard.shard} does not answer: {shard.error}"
    for table in status.tables:
        wanted = table.rows * table.replicas_effective
        held = sum(
            each.rows
            for shard in status.shards
            for each in shard.tables
            if (each.model, each.version, each.table) == (table.model, table.version, table.table)
        )
        if held < wanted:
            return f"{table.model}/{table.version}: {held} of {wanted} rows of {table.table}, all copies together"
    return ""
