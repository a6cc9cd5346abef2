"""The workload: equal seeds make equal requests, and ids, bags and unknown shares are what was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringpull.inference.errors import InvalidInput
from ringpull.inference.schema.columns import Ragged
from ringpull.inference.wire.codec import encode_request
from ringpull.loadtest.ids import UNKNOWN_FIRST, IdList, IdRange, parse_ids
from ringpull.loadtest.options import PerFeature, WorkloadOptions, parse_options
from ringpull.loadtest.workload import IDS_WITHOUT_A_TABLE, Workload
from ringpull.loadtest.zipf import HEAD, Zipf
from tests.loadtest.models import MODEL, ROWS, calls


def encoded(options: WorkloadOptions) -> list[bytes]:
    return [encode_request(call).SerializeToString(deterministic=True) for call in calls(5, options)]


def test_a_seed_decides_every_byte() -> None:
    assert encoded(WorkloadOptions(seed=1)) == encoded(WorkloadOptions(seed=1))
    assert encoded(WorkloadOptions(seed=1)) != encoded(WorkloadOptions(seed=2))


def test_an_option_of_one_feature_leaves_the_others_alone() -> None:
    plain, changed = (calls(3, WorkloadOptions(zipf=PerFeature(1.0, by_name))) for by_name in ({}, {"item_id": 2.0}))
    for one, other in zip(plain, changed, strict=True):
        np.testing.assert_array_equal(one.context["user_id"], other.context["user_id"])
        np.testing.assert_array_equal(one.features["price"], other.features["price"])
        assert not np.array_equal(one.features["item_id"], other.features["item_id"])


def test_columns_have_the_types_and_shapes_of_the_schema() -> None:
    (call,) = calls(1, WorkloadOptions(candidates=7))
    assert set(call.context) == {"user_id"}
    assert call.context["user_id"].shape == (1,)
    assert call.features["item_id"].dtype == np.uint64
    assert all(isinstance(value, str) for value in call.features["town"])
    assert call.features["age"].shape == (7,)
    assert call.features["price"].shape == (7, 2)
    liked, history = call.features["liked"], call.features["history"]
    assert isinstance(liked, Ragged)
    assert isinstance(history, Ragged)
    assert liked.weights is not None
    assert len(liked) == len(history) == call.rows == 7
    liked.check("liked")


def test_bags_have_the_mean_length_asked_for_and_never_more_than_fits() -> None:
    options = WorkloadOptions(candidates=2000, bag=PerFeature(3.0, {"history": 50.0}))
    (call,) = calls(1, options)
    assert np.diff(call.features["liked"].offsets).mean() == pytest.approx(3, rel=0.1)
    assert set(np.diff(call.features["history"].offsets)) == {4}


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_unknown_ids_have_their_share(share: float) -> None:
    (call,) = calls(1, WorkloadOptions(candidates=5000, unknown=PerFeature(share)))
    strange = call.features["item_id"] >= UNKNOWN_FIRST
    assert strange.mean() == pytest.approx(share, abs=0.02)
    assert all(call.features["item_id"][~strange] < ROWS)
    towns = [town.startswith("unknown-") for town in call.features["town"]]
    assert np.mean(towns) == pytest.approx(share, abs=0.02)


def test_ids_are_rows_of_the_smallest_table_that_looks_them_up() -> None:
    streams = Workload(MODEL, WorkloadOptions()).streams
    assert streams["user_id"].ids == IdRange(0, 50)
    assert streams["liked"].ids == IdRange(0, ROWS)
    assert streams["town"].ids == IdRange(0, IDS_WITHOUT_A_TABLE)


def test_given_ids_are_used_hottest_first(tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", np.array([70, 60, 50]))
    (tmp_path / "towns").write_text("Paris\nRome\n")
    options = parse_options(candidates=500, unknown="0", ids=f"item_id={tmp_path}/ids.npy,town={tmp_path}/towns")
    (call,) = calls(1, options)
    values, counts = np.unique(call.features["item_id"], return_counts=True)
    assert dict(zip(values, counts, strict=True)).keys() == {50, 60, 70}
    assert values[np.argsort(-counts)].tolist() == [70, 60, 50]
    assert set(call.features["town"]) == {"Paris", "Rome"}


def test_options_are_read_as_written() -> None:
    options = parse_options(zipf="1.2,item_id=0.5", bag="liked=3", context="user*, town", ids="user_id=1..943")
    assert (options.zipf.of("item_id"), options.zipf.of("other")) == (0.5, 1.2)
    assert (options.bag.of("liked"), options.bag.of("other")) == (3.0, 10.0)
    assert options.context == ("user*", "town")
    assert options.ids == {"user_id": IdRange(1, 943)}
    assert parse_options() == WorkloadOptions()


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"zipf": "hot"}, "--zipf 'hot'"),
        ({"bag": "liked=long"}, "--bag 'liked=long'"),
        ({"unknown": "1.5"}, "--unknown"),
        ({"unknown": "town=-1"}, "--unknown town"),
        ({"ids": "1..5"}, "--ids '1..5'"),
        ({"ids": "user_id=5..1"}, "user_id=5..1"),
        ({"ids": "user_id=/nowhere"}, "user_id=/nowhere"),
        ({"candidates": 0}, "--candidates is 0"),
        ({"requests": 0}, "--requests is 0"),
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused_by_name(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        parse_options(**wrong)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (WorkloadOptions(zipf=PerFeature(1.0, {"colour": 1.0})), "no feature colour"),
        (WorkloadOptions(context=("*",)), "takes every feature"),
        (WorkloadOptions(zipf=PerFeature(-1.0)), "exponent -1"),
        (WorkloadOptions(ids={"user_id": IdList(np.array(["seven"], object))}, unknown=PerFeature(0.0)), "user_id"),
    ],
    ids=str,
)
def test_options_that_do_not_fit_the_model_are_refused(options: WorkloadOptions, named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        calls(1, options)


def test_an_empty_list_of_ids_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(InvalidInput, match="at least one id"):
        parse_ids("town", str(tmp_path / "empty"))


@given(exponent=st.floats(0, 3), n=st.sampled_from([1, 2, 1000, HEAD, 4 * HEAD]))
def test_zipf_draws_ranks_by_their_weights(exponent: float, n: int) -> None:
    count = 4000
    ranks = Zipf(n, exponent).draw(np.random.default_rng(0), count)
    assert ranks.min() >= 0
    assert ranks.max() < n
    weights = np.arange(1, n + 1, dtype=np.float64) ** -exponent
    cumulative = np.cumsum(weights / weights.sum())
    measured = np.searchsorted(np.sort(ranks), np.arange(n), side="right") / count
    # Kolmogorov and Smirnov's distance: above 0.035 once in tens of thousands of right samples of 4000.
    assert np.abs(measured - cumulative).max() < 0.035


def test_zipf_of_a_billion_ids_reaches_its_tail() -> None:
    ranks = Zipf(10**9, 1.0).draw(np.random.default_rng(0), 20_000)
    expected = np.log(10**9 / HEAD) / (np.log(10**9) + 0.5772)
    assert (ranks >= HEAD).mean() == pytest.approx(expected, abs=0.01)
    assert ranks.max() < 10**9
