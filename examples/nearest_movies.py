"""Movies like a movie, and movies for a user, ranked by shards over vectors trained elsewhere; no index is built.

    python -m examples.two_tower_tables models
    ringpull serve models/vectors
    python -m examples.nearest_movies 127.0.0.1:8500 710 10292

shows the movies whose vectors are nearest to that of movie 710, and those that score highest for user 10292, whose
vector is looked up and whose movies are ranked in one request. Vectors are SparrowRecSys's where RINGPULL_DATA names
their folder.
"""

from __future__ import annotations

import csv
import os
import sys
from pathlib import Path
from typing import Final

from ringpull import Client
from ringpull.inference.errors import RingpullError

TITLES: Final = "sparrowrecsys/sampledata/movies.csv"
Ranked = list[tuple[int, float]]


def nearest(client: Client, movie: int, user: int, k: int = 10) -> tuple[Ranked, Ranked]:
    """Return the movies most like a movie, and the best for a user, with scores.

    Raises:
        RingpullError: The deployment does not serve these tables, or does not answer.
    """
    like_it = client.top_k("vectors", "movie", like=[movie], k=k, metric="cosine")
    for_user = client.top_k("vectors", "movie", like=[user], query_table="user", k=k, exclude=[movie])
    return like_it.items()[0], for_user.items()[0]


def titles() -> dict[int, str]:
    """Return the title of each movie that has one here."""
    file = Path(os.environ.get("RINGPULL_DATA", "")) / TITLES
    if not file.is_file():
        return {}
    with file.open(encoding="utf-8", newline="") as lines:
        return {int(row["movieId"]): row["title"] for row in csv.DictReader(lines)}


def main(target: str, movie: int, user: int) -> None:
    """Print both lists.

    Raises:
        RingpullError: As `nearest`.
    """
    known = titles()
    with Client(target) as client:
        lists = nearest(client, movie, user)
    for of, ranked in zip((f"like {known.get(movie, movie)}", f"for user {user}"), lists, strict=True):
        print(f"{of}:")
        for key, score in ranked:
            print(f"  {score:8.3f}  {known.get(key, key)}")


if __name__ == "__main__":
    if len(sys.argv) != 4 or not all(each.isdecimal() for each in sys.argv[2:]):
        sys.exit("usage: python -m examples.nearest_movies HOST:PORT MOVIE USER")
    try:
        main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    except RingpullError as exc:
        sys.exit(f"nearest_movies: {exc}")
