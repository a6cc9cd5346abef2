"""Long inferences become columns in threads; what is too large is refused before anything is done for its values."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ringpull.inference.head.frontends.oip import infer_calls, service, tables
from ringpull.inference.head.frontends.oip.infer_messages import read_message
from ringpull.inference.head.request.full_names import TableName
from ringpull.inference.head.request.received import Limits
from ringpull.inference.head.request.rows_by_key import RowLimits
from ringpull.ps.errors import LimitExceeded
from tests.inference.http_served import HttpServed
from tests.inference.oip.oip_served import OipServed
from tests.inference.oip.requests import infer_request, outputs_of
from tests.inference.oip.test_http import as_binary, post
from tests.inference.oip.test_service import refusal

COUNT = 12_000
STRINGS = {"city": np.array(["paris"] * 2, object)}
MANY = {"city": np.array(["a"] * COUNT, object)}


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """What was done to requests, each time with whether that was on the event loop."""
    found: list[tuple[str, bool]] = []

    def told(module: Any, name: str) -> None:
        work: Callable[..., Any] = getattr(module, name)

        def do(*given: Any) -> Any:
            found.append((name, threading.current_thread() is threading.main_thread()))
            return work(*given)

        monkeypatch.setattr(module, name, do)

    told(service, "read_message")
    told(infer_calls, "columns_of")
    return found


@pytest.mark.net
@pytest.mark.parametrize("beside", [False, True], ids=["short", "long"])
async def test_what_is_long_is_worked_on_in_a_thread(
    oip: OipServed, http: HttpServed, threads: list[tuple[str, bool]], beside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if beside:
        monkeypatch.setattr("ringpull.inference.head.aside.ON_LOOP_BYTES", 0)
    reply = await oip.call("ModelInfer", infer_request(STRINGS, model_name="cities"))
    assert outputs_of(reply)["input0"].tolist() == [1.0, 1.0]
    assert threads == [("read_message", not beside), ("columns_of", not beside)]
    threads.clear()
    assert (await post(http, as_binary(STRINGS), "/v2/models/cities/infer")).status_code == 200
    assert threads == [("columns_of", not beside)]


@pytest.mark.net
async def test_strings_of_too_many_rows_are_not_read(oip: OipServed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(infer_calls, "read_raw", None)
    why = f"input city: has {COUNT} rows; max_candidates is 50"
    assert await refusal(oip, infer_request(MANY, model_name="cities")) == ("RESOURCE_EXHAUSTED", why)


@pytest.mark.net
async def test_a_long_message_of_no_shape_is_refused_by_that(oip: OipServed) -> None:
    for shape, why in (([-1, COUNT], "may be negative"), ([1, 1, COUNT], "one dimension or two"), ([40], "are left")):
        asked = infer_request(MANY, model_name="cities")
        asked.inputs[0].shape[:] = shape
        code, said = await refusal(oip, asked)
        assert (code, said.startswith("input city: "), why in said) == ("INVALID_ARGUMENT", True, True)


def test_keys_beyond_the_limit_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = read_message(infer_request({"KEYS": MANY["city"]}, model_name="m.t"), Limits(1, 1))
    monkeypatch.setattr(type(asked), "tensors", None)
    with pytest.raises(LimitExceeded, match=f"keys: {COUNT} keys"):
        tables.request_of(asked, TableName("m", "t"), RowLimits(COUNT - 1, 1000))
