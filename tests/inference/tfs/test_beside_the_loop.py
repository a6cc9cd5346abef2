"""Long messages are worked on in threads, in steps, and what is too large before anything is done for its values."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringpull.inference.client.client import AsyncClient
from ringpull.inference.head.frontends import tensors as named_tensors
from ringpull.inference.head.frontends.tensors import check_sizes, columns_of
from ringpull.inference.head.frontends.tfs import examples, messages, prediction_service, tensor_codec
from ringpull.inference.head.request.received import Limits
from ringpull.ps.errors import InvalidInput, LimitExceeded, RingpullError
from tests.inference.small_model import SCHEMA, plain_row
from tests.inference.small_model import columns_of as columns_of_rows
from tests.inference.tfs.requests import SPEC, example, refusal, signed
from tests.inference.tfs.tensors import dims, tensor, tensors
from tests.inference.tfs.tfs_served import TfsServed

LIMITS = Limits(max_candidates=5, max_values_per_row=4)
STEPS = {
    "Predict": ("parse", "_columns", "_outputs_reply"),
    "Classify": ("parse", "columns_of_input", "_classes_reply"),
    "Regress": ("parse", "columns_of_input", "_values_reply"),
}


@pytest.mark.net
@pytest.mark.parametrize("beside", [False, True], ids=["short", "long"])
@pytest.mark.parametrize("method", STEPS)
async def test_what_is_long_is_worked_on_in_a_thread(
    tfs: TfsServed, own_client: AsyncClient, method: str, beside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [plain_row(1, item) for item in (2, 4)]
    fields: dict[str, Any] = {"inputs": tensors(columns_of_rows(rows))}
    if method != "Predict":
        fields = {"input": {"example_list": {"examples": [example(row) for row in rows]}}}
    output = "classes" if method == "Classify" else "score"
    own = (await own_client.predict("ranker", columns_of_rows(rows))).outputs[output]
    on_loop: list[tuple[str, bool]] = []

    def told(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def do(*given: Any) -> Any:
            on_loop.append((name, threading.current_thread() is threading.main_thread()))
            return work(*given)

        return do

    for name in STEPS[method]:
        monkeypatch.setattr(prediction_service, name, told(name, getattr(prediction_service, name)))
    if beside:
        monkeypatch.setattr("ringpull.inference.head.aside.ON_LOOP_BYTES", 0)
    reply = await tfs.call(method, model_spec=signed(output), **fields)
    assert on_loop == [(name, not beside) for name in STEPS[method]]
    if method == "Predict":
        found = list(reply.outputs[output].float_val)
    elif method == "Classify":
        found = [each.score for row in reply.result.classifications for each in row.classes]
    else:
        found = [each.value for each in reply.result.regressions]
    assert found == own.reshape(-1).tolist()


@pytest.mark.net
async def test_a_tensor_of_too_many_rows_is_not_read(tfs: TfsServed, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 90_000
    given = messages.TensorProto(dtype="DT_INT64", tensor_shape=dims(count), int64_val=np.ones(count, np.int64))
    monkeypatch.setattr(prediction_service, "read_tensors", None)
    code, message = await refusal(tfs.call("Predict", model_spec=SPEC, inputs={"user": given}))
    assert (code, message) == ("RESOURCE_EXHAUSTED", "input user: has 90000 rows; max_candidates is 50")


@pytest.mark.net
async def test_an_example_of_too_many_values_is_not_read(tfs: TfsServed, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"history": [1] * 90_000}
    monkeypatch.setattr(examples._Lists, "values", None)
    given = {"example_list": {"examples": [example(row)]}}
    code, message = await refusal(tfs.call("Regress", model_spec=signed("score"), input=given))
    assert code == "RESOURCE_EXHAUSTED"
    assert "feature history: a row has 90000 values; max_values_per_row is" in message


@pytest.mark.net
async def test_as_many_output_filters_as_you_like(tfs: TfsServed) -> None:
    for filters, says in (["score"] * 9_999, "duplicate"), (["x"] * 9_999, "alias not found in signature: x"):
        code, message = await refusal(tfs.call("Predict", model_spec=SPEC, output_filter=filters))
        assert (code, says in message) == ("INVALID_ARGUMENT", True)


def outcome(work: Callable[[], Any]) -> str:
    try:
        work()
    except RingpullError as exc:
        return type(exc).__name__
    return ""


SHAPES = st.lists(st.integers(0, 7), max_size=2).map(tuple)
NAMES = ("user", "genres", "genres_offsets", "tags", "tags_offsets", "tags_weights", "history", "age", "price", "x", "")


@given(st.dictionaries(st.sampled_from(NAMES), SHAPES, min_size=1, max_size=4))
def test_shapes_alone_refuse_nothing_that_is_taken(shapes: dict[str, tuple[int, ...]]) -> None:
    """What they refuse is refused anyhow, once its values are read; and for the same kind of reason."""
    by_shapes = outcome(lambda: check_sizes(shapes, SCHEMA.features, LIMITS))
    if by_shapes:
        arrays = {
            name: np.linspace(0, 9, shape[0]).astype(int)
            if name.endswith("_offsets") and len(shape) == 1
            else np.ones(shape)
            for name, shape in shapes.items()
        }
        assert outcome(lambda: columns_of(arrays, SCHEMA.features, LIMITS))


@pytest.mark.parametrize(
    ("shapes", "error", "says"),
    [
        ({"user": (6,)}, LimitExceeded, "input user: has 6 rows; max_candidates is 5"),
        ({"user": (6, 1)}, LimitExceeded, "input user: has 6 rows"),
        ({"user": (2**31 - 1, 0)}, LimitExceeded, "input user: has"),
        ({"history": (1, 5)}, LimitExceeded, "input history: a row has 5 values; max_values_per_row is 4"),
        ({"genres": (21,), "genres_offsets": (6,)}, LimitExceeded, "input genres: a row has 5 values"),
        ({"genres": (1,), "genres_offsets": (7,)}, LimitExceeded, "has 6 rows"),
        ({"genres_offsets": (7,)}, InvalidInput, "goes with genres, which is not there"),
        ({"x": (1,)}, InvalidInput, "no such feature"),
        ({"x": (1,), "": (1,)}, InvalidInput, "input x: the model has no such feature"),
    ],
    ids=range(9),
)
def test_what_is_seen_by_shapes(shapes: dict[str, tuple[int, ...]], error: type[Exception], says: str) -> None:
    with pytest.raises(error) as caught:
        check_sizes(shapes, SCHEMA.features, LIMITS)
    assert says in str(caught.value)


def test_what_fits_by_shapes() -> None:
    check_sizes(
        {"user": (5,), "age": (2,), "genres": (20,), "genres_offsets": (6,), "tags": ()}, SCHEMA.features, LIMITS
    )


@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
@pytest.mark.parametrize(
    "values",
    [np.arange(7), np.arange(7, dtype=np.float32), np.array(["a", "", "bcd", "ä", "e", "f", "g"])],
    ids=["int64", "float32", "string"],
)
def test_steps_change_nothing(values: np.ndarray[Any, Any], chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists of messages are read in steps, strings joined in steps, and outputs written so."""
    whole = tensor_codec.read_tensors({"x": tensor(values, listed=True)})["x"]
    column = named_tensors._values("x", whole)
    message = messages.TensorProto()
    tensor_codec.write_tensor(message, np.ones((4, 2), np.float32))
    for module in (tensor_codec, named_tensors, examples):
        monkeypatch.setattr(module, "CHUNK", chunk)
    assert tensor_codec.read_tensors({"x": tensor(values, listed=True)})["x"].tolist() == whole.tolist()
    assert named_tensors._values("x", whole) == column
    again = messages.TensorProto()
    tensor_codec.write_tensor(again, np.ones((4, 2), np.float32))
    assert again == message


@pytest.mark.parametrize("lists", [[[1, 2, 3], [], [4]], [[], []], [[5]]], ids=range(3))
def test_lists_of_examples_in_steps(lists: Sequence[list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    given = messages.RegressionRequest(
        input={
            "example_list": {
                "examples": [{"features": {"feature": {"h": {"int64_list": {"value": each}}}}} for each in lists]
            }
        }
    )
    rows = [each.features.feature for each in given.input.example_list.examples]
    for chunk in (100, 1):
        monkeypatch.setattr(examples, "CHUNK", chunk)
        monkeypatch.setattr(tensor_codec, "CHUNK", chunk)
        found = examples._Lists.of("h", "examples", rows)
        assert found.values().tolist() == [value for each in lists for value in each]
        assert found.counts.tolist() == [len(each) for each in lists]
