"""A delta version beside a full one: bytes of its tables, and seconds from the call of export until it is live.

One table of 4 M x 64 float32, of which 3 % of the rows change from version to version beneath the same dense program. A
served deployment with a data folder goes through versions of three kinds in turns, in an order drawn for each round: in
full; a delta that is told the ids of the changed rows, as a trainer that tracks them does; and one that finds them
itself, which is to read all rows of both. Each delta follows what is live. In QUICK runs the table is smaller, and what
does not depend on rows outweighs them.
"""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from ringpull import Client, Schema, Sparse, export_delta, export_model
from ringpull.inference.client.operations import GetChange, OperationsClient
from ringpull.loadtest.bench.asked_rates import PATIENT
from ringpull.loadtest.bench.harness import QUICK, Report, Samples
from ringpull.loadtest.deployment import Deployment, deployed
from ringpull.router.control.change_end import check_ended
from ringpull.router.control.operations import Publish

if TYPE_CHECKING:
    from torch import nn

MODEL: Final = "growing"
TABLE: Final = "item"
DIM: Final = 64
ROWS: Final = 100_000 if QUICK else 4_000_000
CHANGED: Final = 0.03
SHARDS: Final = 2
ROUNDS: Final = 1 if QUICK else 3
LOOK_S: Final = 0.02
KINDS: Final = ("full", "told", "found")
CHECKED: Final = 2_000


def measure(report: Report) -> None:
    """Report bytes and seconds of versions of each kind."""
    took: dict[str, list[float]] = {kind: [] for kind in KINDS}
    exported: dict[str, list[float]] = {kind: [] for kind in KINDS}
    shares: list[float] = []
    with tempfile.TemporaryDirectory(prefix="ringpull-bench-") as made:
        trainer = _Trainer(Path(made) / MODEL)
        trainer.export("full")
        with deployed(trainer.folder, SHARDS, "--data-dir", f"{made}/data", *PATIENT) as up:
            draw = random.Random(17)
            trainer.go_live(up, "full")  # unmeasured: what runs for the first time
            trainer.go_live(up, "told")
            for _ in range(ROUNDS):
                for kind in draw.sample(KINDS, len(KINDS)):
                    exported_s, live_s, changed = trainer.go_live(up, kind)
                    took[kind].append(live_s)
                    exported[kind].append(exported_s)
                    if kind == "found":
                        shares.append(trainer.table_bytes() / (changed * 4 * DIM))
    samples = Samples(took)
    what = f"{CHANGED:.0%} of {ROWS:,} x {DIM} float32 as a delta"
    share = float(np.median(shares))
    report.row(f"{what}: bytes of its tables", f"{share:.3f}", "the changed rows", share, key="delta_bytes_vs_rows")
    for kind, of, key in (
        ("told", "export, told their ids, to live, s", "delta_publish_vs_full"),
        ("found", "the same, finding them", "delta_found_publish_vs_full"),
    ):
        report.compare(f"{what}: {of}", samples, (kind, "full"), key=key, show=".2f")
    for kind in KINDS:
        report.key(f"publish_s_{kind}", samples.median(kind))
        report.key(f"export_s_{kind}", Samples(exported).median(kind))


class _Trainer:
    """Model whose rows change, and that is exported and published again and again."""

    def __init__(self, folder: Path) -> None:
        import torch

        torch.manual_seed(1)
        self.folder = folder
        self._rng = np.random.default_rng(1)
        self._rows: NDArray[np.float32] = self._rng.random((ROWS, DIM), np.float32)
        self._module = _module(self._rows)
        self._version = 0

    def export(self, kind: str, changed: NDArray[np.int64] | None = None) -> None:
        """Export the next version."""
        self._version += 1
        schema = Schema([Sparse("item")])
        if kind == "full":
            export_model(self._module, schema, self.folder, self._version, name=MODEL, quiet=True)
            return
        told = {TABLE: changed} if kind == "told" and changed is not None else None
        follows = self._version - 1
        export_delta(self._module, schema, self.folder, self._version, follows, told, name=MODEL, quiet=True)

    def go_live(self, up: Deployment, kind: str) -> tuple[float, float, int]:
        """Change rows, export and publish; return the seconds of the export and of it all, and how many rows changed.

        Raises:
            RuntimeError: What is live then are not those rows.
        """
        changed = self._rng.choice(ROWS, int(CHANGED * ROWS), replace=False)
        self._rows[changed] = self._rng.random((len(changed), DIM), np.float32)
        begin = time.perf_counter()
        self.export(kind, changed)
        exported_s = time.perf_counter() - begin
        with OperationsClient(up.target) as operations:
            begun = status = operations.call(Publish(model=MODEL, version=self._version))
            while status.under_way and status.id == begun.id:
                time.sleep(LOOK_S)
                status = operations.call(GetChange())
            check_ended(begun, status)
        live_s = time.perf_counter() - begin
        self._check(up, changed)
        return exported_s, live_s, len(changed)

    def table_bytes(self) -> int:
        """Return the bytes of the last version's table files."""
        tables = self.folder / str(self._version) / "tables"
        return sum(file.stat().st_size for file in tables.rglob("*") if file.is_file())

    def _check(self, up: Deployment, changed: NDArray[np.int64]) -> None:
        asked = np.concatenate([changed[:CHECKED], self._rng.integers(0, ROWS, CHECKED)])
        with Client(up.target, timeout_s=60) as client:
            answer = client.lookup(MODEL, TABLE, asked)
        if answer.version != self._version or not np.array_equal(np.asarray(answer.rows), self._rows[asked]):
            raise RuntimeError(f"version {answer.version} has other rows than version {self._version} should have")


def _module(rows: NDArray[np.float32]) -> nn.Module:
    import torch
    from torch import Tensor, nn

    class Growing(nn.Module):
        """Score of an item."""

        def __init__(self) -> None:
            super().__init__()
            self.item = nn.Embedding.from_pretrained(torch.from_numpy(rows))  # type: ignore[no-untyped-call]
            self.dense = nn.Sequential(nn.Linear(DIM, DIM), nn.ReLU(), nn.Linear(DIM, 1))

        def forward(self, item: Tensor) -> Any:
            return self.dense(self.item(item)).squeeze(1)

    return Growing().eval()


def main() -> None:
    report = Report(f"Delta versions of {ROWS:,} x {DIM} float32, {SHARDS} shards with data folders")
    measure(report)
    report.finish()


if __name__ == "__main__":
    main()
