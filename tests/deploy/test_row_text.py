"""Rows written on the command line become columns of the model's types."""

from __future__ import annotations

import pytest

from ringpull.deploy.view.row_text import columns_of_rows
from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.ps.errors import InvalidInput

FEATURES = [
    pb.FeatureInfo(name="user_id", dtype=pb.INT64),
    pb.FeatureInfo(name="zip", dtype=pb.STRING),
    pb.FeatureInfo(name="price", dtype=pb.FLOAT32),
    pb.FeatureInfo(name="genres", dtype=pb.STRING, many=True),
    pb.FeatureInfo(name="vector", dtype=pb.FLOAT32, width=3),
]


def test_values_take_the_models_types() -> None:
    row = "user_id=7, zip=0123, price=1.5, genres=drama|crime, vector=1|2|3"
    assert columns_of_rows([row], FEATURES) == {
        "user_id": [7],
        "zip": ["0123"],
        "price": [1.5],
        "genres": [["drama", "crime"]],
        "vector": [[1.0, 2.0, 3.0]],
    }


def test_one_entry_per_row() -> None:
    assert columns_of_rows(["user_id=7,genres=", "genres=a,user_id=-8"], FEATURES) == {
        "user_id": [7, -8],
        "genres": [[], ["a"]],
    }


def test_an_equals_sign_in_a_value_stays() -> None:
    assert columns_of_rows(["zip=a=b"], FEATURES) == {"zip": ["a=b"]}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["user_id"], "'user_id' is not NAME=VALUE"),
        ([""], "names no feature"),
        (["user_id=seven"], "feature user_id: 'seven' is not an integer"),
        (["price="], "feature price: '' is not a number"),
        (["vector=1|x|3"], "feature vector.*not a number per value"),
        (["usr=1"], "usr is not one of this model; it takes genres, price, user_id, vector, zip"),
        (["user_id=1,user_id=2"], "user_id is given twice"),
        (["user_id=1", "user_id=1,zip=2"], "zip is not in all of them"),
    ],
)
def test_what_is_wrong_is_named(rows: list[str], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        columns_of_rows(rows, FEATURES)
