"""The deployment under test: its models are made, it is served with the real command, and commanded by the others."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ringpull.inference.export.table_options import TableOptions
from ringpull.loadtest.chaos.checked_model import MODEL, export_version
from ringpull.loadtest.chaos.oracle import SINGLE_COPY
from ringpull.loadtest.chaos.pushed_model import PUSHED, export_pushed
from ringpull.loadtest.deployment import Deployment, deployed

RunCommand = Callable[..., Awaitable[dict[str, Any]]]
"""Runs a command line, given word by word, and returns its JSON; raises `CommandFailed`."""


class CommandFailed(RuntimeError):
    """Raised when a command failed; the message has its words, and what it said."""


@contextmanager
def served_models(
    versions: Mapping[str, int], rows: Mapping[str, int], shards: int, options: Sequence[str]
) -> Iterator[tuple[Deployment, RunCommand]]:
    """Serve the first version of each model, and make the others, which are not there yet when it is served.

    Args:
        versions: Number of versions by model: `checked`, and `single_copy` and `pushed` if they are asked for.
        options: Further options of `ringpull serve`.
    """
    with (
        tempfile.TemporaryDirectory(prefix="ringpull-chaos-") as made,
        served_below(Path(made), versions, rows, shards, options) as ours,
    ):
        yield ours, ringpull(ours.target, Path(made))


@contextmanager
def served_below(
    folder: Path,
    versions: Mapping[str, int],
    rows: Mapping[str, int],
    shards: int,
    options: Sequence[str],
    *,
    prefix: Sequence[str] = (),
    opened: bool = False,
) -> Iterator[Deployment]:
    """Serve the first version of each model, all of them made below a folder. Arguments are those of `served_models`.

    Args:
        opened: Shards open the models' files in place. Else each has a data folder of its own: so rows are streamed
            from shard to shard.
        prefix: Words before the command line of `ringpull serve`.
    """
    export_version(folder / MODEL, 1, rows)
    others = []
    if SINGLE_COPY in versions:
        lossy = {"user": TableOptions(on_unavailable="default")}
        export_version(folder / SINGLE_COPY, 1, rows, name=SINGLE_COPY, tables=lossy)
        others.append(str(folder / SINGLE_COPY))
    if PUSHED in versions:
        export_pushed(folder / PUSHED)
        others.append(str(folder / PUSHED))
    data = () if opened else ("--data-dir", str(folder / "data"))
    with deployed(folder / MODEL, shards, *others, *data, *options, prefix=prefix) as ours:
        for version in range(2, versions[MODEL] + 1):
            export_version(folder / MODEL, version, rows)
        yield ours


def ringpull(target: str, folder: Path) -> RunCommand:
    """Return what runs a command line of `ringpull` in a process of its own."""

    async def run(*arguments: str) -> dict[str, Any]:
        words = (*arguments, "--target", target, "--json")
        return await run_program("ringpull", *words, environment={"RINGPULL_STATE_DIR": str(folder / "state")})

    return run


async def run_program(module: str, *arguments: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """Run a program that prints JSON, in a process of its own; return what it printed.

    Args:
        environment: Variables that it gets besides ours.

    Raises:
        CommandFailed: It failed.
    """
    # Its start takes a core for most of a second. Operators have machines of their own for that.
    words = ("nice", "-n", "19", sys.executable, "-m", module, *arguments)
    env = {**os.environ, **environment}
    # Not by uvloop: that forks, and what gRPC does then in the child has killed it (grpcio 1.85, event_engine).
    ended = await asyncio.to_thread(
        lambda: subprocess.run(words, capture_output=True, encoding="utf-8", env=env, check=False)
    )
    if ended.returncode != 0:
        said = ended.stderr.strip() or f"it ended with {ended.returncode}, and said nothing"
        raise CommandFailed(f"{module} {' '.join(arguments)}: {said}")
    found: dict[str, Any] = json.loads(ended.stdout)
    return found
