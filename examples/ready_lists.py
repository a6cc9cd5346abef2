"""Lists that are computed each night, served as they are: a row of JSON a user, from Parquet, for whoever shows it.

    python -m examples.ready_lists models

writes `models/lists.parquet`, as a nightly job would: for each user the ten movies most watched by all that he has not
watched; and `models/lists/1`, a table of bytes by user. In the shell the second step is

    ringpull import table best=models/lists.parquet models/lists --id user_id --value movies

and `ringpull lookup lists best 1` asks for a list. The pairs are MovieLens 1M's where RINGPULL_DATA names their folder.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ringpull.inference.errors import RingpullError
from ringpull.inference.importers.tables.formats import open_source
from ringpull.inference.importers.tables.import_tables import import_tables
from ringpull.inference.importers.tables.source import ReadOptions

PAIRS: Final = "ml1m_pairs/ratings.parquet"
LENGTH: Final = 10


def pairs() -> list[tuple[str, str]]:
    """Return who watched what: real pairs, or ones that are made."""
    real = Path(os.environ.get("RINGPULL_DATA", "")) / PAIRS
    if real.is_file():
        table = pq.read_table(real)
        return list(zip(table["userID"].to_pylist(), table["movieID"].to_pylist(), strict=True))
    generator = np.random.default_rng(6)
    return [(str(user), str(movie)) for user in range(1, 101) for movie in set(generator.zipf(1.5, 20).tolist())]


def best_lists(watched: list[tuple[str, str]]) -> dict[str, list[str]]:
    """Return for each user the most watched movies that he has not watched, the most watched first."""
    by_count = [movie for movie, _ in sorted(Counter(movie for _, movie in watched).items(), key=lambda each: -each[1])]
    seen: defaultdict[str, set[str]] = defaultdict(set)
    for user, movie in watched:
        seen[user].add(movie)
    return {user: _first(by_count, movies) for user, movies in seen.items()}


def _first(movies: list[str], without: set[str]) -> list[str]:
    found: list[str] = []
    for movie in movies:
        if movie not in without:
            found.append(movie)
            if len(found) == LENGTH:
                break
    return found


def write(folder: Path, lists: dict[str, list[str]]) -> Path:
    """Write the lists as Parquet and import them; return the version's folder.

    Raises:
        RingpullError: The version is there already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = [json.dumps(movies) for movies in lists.values()]
    pq.write_table(pa.table({"user_id": list(lists), "movies": rows}), folder / "lists.parquet")
    source = open_source(folder / "lists.parquet", ReadOptions(id="user_id", value="movies"))
    return import_tables({"best": source}, folder / "lists", 1).path


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m examples.ready_lists FOLDER")
    try:
        print(f"serve it with: ringpull serve {write(Path(sys.argv[1]), best_lists(pairs())).parent}")
    except RingpullError as exc:
        sys.exit(f"ready_lists: {exc}")
