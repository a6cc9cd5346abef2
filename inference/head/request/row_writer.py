"""Writing rows of one version's tables: a push becomes rows as the table stores them, and one push of the router."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from ringpull.inference.head.request.in_flight import InFlight
from ringpull.inference.head.request.row_reader import Puller
from ringpull.inference.model.manifest import TableEntry
from ringpull.inference.push_request import Pushed, PushRequest, rows_to_push
from ringpull.inference.push_route import PushRoute
from ringpull.ps.errors import NotFound, UnmetCondition
from ringpull.ps.live.stamp import text_of_stamps
from ringpull.router.pushed_rows import PushedRows


class RowWriter:
    """Writes rows of one version. Owned by the event loop, but for `prepare`."""

    def __init__(
        self,
        model: str,
        version: int,
        tables: Iterable[TableEntry],
        router: Puller,
        *,
        live: Collection[str] = (),
        lineage: str = "",
    ) -> None:
        """Prepare to write.

        Args:
            live: Names of the tables that take pushes.
            lineage: Lineage of the version, 16 hex digits.
        """
        self._model = model
        self._version = version
        self._tables: Final = {entry.spec.name: entry for entry in tables}
        self._router = router
        self._in_flight = InFlight()
        self.live: Final = frozenset(live)
        """Tables that take pushes."""
        self.lineage: Final = lineage
        """Lineage whose rows are written."""

    def __repr__(self) -> str:
        return f"<RowWriter {self._model}/{self._version} {self.lineage} {self._in_flight!r}>"

    def prepare(self, request: PushRequest) -> PushedRows:
        """Return a push as the router takes it.

        Raises:
            NotFound: The version has no such table; the message says which it has.
            UnmetCondition: The table takes no pushes; the message says how it would.
            InvalidInput: Keys and rows do not fit the table; the message names which.
        """
        entry, name = self._tables.get(request.table), f"{self._model}/{self._version}"
        if entry is None:
            known = ", ".join(sorted(self._tables)) or "none"
            raise NotFound(f"{name} has no table {request.table!r:.80}; it has: {known}")
        if request.table not in self.live:
            takes = ", ".join(sorted(self.live)) or "none"
            raise UnmetCondition(
                f"table {request.table} of {name} takes no pushes (those that do: {takes}); serve it with"
                f" --live {self._model}/{request.table}, or export it with TableOptions(live=True)"
            )
        return rows_to_push(request, entry.spec, self.lineage)

    async def write(self, pushed: PushedRows, *, deadline_s: float, request_id: str = "") -> Pushed:
        """Have rows written, and return when all shards that they concern have acknowledged that.

        Raises:
            StaleNumber: Its writer has sent a larger number since.
            UnmetCondition: No shard has a version of the lineage, or the table has several copies.
            LimitExceeded: Memory, log or disk of a shard run short.
            DeadlineExceeded: Not all acknowledged in time; it may have been applied.
            Unavailable: A shard does not answer, or the head is stopping.
        """
        self._in_flight.check_open()
        with self._in_flight:
            result = await self._router.push(pushed, deadline_s=deadline_s)
        return Pushed(
            model=self._model,
            version=self._version,
            lineage=self.lineage,
            stamp=text_of_stamps(result.stamp),
            rows=result.rows,
            new_keys=result.new_keys,
            repeated=result.repeated,
            copies=1,
            request_id=request_id,
        )

    def route(self) -> PushRoute:
        """Return how rows are pushed to shards without this head.

        Raises:
            Unavailable: There is no shard map yet.
        """
        return PushRoute(
            model=self._model,
            version=self._version,
            lineage=self.lineage,
            specs={name: self._tables[name].spec for name in sorted(self.live & self._tables.keys())},
            shard_map=self._router.shard_map,
        )

    async def close(self, timeout_s: float) -> None:
        """Take no more pushes and wait until those here are acknowledged, for at most `timeout_s`."""
        await self._in_flight.close(timeout_s)
