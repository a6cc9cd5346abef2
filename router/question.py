"""Question: what is asked of shards in parts, as scatter-gather sees it. A pull is one, and so is a scan.

A question is made once, after everything a caller can get wrong was checked; nothing of it changes afterwards. It is
about *things* that each lie in a slot: keys for a pull, slots themselves for a scan. A batch is some of these things, a
part those of a batch that one shard is asked about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.errors import RingpullError
from ringpull.ps.pull_messages import PullReply
from ringpull.ps.top_k_messages import TopKReply
from ringpull.ps.wire.messages import Reply, Request
from ringpull.router.replicas import Placement
from ringpull.router.shard_map import ShardAddress

Exclusions = Mapping[ShardAddress, RingpullError]
"""Shards that are not asked, and why."""

BatchT = TypeVar("BatchT")
PartT = TypeVar("PartT", bound="AnyPart")
ReplyT = TypeVar("ReplyT", bound=PullReply | TopKReply)
ReplyT_co = TypeVar("ReplyT_co", bound=PullReply | TopKReply, covariant=True)


class AnyPart(Protocol):
    """Part, whatever it is of."""

    @property
    def shard(self) -> int | None:
        """Id of the shard, or of a layer of what is here; None: no owner is up."""
        ...

    @property
    def size(self) -> int:
        """Number of things."""
        ...


class Question(Protocol[BatchT, PartT, ReplyT_co]):
    """Question of one caller."""

    @property
    def answer_by_s(self) -> float:
        """Deadline of shards, on the router's clock. What is not answered by then is lost, or an error."""
        ...

    @property
    def batch(self) -> BatchT:
        """All things."""
        ...

    @property
    def size(self) -> int:
        """Number of all things."""
        ...

    def parts(
        self, batches: Sequence[BatchT], placement: Placement, waiting: NDArray[np.int64], here: bool
    ) -> list[PartT]:
        """Return parts by the owners of a map, those without an owner included.

        Args:
            waiting: See `Loads.waiting`; what is in the parts is added to it.
            here: Whether what can be answered here is (`here.py`).
        """
        ...

    def as_batch(self, part: PartT) -> BatchT:
        """Return the things of a part, to be asked anew."""
        ...

    def divide(self, part: PartT, table: str, slots: Sequence[tuple[int, int]]) -> tuple[BatchT | None, BatchT | None]:
        """Return the things of a part in these slots of a table, and all others; None: there are none."""
        ...

    def request(self, part: PartT, epoch: int) -> Request:
        """Return the message that asks for a part, by the map of this epoch."""
        ...

    def checked(self, part: PartT, reply: Reply) -> ReplyT_co:
        """Return the answer to a part.

        Raises:
            ProtocolError: It is none.
        """
        ...

    def strict_tables(self, parts: Sequence[PartT]) -> list[str]:
        """Return the tables that have things in these parts and do not allow them to be lost, sorted by name."""
        ...

    def check_may_be_lost(self, parts: Sequence[PartT], excluded: Exclusions) -> None:
        """Check that the policies of their tables allow to lose these parts.

        Raises:
            Unavailable: They do not.
        """
        ...
