"""A request for rows of a table by their keys, whatever protocol it comes over, and what is checked of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.key_types import check_key_type
from ringpull.inference.rows_answer import RowsAnswer as RowsAnswer
from ringpull.ps.errors import InvalidInput, LimitExceeded
from ringpull.ps.spec import KeyType, Pooling, TableSpec

REPLY_BYTES: Final = 1024
"""Room in a reply for what is no row: names, and the frames of the message."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RowsRequest:
    """Request for rows by key, or for bags of them."""

    model: str
    table: str
    keys: NDArray[np.uint64]
    """(N,): keys. An int64 is taken bit for bit, a string is hashed (`ringpull.ps.hashing`)."""
    key_type: KeyType | None = None
    """Type in which keys were sent, held against the table's; None: not told, and not held against it."""
    version: int = 0
    """Version asked for; 0: the live one."""
    label: str = ""
    """Label of the version asked for; empty: none."""
    pooling: Pooling = Pooling.NONE
    offsets: NDArray[np.int64] | None = None
    """(B+1,): starts of bags; None unless rows are pooled."""
    weights: NDArray[np.float32] | None = None
    """(N,): one weight per key; None unless they are summed."""
    request_id: str = ""

    @property
    def outputs(self) -> int:
        """Rows of the answer: bags, or keys when nothing is pooled."""
        return len(self.keys) if self.offsets is None else len(self.offsets) - 1


@dataclass(frozen=True, slots=True)
class RowLimits:
    """The largest look-up of rows that is taken."""

    max_keys: int
    """Keys, and bags."""
    max_reply_bytes: int
    """Bytes of the reply."""

    def check_keys(self, keys: int) -> None:
        """Check a number of keys, or of bags, before anything is done for them.

        Raises:
            LimitExceeded: They are too many.
        """
        if keys > self.max_keys:
            raise LimitExceeded(f"keys: {keys} keys or bags; max_lookup_keys is {self.max_keys}; ask for fewer")

    def max_rows_bytes(self, other_bytes: int, keys: int) -> int:
        """Return the most bytes that rows may have, given those that a reply has besides, at least 1.

        Raises:
            LimitExceeded: There is room for none.
        """
        return self.max_reply_bytes - self.check_reply(other_bytes + 1, keys) + 1

    def check_reply(self, nbytes: int, keys: int) -> int:
        """Return the bytes of a reply, given those of its rows.

        Raises:
            LimitExceeded: They are too many.
        """
        total = nbytes + keys + REPLY_BYTES
        if total > self.max_reply_bytes:
            raise LimitExceeded(
                f"keys: the rows of these {keys} have {nbytes} bytes; max_message_bytes is {self.max_reply_bytes}, of"
                " the reply, too; ask for fewer"
            )
        return total


def check(request: RowsRequest, spec: TableSpec, limits: RowLimits) -> None:
    """Check a request against the table that it asks.

    Raises:
        InvalidInput: Keys, pooling, offsets and weights do not fit each other, or the table; the message names which.
        LimitExceeded: It asks for too much at once.
    """
    keys = request.keys
    if keys.dtype != np.uint64 or keys.ndim != 1:
        raise InvalidInput(f"keys: are {keys.dtype} {keys.shape}; they must be uint64 (N,)")
    limits.check_keys(max(len(keys), request.outputs))
    if len(keys):
        check_key_type("keys", request.key_type, spec)
    if request.pooling is Pooling.NONE:
        _check_no_bags(request)
    else:
        _check_bags(request, spec)


def _check_no_bags(request: RowsRequest) -> None:
    if request.offsets is not None:
        raise InvalidInput("offsets: are starts of bags, which need a pooling: sum, mean or max")
    if request.weights is not None:
        raise InvalidInput("weights: only a sum may be weighted, and there is no pooling")


def _check_bags(request: RowsRequest, spec: TableSpec) -> None:
    keys, offsets, weights = len(request.keys), request.offsets, request.weights
    if spec.dim == 0:
        raise InvalidInput(f"pooling: table {spec.name} has rows of bytes, which have no {request.pooling.value}")
    if offsets is None:
        raise InvalidInput(f"offsets: pooling {request.pooling.value} needs the starts of bags, one more than bags")
    if offsets.dtype != np.int64 or offsets.ndim != 1 or not offsets.size:
        raise InvalidInput(f"offsets: are {offsets.dtype} {offsets.shape}; they must be int64 (B+1,)")
    # Neighbours are compared, not subtracted: differences of hostile offsets can wrap around to look right.
    if offsets[0] != 0 or offsets[-1] != keys or bool((offsets[1:] < offsets[:-1]).any()):
        raise InvalidInput(
            f"offsets: must start at 0, never decrease and end at the number of keys, {keys}; they start at"
            f" {offsets[0]} and end at {offsets[-1]}"
        )
    if weights is None:
        return
    if request.pooling is not Pooling.SUM:
        raise InvalidInput(f"weights: only a sum may be weighted, not pooling {request.pooling.value}")
    if weights.dtype != np.float32 or weights.shape != (keys,):
        raise InvalidInput(f"weights: are {weights.dtype} {weights.shape}; they must be float32 ({keys},), one a key")
    if not np.isfinite(weights).all():
        raise InvalidInput("weights: one is NaN or infinite")
