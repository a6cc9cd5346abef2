"""Ratings: who rated what, when and how high, read from MovieLens-100K in RecBole's layout.

The layout is three tab-separated files with a typed header (`user_id:token`, `age:token`, ...): `ml-100k.inter` (one
line per rating), `ml-100k.user` and `ml-100k.item`. Where no such folder is given, `generated.py` makes ratings of the
same shape.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.schema.columns import Ragged

FOLDER_VARIABLE: Final = "RINGPULL_DATA"
"""The environment variable that names the folder of the real ratings, or its parent."""

CHILD: Final = "ml100k_recbole"
RATINGS_FILE: Final = "ml-100k.inter"
USERS_FILE: Final = "ml-100k.user"
ITEMS_FILE: Final = "ml-100k.item"

Int64Array = NDArray[np.int64]
Strings = NDArray[np.str_]


@dataclass(frozen=True, slots=True, eq=False)
class Users:
    """Users, one entry each."""

    user_id: Int64Array
    age: Int64Array
    """Age in years."""
    gender: Strings
    occupation: Strings
    zip_code: Strings
    """A string: `02139` keeps its zero, and Canadian codes have letters."""

    def __len__(self) -> int:
        return len(self.user_id)


@dataclass(frozen=True, slots=True, eq=False)
class Items:
    """Items, one entry each."""

    item_id: Int64Array
    release_year: NDArray[np.float32]
    """NaN where the file does not know it."""
    genres: Ragged
    """Genres of each item: a list of strings per item."""

    def __len__(self) -> int:
        return len(self.item_id)


@dataclass(frozen=True, slots=True, eq=False)
class Ratings:
    """Ratings, one entry each, in no order, with the users and items they are about."""

    source: str
    """Origin of the ratings, for people."""
    user_id: Int64Array
    item_id: Int64Array
    rating: NDArray[np.float32]
    """1 to 5."""
    timestamp: Int64Array
    """Seconds since 1970."""
    users: Users
    items: Items

    def __len__(self) -> int:
        return len(self.user_id)


def find_folder(environment: Mapping[str, str] = os.environ) -> Path | None:
    """Return the folder of the real ratings, or None where the environment names none.

    Raises:
        FileNotFoundError: The variable is set, but neither that folder nor its child holds the files.
    """
    named = environment.get(FOLDER_VARIABLE)
    if not named:
        return None
    for folder in (Path(named), Path(named) / CHILD):
        if all((folder / file).is_file() for file in (RATINGS_FILE, USERS_FILE, ITEMS_FILE)):
            return folder
    raise FileNotFoundError(
        f"{FOLDER_VARIABLE} is {named!r}, but {RATINGS_FILE} is neither there nor in its child {CHILD}"
    )


def read(folder: Path) -> Ratings:
    """Read MovieLens-100K in RecBole's layout.

    Raises:
        FileNotFoundError: A file is not there.
        ValueError: A column is not there, or a number does not parse.
    """
    ratings = _read_table(folder / RATINGS_FILE)
    users = _read_table(folder / USERS_FILE)
    items = _read_table(folder / ITEMS_FILE)
    return Ratings(
        source=f"{RATINGS_FILE} of {folder.name}",
        user_id=ratings["user_id"].astype(np.int64),
        item_id=ratings["item_id"].astype(np.int64),
        rating=ratings["rating"].astype(np.float32),
        timestamp=ratings["timestamp"].astype(np.int64),
        users=Users(
            user_id=users["user_id"].astype(np.int64),
            age=users["age"].astype(np.int64),
            gender=users["gender"],
            occupation=users["occupation"],
            zip_code=users["zip_code"],
        ),
        items=Items(
            item_id=items["item_id"].astype(np.int64),
            release_year=np.array(
                [float(year) if year.isdigit() else np.nan for year in items["release_year"]], np.float32
            ),
            genres=Ragged.from_lists([line.split(" ") for line in items["class"]], dtype=np.str_),
        ),
    )


def _read_table(path: Path) -> dict[str, NDArray[Any]]:
    """Return the columns of one file as strings, by their names without the `:type`."""
    with path.open(encoding="utf-8") as file:
        names = [field.split(":")[0] for field in file.readline().rstrip("\n").split("\t")]
        lines = [line.rstrip("\n").split("\t") for line in file]
    for number, line in enumerate(lines, start=2):
        if len(line) != len(names):
            raise ValueError(f"{path.name}, line {number}: {len(line)} fields; the header names {len(names)}")
    columns = zip(*lines, strict=True)
    return {name: np.array(column, np.str_) for name, column in zip(names, columns, strict=True)}
