"""The model of the live benches: users and items with rows of 64 numbers, both of which take pushes, under an MLP.

Besides a score it says the first number of each item's row: so a prediction shows which push it has seen.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ringpull import Schema, Sparse, TableOptions, export_model
from ringpull.inference.wire.codec import as_call, encode_request
from ringpull.loadtest.bench.harness import QUICK

MODEL: Final = "live"
TABLE: Final = "item"
DIM: Final = 64
HIDDEN: Final = 128
USERS: Final = 10_000
ITEMS: Final = 50_000 if QUICK else 1_000_000
CANDIDATES: Final = 128


def export_live(folder: Path) -> Path:
    """Export the model as version 1; return its folder."""
    import torch
    from torch import Tensor, nn

    rng = np.random.default_rng(1)

    class Live(nn.Module):
        """Score of a user and an item, and the first number of the item's row."""

        def __init__(self) -> None:
            super().__init__()
            rows = {name: rng.random((count, DIM), np.float32) for name, count in (("user", USERS), ("item", ITEMS))}
            self.user, self.item = (nn.Embedding.from_pretrained(torch.from_numpy(each)) for each in rows.values())  # type: ignore[no-untyped-call]
            self.dense = nn.Sequential(nn.Linear(2 * DIM, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))

        def forward(self, user: Tensor, item: Tensor) -> dict[str, Tensor]:
            shown = self.item(item)
            pair = torch.cat([self.user(user).expand(shown.shape[0], DIM), shown], dim=1)
            return {"score": self.dense(pair).squeeze(1), "first": shown[:, 0]}

    options = {name: TableOptions(live=True) for name in ("user", "item")}
    schema = Schema([Sparse("user"), Sparse("item")])
    export_model(Live().eval(), schema, folder / MODEL, 1, tables=options, quiet=True)
    return folder / MODEL


def payload_of(user: int, items: NDArray[np.int64]) -> bytes:
    """Return the bytes of a request."""
    message = encode_request(as_call(MODEL, {"item": items}, {"user": np.array([user])}))
    payload: bytes = message.SerializeToString()
    return payload


def payloads_of(count: int) -> list[bytes]:
    """Return the bytes of requests for a user and 128 items, drawn uniformly."""
    rng = np.random.default_rng(2)
    return [payload_of(int(rng.integers(0, USERS)), rng.integers(0, ITEMS, CANDIDATES)) for _ in range(count)]
