"""A model that learns while it is served: clicks come in, rows change, and the next prediction has learnt of them.

    python -m examples.live_rows models
    ringpull serve models/clicks --data-dir rows --detach
    python -m examples.live_rows 127.0.0.1:8500

The first command writes `models/clicks/1`: the logit of how often an item is clicked, a row of one number each, which
takes pushes. The last one shows items, sees which are clicked, learns from that by gradient descent and pushes the rows
that changed, a hundred events at a time. What it prints is how far predictions are from how often items are clicked.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ringpull import Client, Schema, Sparse, TableOptions, export_model
from ringpull.inference.errors import RingpullError

ITEMS: Final = 200
BATCH: Final = 100
RATE: Final = 0.2
"""Learning rate."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


def write(folder: Path) -> Path:
    """Export a model that knows nothing yet; return the version's folder.

    Raises:
        RingpullError: The version is there already.
    """
    import torch
    from torch import Tensor, nn

    class Clicks(nn.Module):
        """How often an item is clicked."""

        def __init__(self) -> None:
            super().__init__()
            self.item = nn.Embedding(ITEMS, 1)
            nn.init.zeros_(self.item.weight)

        def forward(self, item: Tensor) -> dict[str, Tensor]:
            return {"clicked": torch.sigmoid(self.item(item).squeeze(1))}

    tables = {"item": TableOptions(live=True)}
    report = export_model(Clicks().eval(), Schema([Sparse("item")]), folder / "clicks", version=1, tables=tables)
    return report.path


def how_often(items: Ints) -> Floats:
    """Return how often each item is really clicked, which nobody knows who learns."""
    return (0.05 + 0.9 * (items * 37 % ITEMS) / ITEMS).astype(np.float32)


def events(batches: int, seed: int = 0) -> Iterator[tuple[Ints, Floats]]:
    """Yield items that were shown, and 1 where one was clicked."""
    generator = np.random.default_rng(seed)
    for _ in range(batches):
        items = generator.integers(0, ITEMS, BATCH)
        yield items, (generator.random(BATCH) < how_often(items)).astype(np.float32)


def learn(client: Client, batches: int, every: int = 50) -> list[float]:
    """Learn from events while the model is served; return how far its predictions were off, now and then."""
    logits = np.zeros(ITEMS, np.float32)
    all_items = np.arange(ITEMS)
    off = []
    with client.pusher("clicks", writer="learner") as pusher:
        for batch, (items, clicked) in enumerate(events(batches)):
            if batch % every == 0:
                pusher.flush()  # what is acknowledged is seen by the next prediction
                predicted = client.predict("clicks", {"item": all_items}).outputs["clicked"]
                off.append(float(np.abs(predicted - how_often(all_items)).mean()))
            np.add.at(logits, items, RATE * (clicked - 1 / (1 + np.exp(-logits[items]))))
            changed = np.unique(items)
            pusher.push("item", changed, logits[changed, None])
    return off


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m examples.live_rows FOLDER|HOST:PORT")
    try:
        if ":" not in sys.argv[1]:
            print(f"serve it with: ringpull serve {write(Path(sys.argv[1])).parent} --data-dir rows")
        else:
            with Client(sys.argv[1]) as served:
                for place, error in enumerate(learn(served, 500)):
                    print(f"after {place * 50 * BATCH:6,} events predictions are off by {error:.3f}")
    except RingpullError as exc:
        sys.exit(f"live_rows: {exc}")
