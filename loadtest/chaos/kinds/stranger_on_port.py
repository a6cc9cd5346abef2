"""`impersonate-shard`: a shard is killed, and at once a stranger listens on its port for some seconds: the shard of
another deployment, with rows of the same tables and other values, or a server that speaks nonsense, or one that says
nothing.

Promised: what is promised when a shard is killed; a stranger is hung up on, and none of its rows is in any answer.
Undone by ending the stranger, which also ends when this program does.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

import psutil

from ringpull.loadtest.chaos.kinds.programs.stranger import Stranger
from ringpull.loadtest.chaos.kinds.scene import Injected, Scene
from ringpull.loadtest.chaos.schedule import Fault

LISTEN_S: Final = 5.0
"""Time within which a stranger must have the port; a shard that was killed has left it by then."""
PROGRAM: Final = "ringpull.loadtest.chaos.kinds.programs.stranger"


async def impersonate_shard(scene: Scene, fault: Fault, injected: Injected) -> None:
    """Kill a shard, and let a stranger listen in its place."""
    shards = [shard for shard in (await scene.status()).shards if shard.alive]
    if not shards:
        return
    number, within = divmod(fault.pick * len(Stranger), 1)
    shard = shards[int(within * len(shards))]
    async with _stranger(scene, list(Stranger)[int(number)], shard.shard) as listen:
        injected()
        gone = _killed(shard.pid)
        await listen(shard.address)
        await asyncio.sleep(fault.seconds)
    await scene.health.wait(*gone)


def _killed(pid: int) -> list[psutil.Process]:
    try:
        victim = psutil.Process(pid)
        victim.kill()
    except psutil.NoSuchProcess:
        return []
    return [victim]


@asynccontextmanager
async def _stranger(scene: Scene, kind: Stranger, shard: int) -> AsyncIterator[Callable[[str], Awaitable[None]]]:
    """Start a stranger, have it ready, and yield what has it listen at an address; end it, whatever comes."""
    folders = sorted(path for path in scene.folders.others.iterdir() if path.name.isdigit())
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", PROGRAM, kind, str(shard), *map(str, folders)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    talking = process.stdin, process.stdout

    async def listen(address: str) -> None:
        talking[0].write(f"{address}\n".encode())
        said = b""
        with suppress(TimeoutError):
            said = await asyncio.wait_for(talking[1].readline(), LISTEN_S)
        if said != b"listens\n":
            scene.broke(f"the stranger has not had {address} within {LISTEN_S:g} s, it said {said!r}")

    try:
        if (said := await process.stdout.readline()) != b"ready\n":
            raise RuntimeError(f"the stranger is not ready, it said {said!r}: python -m {PROGRAM}")
        yield listen
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
