"""Ratings made up, where no real ones are given: the same columns, a million users, and something to learn.

A rating is a noisy reading of: how good the item is, how generous the user is, how well the item's genres fit the
tastes of the user's age, gender and occupation, and a taste that is the user's own. People also choose what fits their
taste more often, so what someone watched last says something about what they will like next.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from examples.movielens.data import Items, Ratings, Users, find_folder, read
from ringpull.inference.schema.columns import Ragged

# fmt: off
GENRES: Final = np.array([
    "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
])
OCCUPATIONS: Final = np.array([
    "administrator", "artist", "doctor", "educator", "engineer", "entertainment", "executive", "healthcare",
    "homemaker", "lawyer", "librarian", "marketing", "none", "other", "programmer", "retired", "salesman",
    "scientist", "student", "technician", "writer",
])
# fmt: on
AGES_PER_TASTE: Final = 12
FIRST_USER_ID: Final = 10_000_019
USER_ID_STEP: Final = 7
"""Ids with gaps, as real ones have: an id is not a row number."""
FIRST_TIME_S: Final = 874_724_710
SPAN_S: Final = 210 * 24 * 3600
FOLLOWED_TASTE: Final = 0.8
"""Share of taste, against popularity, in what is watched."""
RATED_LOWER: Final = (0.06, 0.17, 0.45, 0.79)
"""The share of ratings below 2, 3, 4 and 5: about MovieLens-100K's."""

Float32Array = NDArray[np.float32]


def read_or_generate() -> Ratings:
    """Return the real ratings where the environment names their folder (`data.find_folder`), else generated ones."""
    folder = find_folder()
    return generate() if folder is None else read(folder)


def generate(*, users: int = 1_000_000, active: int = 5_000, items: int = 1_700, seed: int = 7) -> Ratings:
    """Return ratings by `active` of the `users`, about 25 each; equal arguments give equal ratings."""
    rng = np.random.default_rng(seed)
    everyone = _users(rng, users)
    catalogue = _items(rng, items)
    fits = _genre_matrix(catalogue)

    raters = rng.choice(users, active, replace=False)
    taste = _tastes(rng, everyone, raters)
    appeal = taste @ fits.T  # (active, items)
    quality = rng.normal(0, 0.6, items).astype(np.float32)
    generosity = rng.normal(0, 0.5, active).astype(np.float32)
    popularity = rng.normal(0, 1.2, items).astype(np.float32) + 0.5 * quality

    counts = np.clip(rng.lognormal(3.0, 0.7, active), 5, items // 4).astype(np.int64)
    who = np.repeat(np.arange(active), counts)
    what = _chosen(rng, FOLLOWED_TASTE * appeal + popularity, counts)
    score = quality[what] + generosity[who] + appeal[who, what] + rng.normal(0, 0.6, len(who)).astype(np.float32)
    return Ratings(
        source=f"generated ratings (seed {seed}, {users:,} users, of whom {active:,} have rated)",
        user_id=everyone.user_id[raters[who]],
        item_id=catalogue.item_id[what],
        rating=(1 + np.searchsorted(np.quantile(score, RATED_LOWER), score)).astype(np.float32),
        timestamp=_times(rng, counts),
        users=everyone,
        items=catalogue,
    )


def _users(rng: np.random.Generator, count: int) -> Users:
    return Users(
        user_id=FIRST_USER_ID + USER_ID_STEP * np.arange(count),
        age=np.clip(rng.normal(34, 12, count), 7, 75).astype(np.int64),
        gender=rng.choice(np.array(["M", "F"]), count, p=[0.7, 0.3]),
        occupation=rng.choice(OCCUPATIONS, count),
        zip_code=np.char.zfill(rng.integers(0, 1_000, count).astype(str), 5),
    )


def _items(rng: np.random.Generator, count: int) -> Items:
    lists = [rng.choice(GENRES, size, replace=False).tolist() for size in rng.integers(1, 4, count)]
    return Items(
        item_id=np.arange(1, count + 1),
        release_year=rng.integers(1930, 1999, count).astype(np.float32),
        genres=Ragged.from_lists(lists, dtype=np.str_),
    )


def _genre_matrix(items: Items) -> Float32Array:
    """Return (items, genres): rows of length 1."""
    matrix = np.zeros((len(items), len(GENRES)), np.float32)
    item = np.repeat(np.arange(len(items)), np.diff(items.genres.offsets))
    matrix[item, np.searchsorted(GENRES, items.genres.values)] = 1
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    return matrix


def _tastes(rng: np.random.Generator, users: Users, raters: NDArray[np.int64]) -> Float32Array:
    """Return (raters, genres): how much each likes each genre."""
    by_age = rng.normal(0, 0.6, (75 // AGES_PER_TASTE + 1, len(GENRES)))
    by_gender = rng.normal(0, 0.4, (2, len(GENRES)))
    by_occupation = rng.normal(0, 0.6, (len(OCCUPATIONS), len(GENRES)))
    taste: Float32Array = by_age[users.age[raters] // AGES_PER_TASTE].astype(np.float32)
    taste += by_gender[(users.gender[raters] == "M").astype(np.int64)]
    taste += by_occupation[np.searchsorted(OCCUPATIONS, users.occupation[raters])]
    taste += rng.normal(0, 0.6, taste.shape)
    return taste


def _chosen(rng: np.random.Generator, preference: Float32Array, counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the items each rater watched, `counts` of them, in random order, none twice.

    Adding Gumbel noise and taking the largest draws without replacement in proportion to exp(preference).
    """
    noisy = preference + rng.gumbel(size=preference.shape).astype(np.float32)
    return np.concatenate(
        [rng.permutation(np.argpartition(-row, count)[:count]) for row, count in zip(noisy, counts, strict=True)]
    )


def _times(rng: np.random.Generator, counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return ascending times per rater, some of them equal: people rate several films in one go."""
    start = np.repeat(rng.integers(0, SPAN_S, len(counts)), counts)
    gaps = rng.exponential(900, len(start)) * rng.integers(0, 2, len(start))
    ends = np.cumsum(counts)
    elapsed = np.cumsum(gaps)
    before = np.concatenate([[0.0], elapsed[ends[:-1] - 1]])
    times: NDArray[np.int64] = (FIRST_TIME_S + start + elapsed - np.repeat(before, counts)).astype(np.int64)
    return times
