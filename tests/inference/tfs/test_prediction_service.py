"""TensorFlow Serving's prediction verbs over real gRPC: compared with our own client's answers from the same head."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ringpull.inference.client.client import AsyncClient
from ringpull.inference.head.frontends.tfs import messages
from ringpull.inference.head.frontends.tfs.examples import columns_of_input, size_of_input
from ringpull.inference.schema.columns import Ragged
from tests.inference.served import CONFIG, ROWS
from tests.inference.small_model import SCHEMA, columns_of, plain_row
from tests.inference.tfs.requests import INPUTS, SPEC, example, refusal, signed
from tests.inference.tfs.tensors import dims, tensor, tensors
from tests.inference.tfs.tfs_served import OUTPUTS, TfsServed

pytestmark = pytest.mark.net

COLUMNS = columns_of(ROWS)
NOT_FOUND = "Servable not found for request:"


def arrays(reply: Any) -> dict[str, np.ndarray[Any, Any]]:
    return {
        name: np.array(each.float_val, np.float32).reshape([dim.size for dim in each.tensor_shape.dim])
        for name, each in reply.outputs.items()
    }


# -- Predict -----------------------------------------------------------------------------------------------------------


async def test_predict_answers_as_our_own_client_is_answered(tfs: TfsServed, own_client: AsyncClient) -> None:
    reply = await tfs.call("Predict", model_spec=SPEC, inputs=INPUTS)
    own = await own_client.predict("ranker", COLUMNS)
    assert arrays(reply).keys() == own.outputs.keys()
    for name, values in arrays(reply).items():
        assert values.shape == own.outputs[name].shape
        np.testing.assert_array_equal(values, own.outputs[name])
    assert reply.model_spec.name == "ranker"
    assert reply.model_spec.version.value == 3
    assert reply.model_spec.signature_name == "serving_default"


GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.bin"))


@pytest.mark.parametrize("file", GOLDEN, ids=lambda file: file.stem)
async def test_requests_of_tensorflow_s_own_client(tfs: TfsServed, own_client: AsyncClient, file: Path) -> None:
    """As they were sent by tensorflow-serving-api 2.21 (`tensorflow_session.py`): the same rows in several forms."""
    reply = await tfs.call("Predict", file.read_bytes())
    own = await own_client.predict("ranker", COLUMNS)
    assert set(reply.outputs) == ({"score"} if file.stem == "chosen" else set(own.outputs))
    for name, values in arrays(reply).items():
        np.testing.assert_array_equal(values, own.outputs[name])


def test_there_are_such_requests() -> None:
    assert len(GOLDEN) == 7


async def test_features_of_the_context_come_once_or_repeated(tfs: TfsServed, own_client: AsyncClient) -> None:
    context = {"user": np.array([1]), "genres": Ragged(np.array([1, 2]), np.array([0, 2]))}
    own = {name: column for name, column in COLUMNS.items() if name not in context}
    expected = await own_client.predict("ranker", own, context)
    once = await tfs.call("Predict", model_spec=SPEC, inputs=tensors({**own, **context}))
    wide = {"user": tensor([[1]]), "genres": tensor([[1, 2]])}
    again = await tfs.call("Predict", model_spec=SPEC, inputs={**tensors(own), **wide})
    for reply in (once, again, await tfs.call("Predict", model_spec=SPEC, inputs=INPUTS)):
        for name, values in expected.outputs.items():
            np.testing.assert_array_equal(arrays(reply)[name], values)


async def test_one_value_of_a_list_stands_for_all(tfs: TfsServed, own_client: AsyncClient) -> None:
    price = messages.TensorProto(dtype="DT_FLOAT", tensor_shape=dims(3), float_val=[3.0])
    reply = await tfs.call("Predict", model_spec=SPEC, inputs={**INPUTS, "price": price})
    expected = await own_client.predict("ranker", COLUMNS)
    np.testing.assert_array_equal(arrays(reply)["score"], expected.outputs["score"])


async def test_an_output_filter_and_a_signature_choose_outputs(tfs: TfsServed) -> None:
    both = await tfs.call("Predict", model_spec=SPEC, inputs=INPUTS, output_filter=["score", "classes"])
    assert set(both.outputs) == {"score", "classes"}
    default = await tfs.call("Predict", model_spec={**SPEC, "signature_name": "serving_default"}, inputs=INPUTS)
    assert set(default.outputs) == {"score", "column", "classes", "history"}
    one = await tfs.call("Predict", model_spec={**SPEC, "signature_name": "classes"}, inputs=INPUTS)
    assert set(one.outputs) == {"classes"}
    assert one.model_spec.signature_name == "classes"


async def test_a_version_or_its_label_is_asked_for(tfs: TfsServed) -> None:
    tfs.catalog.show({"ranker": 3}, [("ranker", 3)], labels={"ranker": {"stable": 3}})
    for chosen in ({"version": {"value": 3}}, {"version_label": "stable"}, {}):
        reply = await tfs.call("Predict", model_spec={**SPEC, **chosen}, inputs=INPUTS)
        assert reply.model_spec.version.value == 3


@pytest.mark.parametrize("method", ["Predict", "Classify", "Regress", "GetModelMetadata"])
@pytest.mark.parametrize(
    ("spec", "code", "says"),
    [
        ({"name": "other"}, "NOT_FOUND", f"{NOT_FOUND} Latest(other)"),
        ({"name": "ranker", "version": {"value": 9}}, "NOT_FOUND", f"{NOT_FOUND} Specific(ranker, 9)"),
        ({"name": "ranker", "version": {"value": 0}}, "NOT_FOUND", f"{NOT_FOUND} Specific(ranker, 0)"),
        ({"name": "ranker", "version": {"value": -1}}, "INVALID_ARGUMENT", "model_spec.version: is -1"),
        ({"name": "ranker", "version_label": "x"}, "INVALID_ARGUMENT", "Unrecognized servable version label: x"),
        ({"name": "other", "version_label": "x"}, "INVALID_ARGUMENT", "Unrecognized servable version label: x"),
        ({}, "INVALID_ARGUMENT", "model_spec.name: is empty"),
        (None, "INVALID_ARGUMENT", "Missing ModelSpec"),
    ],
    ids=["model", "version", "none", "negative", "label", "both", "empty", "absent"],
)
async def test_what_is_not_served_is_answered_as_by_tensorflow_serving(
    tfs: TfsServed, method: str, spec: dict[str, Any] | None, code: str, says: str
) -> None:
    found, message = await refusal(tfs.call(method, model_spec=spec))
    assert found == code
    assert says in message
    if code == "NOT_FOUND":
        assert message == says  # Probes compare the whole of it.


@pytest.mark.parametrize(
    ("fields", "code", "says"),
    [
        ({"model_spec": signed("x")}, "FAILED_PRECONDITION", 'Serving signature key "x" not found.'),
        ({"output_filter": ["x"]}, "INVALID_ARGUMENT", "output tensor alias not found in signature: x"),
        ({"output_filter": ["score", "score"]}, "INVALID_ARGUMENT", "duplicate output tensor alias"),
        ({"inputs": {**INPUTS, "x": tensor([1])}}, "INVALID_ARGUMENT", "input x: the model has no such feature"),
        ({"inputs": {**INPUTS, "user": tensor([1.5] * 3)}}, "INVALID_ARGUMENT", "feature user: takes int64 values"),
        ({"inputs": {"user": tensor([1])}}, "INVALID_ARGUMENT", "feature item: absent"),
        ({"inputs": {}}, "INVALID_ARGUMENT", "there are no candidate columns"),
        ({"inputs": {"user": {"dtype": "DT_RESOURCE"}}}, "INVALID_ARGUMENT", "input user: dtype is DT_RESOURCE"),
        ({"inputs": tensors(columns_of([plain_row(1, 1)] * 51))}, "RESOURCE_EXHAUSTED", "max_candidates is 50"),
        ({"inputs": {f"{i}": {} for i in range(4_097)}}, "RESOURCE_EXHAUSTED", "max_columns is 4096"),
    ],
    ids=["signature", "output", "twice", "input", "type", "absent", "none", "dtype", "rows", "columns"],
)
async def test_what_does_not_fit_is_named(tfs: TfsServed, fields: dict[str, Any], code: str, says: str) -> None:
    found, message = await refusal(tfs.call("Predict", **{"model_spec": SPEC, "inputs": INPUTS, **fields}))
    assert found == code
    assert says in message


async def test_a_body_that_is_no_message(tfs: TfsServed) -> None:
    for method in ("Predict", "Classify", "Regress", "GetModelMetadata", "GetModelStatus"):
        code, message = await refusal(tfs.call(method, b"\xff\xff"))
        assert (method, code) == (method, "INVALID_ARGUMENT")
        assert "not a valid tensorflow.serving." in message


async def test_deadlines_are_kept_and_calls_counted() -> None:
    config = replace(CONFIG, default_timeout_s=0.05, max_timeout_s=0.05)
    with ThreadPoolExecutor(1) as executor:
        served = TfsServed(executor, config)
        await served.start()
        served.router.gate.clear()
        code, _ = await refusal(served.call("Predict", model_spec=SPEC, inputs=INPUTS))
        await served.stop()
    assert code == "DEADLINE_EXCEEDED"
    assert (served.counts.requests, served.counts.failed) == (1, 1)


# -- Classify and Regress ----------------------------------------------------------------------------------------------


UNEVEN = [
    plain_row(1, 2),
    {**plain_row(1, 4), "genres": [], "tags": [(1, 0.5), (2, 2.0)]},
    {**plain_row(1, 5), "genres": [1, 2, 4], "history": [1, 2, 4, 5, 7], "tags": []},
]
EXAMPLES = {"example_list": {"examples": [example(row) for row in UNEVEN]}}


async def test_regress_answers_with_a_value_for_each_example(tfs: TfsServed, own_client: AsyncClient) -> None:
    own = await own_client.predict("ranker", columns_of(UNEVEN))
    for name in ("score", "column"):
        reply = await tfs.call("Regress", model_spec=signed(name), input=EXAMPLES)
        assert [each.value for each in reply.result.regressions] == own.outputs[name].reshape(-1).tolist()
        assert (reply.model_spec.version.value, reply.model_spec.signature_name) == (3, name)


async def test_classify_answers_with_classes_for_each_example(tfs: TfsServed, own_client: AsyncClient) -> None:
    reply = await tfs.call("Classify", model_spec=signed("classes"), input=EXAMPLES)
    own = await own_client.predict("ranker", columns_of(UNEVEN))
    rows = reply.result.classifications
    assert [[each.score for each in row.classes] for row in rows] == own.outputs["classes"].tolist()
    assert {each.label for row in rows for each in row.classes} == {""}
    assert (reply.model_spec.version.value, reply.model_spec.signature_name) == (3, "classes")


async def test_the_only_output_that_fits_answers_by_default_and_with_its_labels() -> None:
    outputs = [each for each in OUTPUTS if each.name in ("score", "classes")]
    outputs[1] = replace(outputs[1], classes=("a", "b", "c"))
    with ThreadPoolExecutor(1) as executor:
        served = TfsServed(executor, outputs=outputs)
        await served.start()
        classes = await served.call("Classify", model_spec=SPEC, input=EXAMPLES)
        values = await served.call("Regress", model_spec=signed("serving_default"), input=EXAMPLES)
        await served.stop()
    assert [[each.label for each in row.classes] for row in classes.result.classifications] == [["a", "b", "c"]] * 3
    assert classes.model_spec.signature_name == values.model_spec.signature_name == "serving_default"
    assert len(values.result.regressions) == 3


async def test_many_examples_are_read_beside_the_loop(tfs: TfsServed, own_client: AsyncClient) -> None:
    rows = [plain_row(1, item % 12) for item in range(50)]
    given = {"example_list": {"examples": [example(row) for row in rows]}}
    own = await own_client.predict("ranker", columns_of(rows))
    asked = messages.RegressionRequest(model_spec=signed("score"), input=given)
    assert size_of_input(asked.input, SCHEMA.features, 1) == 16 * 50 * len(SCHEMA.features)
    assert size_of_input(asked.input, SCHEMA.features, 99_999) == 99_999  # One example may be as long as any message.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ringpull.inference.head.aside.ON_LOOP_BYTES", 0)
        reply = await tfs.call("Regress", asked)
    assert [each.value for each in reply.result.regressions] == own.outputs["score"].tolist()


async def test_a_context_is_that_of_every_example(tfs: TfsServed, own_client: AsyncClient) -> None:
    context = {name: plain_row(1, 2)[name] for name in ("user", "genres", "tags", "age")}
    rows = [{name: value for name, value in row.items() if name not in context} for row in UNEVEN]
    given = {"example_list_with_context": {"examples": [example(row) for row in rows], "context": example(context)}}
    reply = await tfs.call("Regress", model_spec=signed("score"), input=given)
    own = await own_client.predict("ranker", columns_of([{**row, **context} for row in rows]))
    assert [each.value for each in reply.result.regressions] == own.outputs["score"].tolist()


async def test_examples_may_have_nothing_but_their_context(tfs: TfsServed, own_client: AsyncClient) -> None:
    given = {"example_list_with_context": {"examples": [{}] * 3, "context": example(plain_row(1, 2))}}
    reply = await tfs.call("Regress", model_spec=signed("score"), input=given)
    own = await own_client.predict("ranker", columns_of([plain_row(1, 2)]))
    assert [each.value for each in reply.result.regressions] == own.outputs["score"].tolist() * 3


async def test_a_large_context_is_not_written_out_for_every_example(tfs: TfsServed) -> None:
    context = example({**plain_row(1, 2), "history": [1] * 20})
    request = messages.RegressionRequest(
        input={"example_list_with_context": {"examples": [{}] * 50, "context": context}}
    )
    assert columns_of_input(request.input, SCHEMA.features, tfs.predictor.limits).rows == 1


@pytest.mark.parametrize(
    ("method", "signature", "says"),
    [
        ("Regress", "", "several have one value a row: score (B,), column (B, 1); give one's name"),
        ("Regress", "classes", "Regress needs an output of one value a row; there are classes (B, 3)"),
        ("Regress", "history", "there are history (B, 4, 3)"),
        ("Regress", "x", "No signature was found with the name: x"),
        ("Classify", "", "several have C values a row: column (B, 1), classes (B, 3)"),
        ("Classify", "score", "Classify needs an output of C values a row; there are score (B,)"),
        ("Classify", "history", "there are history (B, 4, 3)"),
        ("Classify", "x", "No signature was found with the name: x"),
    ],
)
async def test_an_output_must_fit_the_verb(tfs: TfsServed, method: str, signature: str, says: str) -> None:
    code, message = await refusal(tfs.call(method, model_spec=signed(signature), input=EXAMPLES))
    assert code == "INVALID_ARGUMENT"
    assert says in message


def listed(**features: Any) -> dict[str, Any]:
    """An input of one example, or of several where a feature has several lists."""
    return {"example_list": {"examples": [{"features": {"feature": features}}]}}


def ints(*values: int) -> dict[str, Any]:
    return {"int64_list": {"value": values}}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "Input is empty"),
        ({"example_list": {}}, "Input is empty"),
        ({"example_list_with_context": {"context": example(plain_row(1, 2))}}, "Input is empty"),
        (listed(x=ints(1)), "input x: the model has no such feature"),
        (listed(genres_offsets=ints(0, 1)), "input genres_offsets: the model has no such feature"),
        (listed(tags_weights=ints(1)), "input tags_weights: goes with tags, which is not there"),
        (listed(tags=ints(1), tags_weights=ints(1, 2)), "feature tags_weights: must have as many values as tags"),
        (listed(user=ints(1, 2)), "feature user: examples[0] has 2 values; it takes 1 in every example"),
        (listed(user=ints()), "feature user: examples[0] has 0 values"),
        (listed(user={}), "feature user: examples[0] has 0 values"),
        (listed(age=ints(1)), "feature age: examples[0] has 1 values; it takes 2"),
        (listed(user={"bytes_list": {"value": [b"a"]}}), "feature user: takes int64 values, not strings"),
        (
            {"example_list": {"examples": [example({"user": 1}), example({"price": 1.0})]}},
            "feature price: examples[0] has 0 values",
        ),
        (
            {"example_list": {"examples": [example({"price": 1}), {"features": {"feature": {"price": ints(1)}}}]}},
            "feature price: examples hold float_list and int64_list of it",
        ),
        (
            {"example_list_with_context": {"examples": [example({"user": 1})], "context": example({"user": 1})}},
            "feature user: is both in examples and in their context",
        ),
    ],
    ids=range(15),
)
async def test_what_is_no_example_is_named(tfs: TfsServed, given: dict[str, Any], says: str) -> None:
    code, message = await refusal(tfs.call("Regress", model_spec=signed("score"), input=given))
    assert code == "INVALID_ARGUMENT"
    assert says in message


# -- GetModelMetadata --------------------------------------------------------------------------------------------------


def shapes(infos: Any) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {
        name: (messages.DTYPE_NAMES[each.dtype], tuple(dim.size for dim in each.tensor_shape.dim))
        for name, each in infos.items()
    }


async def test_metadata_tells_the_signatures(tfs: TfsServed) -> None:
    reply = await tfs.call("GetModelMetadata", model_spec=SPEC, metadata_field=["signature_def"])
    assert (reply.model_spec.name, reply.model_spec.version.value) == ("ranker", 3)
    found = messages.SignatureDefMap()
    assert reply.metadata["signature_def"].type_url == "type.googleapis.com/tensorflow.serving.SignatureDefMap"
    assert reply.metadata["signature_def"].Unpack(found)
    signatures = found.signature_def
    assert set(signatures) == {"serving_default", "score", "column", "classes", "history"}
    default = signatures["serving_default"]
    assert default.method_name == "tensorflow/serving/predict"
    numbers, ids = ("DT_FLOAT", (-1,)), ("DT_INT64", (-1,))
    assert shapes(default.inputs) == {
        **dict.fromkeys(("user", "item"), ids),
        **{name: ids for many in ("genres", "tags", "history", "recent") for name in (many, f"{many}_offsets")},
        "tags_weights": numbers,
        "age": ("DT_FLOAT", (-1, 2)),
        "price": numbers,
    }
    assert shapes(default.outputs) == {
        "score": numbers,
        "column": ("DT_FLOAT", (-1, 1)),
        "classes": ("DT_FLOAT", (-1, 3)),
        "history": ("DT_FLOAT", (-1, 4, 3)),
    }
    assert shapes(signatures["classes"].outputs) == {"classes": ("DT_FLOAT", (-1, 3))}
    assert shapes(signatures["classes"].inputs) == shapes(default.inputs)


@pytest.mark.parametrize(
    ("fields", "says"), [([], "must specify at least one metadata_field"), (["x"], "Metadata field x is not supported")]
)
async def test_other_metadata_is_refused(tfs: TfsServed, fields: list[str], says: str) -> None:
    code, message = await refusal(tfs.call("GetModelMetadata", model_spec=SPEC, metadata_field=fields))
    assert code == "INVALID_ARGUMENT"
    assert says in message
