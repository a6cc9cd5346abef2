"""Tensors that lie in `tensor_content` become columns by a plan, and the same columns as by the long way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from numpy.typing import NDArray

from ringpull.inference.head.frontends.plans import Plans
from ringpull.inference.head.frontends.tensors import columns_of
from ringpull.inference.head.frontends.tfs import prediction_service
from ringpull.inference.head.frontends.tfs.tensor_codec import planned_columns, read_tensors
from ringpull.inference.head.request.received import Limits
from ringpull.ps.errors import RingpullError
from tests.inference.oip.test_plans import plain, requests
from tests.inference.small_model import SCHEMA
from tests.inference.tfs.requests import SPEC
from tests.inference.tfs.tensors import tensor
from tests.inference.tfs.tfs_served import TfsServed

LIMITS = Limits(max_candidates=60, max_values_per_row=20)
TENSORS: dict[str, NDArray[Any]] = {
    "user": np.array([7]),
    "item": np.array([2, 4, 5]),
    "age": np.arange(6, dtype=np.float32).reshape(3, 2),
    "genres": np.array([[1, 2], [3, 4], [5, 6]]),
}


class Version:
    """A served version, as far as plans ask for it."""

    class loaded:
        schema = SCHEMA


def outcome(columns: Any) -> Any:
    try:
        found = columns()
    except RingpullError as exc:
        return type(exc)
    return None if found is None else plain(found)


@settings(max_examples=200)
@given(requests())
def test_both_ways_give_the_same_columns(arrays: dict[str, NDArray[Any]]) -> None:
    inputs = {name: tensor(values) for name, values in arrays.items()}
    version: Any = Version()
    planned = outcome(lambda: planned_columns(inputs, version, LIMITS, Plans()))
    long = outcome(lambda: columns_of(read_tensors(inputs), SCHEMA.features, LIMITS))
    assert planned is None or planned == long


@pytest.mark.net
async def test_what_has_a_plan_is_not_read_value_by_value(tfs: TfsServed, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = await tfs.call(
        "Predict", model_spec=SPEC, inputs={name: tensor(each, listed=True) for name, each in TENSORS.items()}
    )
    monkeypatch.setattr(prediction_service, "read_tensors", None)
    inputs = {name: tensor(each) for name, each in TENSORS.items()}
    for _ in range(2):
        reply = await tfs.call("Predict", model_spec=SPEC, inputs=inputs)
        assert reply.outputs["score"].float_val == listed.outputs["score"].float_val
