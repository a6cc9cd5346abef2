"""Pull as a value: what all its messages, retries and hedges have in common.

Made once by `Router.pull`, after everything a caller can get wrong was checked; nothing of it changes afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ringpull.ps.errors import NotAnswered, RingpullError, Unavailable
from ringpull.ps.spec import Float32Array, OnUnavailable, TableSpec
from ringpull.router.batch import Batch, Int64Array
from ringpull.router.partition import Part
from ringpull.router.shard_map import ShardAddress

Exclusions = Mapping[ShardAddress, RingpullError]
"""Shards that are not asked, and why."""


@dataclass(frozen=True, slots=True)
class ServedTable:
    """A table of a registered version, with what a pull needs of it at hand."""

    spec: TableSpec
    default: Float32Array
    """(dim,): the vector of a key without a row; (0,) of a table of bytes."""


@dataclass(frozen=True, slots=True)
class ServedVersion:
    """A registered version."""

    identity: int
    """Its identity, which shards compare with theirs; 0: not known."""
    tables: Mapping[str, ServedTable]


@dataclass(frozen=True, slots=True)
class Pull:
    """Pull of one micro-batch."""

    model: str
    version: int
    batch: Batch
    tables: Sequence[ServedTable]
    """Table of each look-up of `batch`."""
    dims: Int64Array
    """(L,): numbers per row of each look-up's table; 0 of one of bytes."""
    answer_by_s: float
    """Deadline of shards, on the router's clock. What is not answered by then is lost, or an error."""
    identity: int = 0
    """Identity of the version; 0: not known."""
    max_reply_bytes: int = 0
    """Most bytes of rows of bytes in all answers; 0: any."""

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
        strict = self.strict_tables(parts)
        if strict:
            why = "; ".join(f"shard {address.shard}: {error}" for address, error in excluded.items())
            damaged = any(isinstance(error, NotAnswered) for error in excluded.values())
            kind = NotAnswered if damaged else Unavailable
            raise kind(f"no live shard could answer for keys of {', '.join(strict)} ({why})")
