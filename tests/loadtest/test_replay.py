"""Recordings: whole requests line by line, and pairs that become requests; what does not fit is refused by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from ringpull.inference.errors import InvalidInput
from ringpull.inference.wire.codec import PredictCall
from ringpull.loadtest.options import WorkloadOptions
from ringpull.loadtest.replay import recorded_calls
from ringpull.loadtest.workload import Workload
from tests.loadtest.models import MODEL

PAIRS = "who,town,movie\n1,Rome,10\n1,Paris,11\n1,Oslo,12\n2,Rome,10\n1,Rome,13\n"
COLUMNS = {"user_id": "who", "item_id": "movie"}
OPTIONS = WorkloadOptions(candidates=2, replay_columns=COLUMNS)


def replayed(path: Path, text: str, options: WorkloadOptions = OPTIONS) -> list[PredictCall]:
    path.write_text(text)
    return list(recorded_calls(path, Workload(MODEL, options)))


def expect_pairs(made: list[PredictCall]) -> None:
    """A run of one user is cut at two candidates; a user who comes back later is another request."""
    assert [call.context["user_id"].tolist() for call in made] == [[1], [1], [2], [1]]
    assert [call.features["item_id"].tolist() for call in made] == [[10, 11], [12], [10], [13]]
    assert [call.features["town"].tolist() for call in made] == [["Rome", "Paris"], ["Oslo"], ["Rome"], ["Rome"]]
    assert [len(call.features["price"]) for call in made] == [2, 1, 1, 1]


def test_pairs_become_requests_and_the_rest_is_made_up(tmp_path: Path) -> None:
    expect_pairs(replayed(tmp_path / "pairs.csv", PAIRS))


def test_parquet_reads_as_csv_does(tmp_path: Path) -> None:
    names, *rows = (line.split(",") for line in PAIRS.split())
    table = pyarrow.table({name: [row[place] for row in rows] for place, name in enumerate(names)})
    pyarrow.parquet.write_table(table, tmp_path / "pairs.parquet")
    expect_pairs(list(recorded_calls(tmp_path / "pairs.parquet", Workload(MODEL, OPTIONS))))


def test_made_up_features_depend_on_the_seed_only(tmp_path: Path) -> None:
    one, other = (replayed(tmp_path / "pairs.csv", PAIRS) for _ in range(2))
    np.testing.assert_array_equal(one[0].features["price"], other[0].features["price"])


def test_requests_are_sent_as_they_were_recorded(tmp_path: Path) -> None:
    whole = '{"model": "ranker", "features": {"item_id": [1, 2]}, "context": {"user_id": 7}}'
    made = replayed(tmp_path / "requests.jsonl", whole + '\n\n{"features": {"item_id": [3]}}\n')
    assert [call.features["item_id"].tolist() for call in made] == [[1, 2], [3]]
    assert {call.model for call in made} == {"ranker"}
    assert made[0].context["user_id"].tolist() == [7]


@pytest.mark.parametrize(
    ("name", "text", "named"),
    [
        ("requests.jsonl", "{}\n{\n", "line 2"),
        ("requests.jsonl", '{"model": "other"}\n', "for model other"),
        ("pairs.csv", "a,b\n1,2\n", "has the columns a, b"),
        ("pairs.csv", "who,movie\n1,ten\n", "item_id"),
        ("pairs.txt", "", "must be .jsonl, .csv or .parquet"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(tmp_path: Path, name: str, text: str, named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        replayed(tmp_path / name, text)


def test_only_single_ids_are_read_from_columns(tmp_path: Path) -> None:
    options = replace(OPTIONS, replay_columns={"liked": "movie"})
    with pytest.raises(InvalidInput, match="liked: only features of one id per row"):
        replayed(tmp_path / "pairs.csv", PAIRS, options)


def test_a_recording_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"nowhere\.csv"):
        list(recorded_calls(tmp_path / "nowhere.csv", Workload(MODEL, OPTIONS)))
