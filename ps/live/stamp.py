"""Stamp: the number of a push at its shard, larger than that of any push before it; and stamps of several shards.

A stamp is `epoch << 40 | count`: the count goes on within an epoch of the shard map, and no stamp is ever used twice by
a shard, whatever it was restarted with. Where it begins in an epoch is drawn, so that a shard knows its own stamps from
those of another deployment, which a version may name that came from there. Stamps of two shards are never compared.
What a caller gets is one stamp for each shard; two of these join by the larger stamp of each shard.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Final

import numpy as np

from ringpull.ps.errors import InvalidInput
from ringpull.ps.spec import UInt64Array

EPOCH_SHIFT: Final = 40
MIN_DRAWN: Final = 1 << 38
"""Smallest count that a run begins with; earlier builds began with 0, in every deployment. None begins above twice as
many, which leaves as many pushes again for an epoch."""
LOST_TAIL: Final = 1 << 20
"""Pushes at the end of a run that a shard may have given stamps and not know of, as they failed or a power cut took
them: by far fewer than lie between two counts that were drawn."""
NO_STAMP: Final = 0
"""Stamp below that of every push."""
MAX_STAMP: Final = 2**64 - 1

Stamps = Mapping[int, int]
"""Stamp by shard; a shard that is not named has none."""


class GivenStamps:
    """Stamps that a shard has given since its log began, as runs in which none is missing: mostly one for each epoch in
    which something was pushed. Its owner orders the calls."""

    def __init__(self) -> None:
        self._first: list[int] = []
        self._last: list[int] = []
        self.is_logged = False
        """Whether the log says which these are; pushes since then say so themselves."""

    def __repr__(self) -> str:
        return f"<GivenStamps {list(zip(self._first, self._last, strict=True))}>"

    def next(self, last: int, epoch: int) -> int:
        """Return the stamp of the push after the one with the stamp `last`."""
        begun = self._first[-1] if self._first else NO_STAMP
        if last >> EPOCH_SHIFT >= epoch and _is_drawn(begun) and begun <= last:  # mostly
            return last + 1
        epoch = max(epoch, last >> EPOCH_SHIFT)
        if begun > last and begun >> EPOCH_SHIFT == epoch:
            return begun  # The push failed that it was for.
        stamp = max(last + 1, epoch << EPOCH_SHIFT | MIN_DRAWN + secrets.randbelow(MIN_DRAWN))
        self.took(stamp)
        return stamp

    def took(self, stamp: int) -> None:
        """Take in a stamp that was given: all since the one before it are, but for those of a new run."""
        if self._last and 0 <= stamp - self._last[-1] <= LOST_TAIL and stamp >> EPOCH_SHIFT == self._epoch:
            self._last[-1] = stamp
        elif stamp > (self._last[-1] if self._last else NO_STAMP):
            self._first.append(stamp)
            self._last.append(stamp)

    def of_earlier_build(self, last: int) -> None:
        """Take in the log of a build that did not draw: nothing tells which are its own of all up to the last."""
        self._first, self._last = ([1], [last]) if last else ([], [])

    def restore(self, runs: UInt64Array) -> None:
        """Take in what `runs` returned, before anything else since."""
        self._first, self._last = runs[0::2].tolist(), runs[1::2].tolist()
        self.is_logged = True

    @property
    def runs(self) -> UInt64Array:
        """First and last stamp of each run, (2 x runs,)."""
        return np.array([self._first, self._last], np.uint64).T.reshape(-1)

    def bound(self, stamp: int) -> int:
        """Return up to which stamp pushes are meant by one that a version names: `NO_STAMP` if it is no stamp of this
        shard, which says nothing of its pushes."""
        for first, last in zip(self._first, self._last, strict=True):
            if first <= stamp <= last + (LOST_TAIL if _is_drawn(first) else 0):
                return stamp
        return NO_STAMP

    @property
    def _epoch(self) -> int:
        return self._last[-1] >> EPOCH_SHIFT


def _is_drawn(stamp: int) -> bool:
    return stamp & (1 << EPOCH_SHIFT) - 1 >= MIN_DRAWN


def joined(*stamps: Stamps) -> dict[int, int]:
    """Return the larger stamp of each shard."""
    result: dict[int, int] = {}
    for each in stamps:
        for shard, stamp in each.items():
            result[shard] = max(stamp, result.get(shard, NO_STAMP))
    return result


def text_of_stamps(stamps: Stamps) -> str:
    """Return stamps as people pass them on, `0:5497558138881,1:5497558138884`; `stamps_in` reads them back."""
    return ",".join(f"{shard}:{stamp}" for shard, stamp in sorted(stamps.items()))


def stamps_in(text: str) -> dict[int, int]:
    """Read what `text_of_stamps` wrote.

    Raises:
        InvalidInput: It is no such text.
    """
    result: dict[int, int] = {}
    for part in text.split(",") if text else ():
        shard, _, stamp = part.partition(":")
        plain = shard.isascii() and shard.isdecimal() and stamp.isascii() and stamp.isdecimal() and len(stamp) <= 20
        if not plain or int(stamp) > MAX_STAMP or int(shard) in result:
            raise InvalidInput(f"stamp {text!r}: {part!r} is not SHARD:STAMP, each shard once, such as 0:5497558138881")
        result[int(shard)] = int(stamp)
    return result
