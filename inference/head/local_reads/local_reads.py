"""Local reads of one head: its files, and the following of shards, as one thing that may be off."""

from __future__ import annotations

import asyncio

from ringpull.inference.head.local_reads.files import LocalFiles
from ringpull.inference.head.local_reads.following import Following, Shards
from ringpull.inference.head.metrics.call_tally import KeysHere
from ringpull.ps.identity import number_of


class LocalReads:
    """Local reads of a head, on its loop. Where they are not wanted, nothing is read here and nobody is asked."""

    def __init__(self, wanted: bool) -> None:
        self.files = LocalFiles() if wanted else None
        """What the router is to answer keys from; None: nothing."""
        self._following: Following | None = None
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<LocalReads {'off' if self.files is None else self.files}>"

    def begin(self, shards: Shards) -> None:
        """Follow these shards."""
        if self.files is not None:
            self._following = Following(self.files, shards)
            self._task = asyncio.create_task(self._following.follow())

    async def learn(self, model: str, version: int, identity: str) -> None:
        """Read a version here from now on, as far as its files are on this machine and can be opened."""
        if self._following is not None:
            await self._following.learn(model, version, number_of(identity))

    def forget(self, model: str, version: int) -> None:
        """Read a version here no more."""
        if self._following is not None:
            self._following.forget(model, version)

    def keys(self) -> KeysHere:
        """Return how many keys of each table were answered here, and how many of these were missing, by version."""
        return {} if self.files is None else self.files.keys()

    @property
    def warnings(self) -> tuple[str, ...]:
        """Say which files of this machine cannot be read here, though a shard serves them."""
        opened = {} if self.files is None else self.files.opened()
        return tuple(
            f"{model}/{version}: {files.refused[0]}; its keys are asked of shards"
            + (f" (and {len(files.refused) - 1} tables more)" if len(files.refused) > 1 else "")
            for (model, version), files in sorted(opened.items())
            if files.refused
        )

    def close(self) -> None:
        """Follow no more, and let go of all files. Nothing may be pulled afterwards."""
        if self._task is not None:
            self._task.cancel()
        if self._following is not None:
            self._following.close()
        if self.files is not None:
            self.files.close()
