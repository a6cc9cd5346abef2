"""Stamp: the number of a push at its shard, larger than that of any push before it; and stamps of several shards.

A stamp is `epoch << 40 | count`: the count goes on within an epoch of the shard map, and no stamp is ever used twice by
a shard, whatever it was restarted with. Stamps of two shards are never compared. What a caller gets is one stamp for
each shard that took part of its push; two of these join by the larger stamp of each shard.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ringpull.ps.errors import InvalidInput

EPOCH_SHIFT: Final = 40
NO_STAMP: Final = 0
"""Stamp below that of every push."""
MAX_STAMP: Final = 2**64 - 1

Stamps = Mapping[int, int]
"""Stamp by shard; a shard that is not named has none."""


def next_stamp(last: int, epoch: int) -> int:
    """Return the stamp of the push after the one with the stamp `last`."""
    return max(last + 1, epoch << EPOCH_SHIFT)


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
