"""What became of a push, as its caller gets it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Self

from ringpull.ps.live.stamp import joined, stamps_in, text_of_stamps


@dataclass(frozen=True, slots=True)
class PushStamp(Mapping[int, int]):
    """Place in the order of all pushes of a deployment: a number for each shard, up to which all pushes are meant.

    Its text, `str(stamp)`, is `0:5497558138881,1:5497558138884`, and `PushStamp.parse` reads that. The stamp of several
    pushes is `first | second`: the larger number of each shard. It is also a mapping of these numbers.
    """

    by_shard: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text of a stamp.

        Raises:
            InvalidInput: It is none.
        """
        return cls(stamps_in(text))

    def __str__(self) -> str:
        return text_of_stamps(self.by_shard)

    def __or__(self, other: PushStamp) -> PushStamp:
        return PushStamp(joined(self.by_shard, other.by_shard))

    def __getitem__(self, shard: int) -> int:
        return self.by_shard[shard]

    def __iter__(self) -> Iterator[int]:
        return iter(self.by_shard)

    def __len__(self) -> int:
        return len(self.by_shard)

    def __hash__(self) -> int:
        return hash(str(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class PushAnswer:
    """Acknowledgement of one push, or of several."""

    stamp: PushStamp = field(default_factory=PushStamp)
    """Where it is in the order of all pushes: `export_delta(..., includes=answer.stamp)`."""
    rows: int = 0
    """Rows that were written, or keys that were taken out."""
    new_keys: int = 0
    """Keys among these that nothing had been pushed to before, whether the table was exported with them or not."""
    repeated: int = 0
    """Rows that the same push had written before: it was sent again, and applied once."""
    copies: int = 0
    """Copies of each row that have it; the fewest of several pushes, 0 where there was none."""
    model: str = ""
    version: int = 0
    """Version whose table the rows were checked against."""
    lineage: str = ""
    """Lineage that has the rows, 16 hex digits."""

    @classmethod
    def of(cls, answers: Iterable[PushAnswer]) -> PushAnswer:
        """Return the acknowledgement of several pushes together."""
        total = cls()
        for each in answers:
            total = total.and_then(each)
        return total

    def and_then(self, later: PushAnswer) -> PushAnswer:
        """Return the acknowledgement of this push and a later one together."""
        return PushAnswer(
            stamp=self.stamp | later.stamp,
            rows=self.rows + later.rows,
            new_keys=self.new_keys + later.new_keys,
            repeated=self.repeated + later.repeated,
            copies=min(self.copies, later.copies) if self.copies and later.copies else self.copies or later.copies,
            model=later.model or self.model,
            version=later.version or self.version,
            lineage=later.lineage or self.lineage,
        )
