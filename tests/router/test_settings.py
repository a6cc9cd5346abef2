"""The settings of a router: their bounds, and the time that is kept back for the answer."""

from __future__ import annotations

import numpy as np
import pytest

from ringpull.ps.errors import InvalidInput
from ringpull.router.settings import RouterSettings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hedge_quantile", 1.0),
        ("hedge_share", -0.1),
        ("reserve_share", 1.0),
        ("hedge_floor_s", 0.0),
        ("eject_after_s", float("nan")),
        ("give_up_s", -1.0),
        ("ping_timeout_s", 0.0),
        ("backoff_first_s", 0.0),
        ("hedge_burst_keys", 0),
        ("eject_failures", 0),
        ("eject_slow", 0),
        ("hedge_cap_s", 0.001),
        ("backoff_max_s", 0.001),
        ("reserve_max_s", -0.1),
    ],
)
def test_a_setting_out_of_its_bounds_is_named(name, value):
    with pytest.raises(InvalidInput, match=name):
        RouterSettings(**{name: value})


def test_time_is_kept_back_for_the_answer():
    chosen = RouterSettings(reserve_share=0.2, reserve_max_s=0.05)
    assert chosen.answer_by_s(10.0, 10.1) == pytest.approx(10.08)
    assert chosen.answer_by_s(10.0, 15.0) == pytest.approx(14.95)
    np.testing.assert_allclose(RouterSettings(reserve_share=0.0).answer_by_s(10.0, 15.0), 15.0)
