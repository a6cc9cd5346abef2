"""Reading rows of one version's tables by key: a request becomes one look-up, and one pull of its own.

It rides in no micro-batch: there is no dense program whose cost many could share, and whoever asks for rows waits for
the shards only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from ringpull.inference.head.request.rows_by_key import RowLimits, RowsAnswer, RowsRequest
from ringpull.ps.errors import NotFound, Unavailable
from ringpull.ps.spec import TableSpec
from ringpull.router.lookup import Lookup, LookupResult

FLOAT32_BYTES: Final = 4
OFFSET_BYTES: Final = 8


class Puller(Protocol):
    """The part of a router that is needed."""

    async def pull(
        self, model: str, version: int, lookups: Sequence[Lookup], *, deadline_s: float
    ) -> list[LookupResult]: ...


class RowReader:
    """Reads rows of one version. Owned by the event loop."""

    def __init__(self, model: str, version: int, specs: Mapping[str, TableSpec], router: Puller) -> None:
        self._model = model
        self._version = version
        self._specs: Final = specs
        self._router = router
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False

    def __repr__(self) -> str:
        return f"<RowReader {self._model}/{self._version} in_flight={self._in_flight} closed={self._closed}>"

    @property
    def tables(self) -> list[str]:
        """Names of the tables."""
        return sorted(self._specs)

    def spec(self, table: str) -> TableSpec:
        """Return the spec of a table.

        Raises:
            NotFound: The version has no such table; the message says which it has.
        """
        spec = self._specs.get(table)
        if spec is None:
            known = ", ".join(self.tables) or "none"
            raise NotFound(f"{self._model}/{self._version} has no table {table!r}; it has: {known}")
        return spec

    async def read(
        self,
        request: RowsRequest,
        limits: RowLimits,
        take_room: Callable[[int], None],
        *,
        deadline_s: float,
        request_id: str = "",
    ) -> RowsAnswer:
        """Return the rows of a request that `rows_by_key.check` has passed.

        Args:
            take_room: Takes room for so many bytes of a reply; raises LimitExceeded where there is none.
            request_id: Id that the answer is to have.

        Raises:
            LimitExceeded: The reply would be too long.
            DeadlineExceeded: The deadline passed first.
            Unavailable: The head is stopping, or no live shard holds a key and the table's policy is to fail.
        """
        if self._closed:
            raise Unavailable("this head is stopping")
        spec = self.spec(request.table)
        keys = len(request.keys)
        if spec.dim:  # how long rows of bytes are is known when they are here
            take_room(limits.check_reply(request.outputs * spec.dim * FLOAT32_BYTES, keys))
        lookup = Lookup(request.table, request.pooling, request.keys, request.offsets, request.weights)
        self._in_flight += 1
        self._idle.clear()
        try:
            [result] = await self._router.pull(self._model, self._version, [lookup], deadline_s=deadline_s)
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()
        if result.bytes_rows is not None:
            take_room(limits.check_reply(result.bytes_rows.data.nbytes + OFFSET_BYTES * (keys + 1), keys))
        return RowsAnswer(
            model=self._model,
            version=self._version,
            rows=result.values if result.bytes_rows is None else result.bytes_rows,
            found=result.found,
            missing=result.missing,
            lost=result.lost,
            request_id=request_id,
        )

    async def close(self, timeout_s: float) -> None:
        """Take no more requests and wait until those here are answered, for at most `timeout_s`."""
        self._closed = True
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            pass  # The router fails what is left when it is closed.
