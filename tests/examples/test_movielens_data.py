"""Reading, generating, and no leakage: every past-only column equals a loop over the ratings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from examples.movielens import data, features, generated
from examples.movielens.data import Items, Ratings, Users
from ringpull.inference.schema.columns import Ragged


def write_recbole(folder: Path, ratings: list[str]) -> None:
    folder.mkdir()
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    (folder / data.RATINGS_FILE).write_text("\n".join([header, *ratings]) + "\n")
    (folder / data.USERS_FILE).write_text(
        "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n7\t24\tF\twriter\t02139\n3\t53\tM\tother\tV3N4P\n"
    )
    (folder / data.ITEMS_FILE).write_text(
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        "1\tToy Story\t1995\tAnimation Children's Comedy\n9\tunknown\tunknown\tunknown\n"
    )


def make_ratings(events: list[tuple[int, int, float, int]]) -> Ratings:
    """Ratings from (user, item, rating, time), users and items described as little as possible."""
    user, item, rating, time = (np.array(column) for column in zip(*events, strict=True))
    users, items = np.unique(user)[::-1], np.unique(item)
    text = np.full(len(users), "x")
    return Ratings(
        source="test",
        user_id=user,
        item_id=item,
        rating=rating.astype(np.float32),
        timestamp=time,
        users=Users(users, 20 + users % 50, text, text, text),
        items=Items(items, np.full(len(items), 1990, np.float32), Ragged.from_lists([["Drama"]] * len(items), np.str_)),
    )


@pytest.fixture(scope="module")
def some_ratings() -> Ratings:
    rng = np.random.default_rng(5)
    pairs = rng.permutation(20 * 30)[:400]  # times collide: several ratings in one second
    return make_ratings([(p // 30 + 1, p % 30 + 100, int(rng.integers(1, 6)), int(rng.integers(0, 60))) for p in pairs])


def test_read_keeps_strings_and_unknown_years(tmp_path: Path) -> None:
    write_recbole(tmp_path / "ml", ["7\t1\t5\t881250949", "3\t9\t2\t881250950"])
    ratings = data.read(tmp_path / "ml")
    assert ratings.users.zip_code.tolist() == ["02139", "V3N4P"]
    assert ratings.items.genres.offsets.tolist() == [0, 3, 4]
    assert np.isnan(ratings.items.release_year).tolist() == [False, True]
    assert ratings.rating.tolist() == [5, 2]
    assert ratings.timestamp.tolist() == [881250949, 881250950]


def test_read_names_the_line_that_is_short(tmp_path: Path) -> None:
    write_recbole(tmp_path / "ml", ["7\t1\t5\t881250949", "3\t9\t2"])
    with pytest.raises(ValueError, match="line 3: 3 fields; the header names 4"):
        data.read(tmp_path / "ml")


def test_find_folder_takes_the_folder_or_its_parent(tmp_path: Path) -> None:
    child = tmp_path / data.CHILD
    write_recbole(child, ["7\t1\t5\t1"])
    assert data.find_folder({data.FOLDER_VARIABLE: str(tmp_path)}) == child
    assert data.find_folder({data.FOLDER_VARIABLE: str(child)}) == child
    assert data.find_folder({}) is None
    with pytest.raises(FileNotFoundError, match=data.RATINGS_FILE):
        data.find_folder({data.FOLDER_VARIABLE: str(tmp_path / "elsewhere")})


def test_held_out_is_each_users_last_fifth(some_ratings: Ratings) -> None:
    held_out = features.held_out_mask(some_ratings)
    for user in np.unique(some_ratings.user_id):
        mine = some_ratings.user_id == user
        times, out = some_ratings.timestamp[mine], held_out[mine]
        assert out.sum() == mine.sum() // 5
        assert times[~out].max() <= times[out].min()


def test_history_is_what_the_user_rated_strictly_earlier(some_ratings: Ratings) -> None:
    histories = features.histories(some_ratings)
    for row in range(len(some_ratings)):
        earlier = (some_ratings.user_id == some_ratings.user_id[row]) & (
            some_ratings.timestamp < some_ratings.timestamp[row]
        )
        history = histories.values[histories.offsets[row] : histories.offsets[row + 1]]
        assert sorted(history) == sorted(some_ratings.item_id[earlier])


def test_history_is_the_newest_items_oldest_first() -> None:
    ratings = make_ratings([(1, item, 4, time) for time, item in enumerate(range(1, 80))])
    histories = features.histories(ratings)
    last = histories.values[histories.offsets[-2] :]
    assert last.tolist() == list(range(79 - features.HISTORY, 79))


def test_numbers_count_earlier_training_ratings_only(some_ratings: Ratings) -> None:
    training, held_out = features.make_examples(some_ratings)
    known = ~features.held_out_mask(some_ratings)
    assert len(training) + len(held_out) == len(some_ratings)
    order = np.argsort(some_ratings.timestamp, kind="stable")
    for examples, part in ((training, order[known[order]]), (held_out, order[~known[order]])):
        for name, group in (("user", some_ratings.user_id), ("item", some_ratings.item_id)):
            for place, row in enumerate(part):
                past = known & (group == group[row]) & (some_ratings.timestamp < some_ratings.timestamp[row])
                mean = (some_ratings.rating[past].sum() + features.PRIOR_RATINGS * features.AVERAGE_RATING) / (
                    past.sum() + features.PRIOR_RATINGS
                )
                assert examples.columns[f"{name}_ratings"][place] == past.sum()
                assert examples.columns[f"{name}_mean"][place] == pytest.approx(mean, rel=1e-6)


def test_a_held_out_label_changes_no_column(some_ratings: Ratings) -> None:
    held_out = features.held_out_mask(some_ratings)
    flipped = np.where(held_out, 6 - some_ratings.rating, some_ratings.rating).astype(np.float32)
    fields = {name: getattr(some_ratings, name) for name in Ratings.__slots__}
    before = features.make_examples(some_ratings)
    after = features.make_examples(Ratings(**{**fields, "rating": flipped}))
    for old, new in zip(before, after, strict=True):
        for name, column in old.columns.items():
            other = new.columns[name]
            if isinstance(column, Ragged):
                assert isinstance(other, Ragged)
                np.testing.assert_array_equal(column.values, other.values)
            else:
                np.testing.assert_array_equal(column, other)


def test_an_id_that_nobody_describes_is_named() -> None:
    ratings = make_ratings([(1, 2, 4, 0), (1, 3, 4, 1)])
    fields = {name: getattr(ratings, name) for name in Ratings.__slots__}
    with pytest.raises(ValueError, match="id 99 "):
        features.make_examples(Ratings(**{**fields, "item_id": np.array([2, 99])}))


def test_taking_rows_of_a_ragged_column() -> None:
    column = Ragged.from_lists([[1, 2], [], [7], [8, 9, 10]])
    taken = features.take(column, np.array([3, 0, 1]))
    assert isinstance(taken, Ragged)
    assert taken.values.tolist() == [8, 9, 10, 1, 2]
    assert taken.offsets.tolist() == [0, 3, 5, 5]


def test_generated_ratings_have_the_shape_of_the_real_ones() -> None:
    ratings = generated.generate(users=10_000, active=200, items=150, seed=3)
    again = generated.generate(users=10_000, active=200, items=150, seed=3)
    np.testing.assert_array_equal(ratings.rating, again.rating)
    np.testing.assert_array_equal(ratings.timestamp, again.timestamp)
    assert len(ratings.users) == 10_000
    assert set(np.unique(ratings.rating)) == {1, 2, 3, 4, 5}
    assert ratings.user_id.max() > 5_000  # drawn from the whole population
    assert 0.4 < (ratings.rating >= features.LIKED).mean() < 0.7
    pairs = np.stack([ratings.user_id, ratings.item_id], axis=1)
    assert len(np.unique(pairs, axis=0)) == len(pairs)


def test_real_ratings_are_all_read(movielens_folder: Path) -> None:
    ratings = data.read(movielens_folder)
    training, held_out = features.make_examples(ratings)
    assert (len(ratings), len(ratings.users), len(ratings.items)) == (100_000, 943, 1_682)
    assert len(held_out) == sum(np.unique(ratings.user_id, return_counts=True)[1] // 5)
    assert len(training) + len(held_out) == 100_000
