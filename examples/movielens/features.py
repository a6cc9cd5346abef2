"""Features of the model, made from ratings: what was known about user and item just before each rating.

No leakage, by three rules, each with a test:
* Held out is each user's last fifth by time.
* A history holds only items the user rated strictly earlier.
* Numbers made of ratings (means, counts) count only training ratings, and only strictly earlier ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from examples.movielens.data import Int64Array, Ratings
from ringpull.inference.schema.columns import Column, Ragged

HISTORY: Final = 50
"""Items of the user's history, newest last."""
LIKED: Final = 4
"""A rating from here up is a 1."""
PRIOR_RATINGS: Final = 5
"""A mean starts as if this many ratings of the average had been seen: one early 5 is not a mean of 5."""
AVERAGE_RATING: Final = 3.5


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Columns and labels, row by row."""

    columns: Mapping[str, Column]
    labels: NDArray[np.float32]
    """(B,): 1 where the rating is at least `LIKED`."""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Int64Array) -> Examples:
        """Return the rows at these places, in this order."""
        return Examples({name: take(column, rows) for name, column in self.columns.items()}, self.labels[rows])


def take(column: Column, rows: Int64Array) -> Column:
    """Return the rows of a column at these places, in this order."""
    if not isinstance(column, Ragged):
        return column[rows]
    offsets, index = _spans(column.offsets[rows], column.offsets[rows + 1])
    return Ragged(column.values[index], offsets)


def make_examples(ratings: Ratings) -> tuple[Examples, Examples]:
    """Return (training, held-out) examples, each in the order of time."""
    held_out = held_out_mask(ratings)
    user = _places(ratings.users.user_id, ratings.user_id)
    item = _places(ratings.items.item_id, ratings.item_id)
    user_mean, user_ratings = _past_ratings(ratings.user_id, ratings, known=~held_out)
    item_mean, item_ratings = _past_ratings(ratings.item_id, ratings, known=~held_out)
    year = 1970 + ratings.timestamp / (365.25 * 24 * 3600)
    columns: dict[str, Column] = {
        "user_id": ratings.user_id,
        "item_id": ratings.item_id,
        "age": ratings.users.age[user],
        "gender": ratings.users.gender[user],
        "occupation": ratings.users.occupation[user],
        "zip_code": ratings.users.zip_code[user],
        "genres": take(ratings.items.genres, item),
        "recent_items": histories(ratings),
        "user_mean": user_mean,
        "user_ratings": user_ratings,
        "item_mean": item_mean,
        "item_ratings": item_ratings,
        "item_age": (year - ratings.items.release_year[item]).astype(np.float32),
    }
    everything = Examples(columns, (ratings.rating >= LIKED).astype(np.float32))
    order = np.argsort(ratings.timestamp, kind="stable")
    return everything.take(order[~held_out[order]]), everything.take(order[held_out[order]])


def held_out_mask(ratings: Ratings) -> NDArray[np.bool_]:
    """Return bool (N,): True for the last fifth, by time, of each user's ratings (rounded down)."""
    order, first = _runs(ratings.user_id, ratings.timestamp)
    count = np.diff(np.append(first, len(order)))
    place = np.arange(len(order)) - np.repeat(first, count)
    mask = np.empty(len(order), bool)
    mask[order] = place >= np.repeat(count - count // 5, count)
    return mask


def histories(ratings: Ratings) -> Ragged:
    """Return, per rating, the items its user rated strictly earlier: the last `HISTORY`, oldest first."""
    order, first = _runs(ratings.user_id, ratings.timestamp)
    run = np.repeat(first, np.diff(np.append(first, len(order))))
    end = _first_of_equal_time(order, run, ratings.timestamp)
    begin = np.maximum(run, end - HISTORY)
    begin_of, end_of = np.empty_like(begin), np.empty_like(end)
    begin_of[order], end_of[order] = begin, end
    offsets, index = _spans(begin_of, end_of)
    return Ragged(ratings.item_id[order][index], offsets)


def _past_ratings(
    group: Int64Array, ratings: Ratings, *, known: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the (mean, number) of the known ratings of the same group, strictly earlier than each rating."""
    order, first = _runs(group, ratings.timestamp)
    run = np.repeat(first, np.diff(np.append(first, len(order))))
    end = _first_of_equal_time(order, run, ratings.timestamp)
    counted = known[order]
    number_until = np.concatenate([[0], np.cumsum(counted)])
    sum_until = np.concatenate([[0.0], np.cumsum(np.where(counted, ratings.rating[order], 0), dtype=np.float64)])
    number = number_until[end] - number_until[run]
    mean = (sum_until[end] - sum_until[run] + PRIOR_RATINGS * AVERAGE_RATING) / (number + PRIOR_RATINGS)
    mean_of, number_of = np.empty(len(order), np.float32), np.empty(len(order), np.float32)
    mean_of[order], number_of[order] = mean, number
    return mean_of, number_of


def _places(ids: Int64Array, wanted: Int64Array) -> Int64Array:
    """Return where each wanted id stands in `ids`.

    Raises:
        ValueError: One is not there; the message names it.
    """
    order = np.argsort(ids)
    places = order[np.minimum(np.searchsorted(ids, wanted, sorter=order), len(ids) - 1)]
    absent = ids[places] != wanted
    if absent.any():
        raise ValueError(
            f"id {wanted[absent][0]} was rated or has rated, but is not among the {len(ids)} ids described"
        )
    return places


def _runs(group: Int64Array, timestamp: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Return the order by (group, time) and the place in it where each group starts."""
    order = np.lexsort((timestamp, group))
    return order, np.unique(group[order], return_index=True)[1]


def _first_of_equal_time(order: Int64Array, run: Int64Array, timestamp: Int64Array) -> Int64Array:
    """Return, per place of `order`, the first place of the same group and the same time."""
    time = timestamp[order]
    starts = np.ones(len(order), bool)
    starts[1:] = (time[1:] != time[:-1]) | (run[1:] != run[:-1])
    return np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))


def _spans(begin: Int64Array, end: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Return the offsets of spans laid end to end, and the places [begin, end) of each."""
    offsets = np.concatenate([[0], np.cumsum(end - begin)])
    return offsets, np.arange(offsets[-1]) + np.repeat(begin - offsets[:-1], end - begin)
