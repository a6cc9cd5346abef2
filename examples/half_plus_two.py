"""half_plus_two, the model of TensorFlow Serving's own first example: y = x / 2 + 2, without a table.

    python -m examples.half_plus_two models

writes `models/half_plus_two/1`, to be served like any other model.
"""

from __future__ import annotations

import sys
from pathlib import Path

from torch import Tensor, nn

from ringpull import Dense, Schema, export_model
from ringpull.inference.errors import RingpullError

NAME = "half_plus_two"


class HalfPlusTwo(nn.Module):
    """Half of each x, plus two."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return y (B,) of x (B, 1)."""
        return {"y": 0.5 * x.squeeze(1) + 2}


def export(out_dir: Path, version: int = 1) -> Path:
    """Write a version of the model; return its folder, `out_dir/half_plus_two/VERSION`.

    Raises:
        ExportError: The version is there already.
    """
    export_model(HalfPlusTwo().eval(), Schema([Dense("x")]), out_dir / NAME, version)
    return out_dir / NAME / str(version)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m examples.half_plus_two FOLDER")
    try:
        export(Path(sys.argv[1]))
    except RingpullError as exc:
        sys.exit(f"half_plus_two: {exc}")
