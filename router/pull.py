"""Pull as a value: the question about keys, and what all its messages, retries and hedges have in common.

Made once by `Router.pull`, after everything a caller can get wrong was checked; nothing of it changes afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from ringpull.ps.errors import InvalidInput, NotAnswered, NotFound, ProtocolError, Unavailable
from ringpull.ps.pull_messages import PullReply, PullRequest
from ringpull.ps.spec import Float32Array, OnUnavailable, Pooling, TableSpec
from ringpull.ps.wire.messages import Reply
from ringpull.router.batch import Batch, Int64Array
from ringpull.router.here import Here, named
from ringpull.router.lookup import FlatLookups, Lookup
from ringpull.router.partition import Part, divide, partition
from ringpull.router.question import Exclusions
from ringpull.router.replicas import Placement, least_loaded

_KINDS_KEPT: Final = 64
"""Kinds of flat look-ups whose tables are remembered, of each version."""


@dataclass(frozen=True, slots=True)
class RegisteredTable:
    """A table of a registered version, with what a pull needs of it at hand."""

    spec: TableSpec
    default: Float32Array
    """(dim,): the vector of a key without a row; (0,) of a table of bytes."""


@dataclass(frozen=True, slots=True)
class RegisteredVersion:
    """A registered version."""

    identity: int
    """Its identity, which shards compare with theirs; 0: not known."""
    tables: Mapping[str, RegisteredTable]
    _known: dict[tuple[str, ...], tuple[list[RegisteredTable], Int64Array]] = field(
        init=False, default_factory=dict, repr=False, compare=False
    )
    """What flat look-ups need of their tables, by these: a head's are of few kinds."""

    def asked(self, name: str, lookups: Sequence[Lookup]) -> tuple[list[RegisteredTable], Int64Array]:
        """Return the tables of look-ups (L,), and the numbers per row of each.

        Args:
            name: Model and version, for errors.

        Raises:
            NotFound: There is no such table.
            InvalidInput: A look-up pools rows of bytes.
        """
        if not isinstance(lookups, FlatLookups):
            return self._asked(name, lookups)
        flat = self._known.get(lookups.tables)
        if flat is None:
            if len(self._known) >= _KINDS_KEPT:
                self._known.clear()
            flat = self._known[lookups.tables] = self._asked(name, lookups[: len(lookups.tables)])
        if not lookups.others:
            return flat
        others = self._asked(name, lookups.others)
        return flat[0] + others[0], np.concatenate([flat[1], others[1]])

    def _asked(self, name: str, lookups: Sequence[Lookup]) -> tuple[list[RegisteredTable], Int64Array]:
        try:
            tables = [self.tables[lookup.table] for lookup in lookups]
        except KeyError as exc:
            raise NotFound(f"{name} has no table {exc}; it has {sorted(self.tables)}") from None
        for table, lookup in zip(tables, lookups, strict=True):
            if table.spec.is_bytes and lookup.pooling is not Pooling.NONE:
                raise InvalidInput(
                    f"look-up in {lookup.table}: its rows are bytes, which cannot be pooled; pooling is"
                    f" {lookup.pooling}, and must be {Pooling.NONE}"
                )
        return tables, np.array([table.spec.dim for table in tables], np.int64)


@dataclass(frozen=True, slots=True)
class Pull:
    """Pull of one micro-batch."""

    model: str
    version: int
    batch: Batch
    tables: Sequence[RegisteredTable]
    """Table of each look-up of `batch`."""
    dims: Int64Array
    """(L,): numbers per row of each look-up's table; 0 of one of bytes."""
    answer_by_s: float
    """Deadline of shards, on the router's clock. What is not answered by then is lost, or an error."""
    identity: int = 0
    """Identity of the version; 0: not known."""
    max_reply_bytes: int = 0
    """Most bytes of rows of bytes in all answers; 0: any."""
    here: Here | None = None
    """What can be answered here of the tables of the look-ups; None: nothing."""
    as_exported: bool = False
    """Whether rows that were pushed since the version was exported are left out."""

    @property
    def size(self) -> int:
        """Keys of all look-ups."""
        return self.batch.keys.size

    def parts(self, batches: Sequence[Batch], placement: Placement, waiting: Int64Array, here: bool) -> list[Part]:
        """Return parts by what is here and the owners of a map: see `partition`."""
        replicas = placement.replicas(self.model, self.batch.tables)
        full_copy = least_loaded(waiting)
        local = self.here if here else None
        return [
            part
            for batch in batches
            for part in partition(batch, replicas, full_copy, placement.owners, waiting, local)
        ]

    def as_batch(self, part: Part) -> Batch:
        """Return the keys of a part, to be asked for anew."""
        return part.as_batch()

    def divide(self, part: Part, table: str, slots: Sequence[tuple[int, int]]) -> tuple[Batch | None, Batch | None]:
        """Return the keys of a part in these slots of a table, and all others; None: there are none."""
        return divide(part, table, slots)

    def request(self, part: Part, epoch: int) -> PullRequest:
        """Return the message that asks for a part, by the map of this epoch."""
        return part.request(self.model, self.version, epoch, self.identity, self.max_reply_bytes, self.as_exported)

    def checked(self, part: Part, reply: Reply) -> PullReply:
        """Return the answer to a part.

        Raises:
            ProtocolError: It is none.
        """
        if not isinstance(reply, PullReply):
            raise ProtocolError(f"{named(part.shard or 0)} answered a pull with {type(reply).__name__}")
        part.check_reply(reply, self.dims)
        return reply

    def strict_tables(self, parts: Sequence[Part]) -> list[str]:
        """Return the tables that have keys in these parts and do not allow them to be lost, sorted by name."""
        specs = [self.tables[index].spec for part in parts for index in part.lookups()]
        return sorted({spec.name for spec in specs if spec.on_unavailable is OnUnavailable.ERROR})

    def check_may_be_lost(self, parts: Sequence[Part], excluded: Exclusions) -> None:
        """Check that the policies of their tables allow to lose these parts.

        Raises:
            Unavailable: They do not; names the tables, and why each shard of `excluded` was not asked. It is
                `NotAnswered` where only some keys of the pull are to blame, which are damaged.
        """
        check_may_be_lost(self.strict_tables(parts), excluded, "keys")


def check_may_be_lost(strict: Sequence[str], excluded: Exclusions, things: str) -> None:
    """Refuse to lose things of tables that do not allow that.

    Args:
        strict: These tables.
        excluded: Shards that were not asked.
        things: What is lost, as the error calls it.

    Raises:
        Unavailable: There are such tables.
        NotAnswered: There are, and only some of the things are to blame, which are damaged.
    """
    if strict:
        why = "; ".join(f"{named(address.shard)}: {error}" for address, error in excluded.items())
        damaged = any(isinstance(error, NotAnswered) for error in excluded.values())
        kind = NotAnswered if damaged else Unavailable
        raise kind(f"no live shard could answer for {things} of {', '.join(strict)} ({why})")
