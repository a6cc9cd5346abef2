"""Reading rows of one version's tables by key: a request becomes one look-up, and one pull of its own.

It rides in no micro-batch: there is no dense program whose cost many could share, and whoever asks for rows waits for
the shards only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

from ringpull.inference.head.request.in_flight import InFlight
from ringpull.inference.head.request.rows_by_key import RowLimits, RowsAnswer, RowsRequest
from ringpull.inference.model.manifest import TableEntry
from ringpull.ps.errors import LimitExceeded, NotFound
from ringpull.ps.spec import TableSpec
from ringpull.router.lookup import Lookup, LookupResult
from ringpull.router.pushed_rows import PushedRows, PushResult
from ringpull.router.shard_map import ShardMap
from ringpull.router.top_k import TopKQuery, TopKResult

FLOAT32_BYTES: Final = 4
OFFSET_BYTES: Final = 8


class Puller(Protocol):
    """The part of a router that is needed."""

    async def pull(
        self, model: str, version: int, lookups: Sequence[Lookup], *, deadline_s: float, max_reply_bytes: int = 0
    ) -> Sequence[LookupResult]: ...

    async def top_k(self, model: str, version: int, query: TopKQuery, *, deadline_s: float) -> TopKResult: ...

    def top_k_bytes(self, rows: int, queries: int, k: int) -> int: ...

    async def push(self, pushed: PushedRows, *, deadline_s: float) -> PushResult: ...

    @property
    def shard_map(self) -> ShardMap: ...


class RowReader:
    """Reads rows of one version. Owned by the event loop."""

    def __init__(self, model: str, version: int, tables: Iterable[TableEntry], router: Puller) -> None:
        self._model = model
        self._version = version
        self._tables: Final = {entry.spec.name: entry for entry in tables}
        self._router = router
        self._in_flight = InFlight()

    def __repr__(self) -> str:
        return f"<RowReader {self._model}/{self._version} {self._in_flight!r}>"

    @property
    def tables(self) -> list[str]:
        """Names of the tables."""
        return sorted(self._tables)

    def spec(self, table: str) -> TableSpec:
        """Return the spec of a table.

        Raises:
            NotFound: The version has no such table; the message says which it has.
        """
        return self.entry(table).spec

    def entry(self, table: str) -> TableEntry:
        """Return a table's entry of the manifest.

        Raises:
            NotFound: The version has no such table; the message says which it has.
        """
        entry = self._tables.get(table)
        if entry is None:
            known = ", ".join(self.tables) or "none"
            raise NotFound(f"{self._model}/{self._version} has no table {table!r}; it has: {known}")
        return entry

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
        self._in_flight.check_open()
        entry = self.entry(request.table)
        dim, keys, most = entry.spec.dim, len(request.keys), 0
        if dim:
            due = limits.check_reply(request.outputs * dim * FLOAT32_BYTES, keys)
        else:  # how long they are is known when they are here: like others of the table, it is thought until then
            most = limits.max_rows_bytes(OFFSET_BYTES * (keys + 1), keys)
            due = min(keys * entry.row_bytes, limits.max_reply_bytes)
        take_room(due)
        lookup = Lookup(request.table, request.pooling, request.keys, request.offsets, request.weights)
        try:
            with self._in_flight:
                [result] = await self._router.pull(
                    self._model, self._version, [lookup], deadline_s=deadline_s, max_reply_bytes=most
                )
        except LimitExceeded as exc:
            if not most:
                raise
            raise LimitExceeded(
                f"keys: the rows of these {keys} have more bytes; max_message_bytes is {limits.max_reply_bytes}, of the"
                f" reply, too; ask for fewer ({exc})"
            ) from exc
        if result.bytes_rows is not None:
            nbytes = limits.check_reply(result.bytes_rows.data.nbytes + OFFSET_BYTES * (keys + 1), keys)
            take_room(max(0, nbytes - due))
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
        await self._in_flight.close(timeout_s)
