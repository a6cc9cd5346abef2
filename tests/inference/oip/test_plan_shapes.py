"""A tensor whose bytes are not those of its shape has no columns, by a plan no more than the long way."""

from __future__ import annotations

import numpy as np
import pytest

from ringpull.inference.head.frontends.plans import kind_of, plan_of
from ringpull.inference.head.request.received import Limits
from tests.inference.small_model import SCHEMA

LIMITS = Limits(max_candidates=50, max_values_per_row=20)


@pytest.mark.parametrize(
    ("name", "datatype", "shape", "nbytes"),
    [
        ("age", "FP32", (1, 9), 8),
        ("age", "FP32", (1, 0), 8),
        ("history", "INT64", (-1, -1), 8),
        ("history", "INT64", (0, -3), 0),
        ("history", "INT64", (1, -1), 0),
    ],
)
def test_no_tensor_is_taken_for_what_its_shape_does_not_say(
    name: str, datatype: str, shape: tuple[int, ...], nbytes: int
) -> None:
    plan = plan_of([kind_of(name, datatype, shape)], SCHEMA.features)
    assert plan is None or plan.columns([shape], [bytes(nbytes)], LIMITS) is None


@pytest.mark.parametrize("width", [0, 2, 7])
def test_one_row_has_as_many_bytes_as_its_shape_says(width: int) -> None:
    shapes = [(1, width), (3,)]
    plan = plan_of([kind_of("user", "INT64", shapes[0]), kind_of("item", "INT64", shapes[1])], SCHEMA.features)
    raws = [np.arange(1).tobytes(), np.arange(3).tobytes()]
    assert plan is None or plan.columns(shapes, raws, LIMITS) is None
