"""Vectors of users and movies that were trained elsewhere, served with a score on top; no torch is written for it.

    python -m examples.two_tower_tables models

writes `models/vectors/1`, tables alone, and `models/two_tower/1`, which predicts the cosine of a user and a movie. Both
are served like any other model. In the shell it is

    ringpull import table user=userEmb.csv movie=item2vecEmb.csv models/vectors
    ringpull compose models/two_tower --user models/vectors --user-table user \
        --item models/vectors --item-table movie --score cosine

The files are those of SparrowRecSys where RINGPULL_DATA names their folder; else some are made that look like them, a
line `id:number number ...` each.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

import numpy as np

from ringpull import compose
from ringpull.inference.errors import RingpullError
from ringpull.inference.importers.tables.import_tables import import_tables

FILES: Final = {"user": "userEmb.csv", "movie": "item2vecEmb.csv"}
FOLDER: Final = "sparrowrecsys/modeldata"
MADE_ROWS: Final = {"user": 500, "movie": 200}
DIM: Final = 10


def vectors(made_in: Path) -> dict[str, Path]:
    """Return the files of vectors by table: the real ones, or ones that are made in a folder."""
    real = Path(os.environ.get("RINGPULL_DATA", "")) / FOLDER
    if all((real / file).is_file() for file in FILES.values()):
        return {table: real / file for table, file in FILES.items()}
    made_in.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(4)
    for table, file in FILES.items():
        rows = generator.normal(size=(MADE_ROWS[table], DIM))
        lines = (f"{3 * number + 1}:{' '.join(f'{each:.6f}' for each in row)}\n" for number, row in enumerate(rows))
        (made_in / file).write_text("".join(lines), encoding="utf-8")
    return {table: made_in / file for table, file in FILES.items()}


def serve_vectors(files: dict[str, Path], out_dir: Path) -> Path:
    """Write both versions; return the folder of the one that predicts.

    Raises:
        RingpullError: A version is there already, or a file is none.
    """
    tables = out_dir / "vectors"
    import_tables(dict(files), tables, 1)
    version = out_dir / "two_tower"
    return compose(version, 1, user=tables, user_table="user", item=tables, item_table="movie", score="cosine").path


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m examples.two_tower_tables FOLDER")
    folder = Path(sys.argv[1])
    try:
        written = serve_vectors(vectors(folder / "made"), folder)
        print(f"serve it with: ringpull serve {written.parent}")
    except RingpullError as exc:
        sys.exit(f"two_tower_tables: {exc}")
