"""From what a converter tells to a version that is served: its names, texts, big variables and signatures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from ringpull.inference.importers.savedmodel.description import Description, ModelInput
from ringpull.inference.importers.savedmodel.model import import_converted
from ringpull.inference.schema.kinds import Dense, Feature, IdSequence, Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.inference.schema.transforms import Fingerprint, Hash, Vocabulary
from ringpull.ps.errors import ExportError, InvalidInput
from tests.inference.export.versions import Exported
from tests.inference.importers.savedmodel.converted import GENRES, ITEMS, Scorer, converted
from tests.inference.importers.savedmodel.imported import asking

pytestmark = pytest.mark.medium


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("converted")
    model, description = converted(folder)
    scorer = Scorer(model)
    import_converted(model, description, scorer, folder / "towers", 1, quiet=True, tables={}, max_dense_bytes=0)
    asked = scorer.asked[0]
    assert asked["movieId"].dtype == np.int32
    assert asked["movieId"].shape[1:] == (1,)
    assert asked["title"].dtype.kind == "U"
    assert asked["years"].shape[1:] == (3,)
    (folder / "variable_0.raw").unlink()  # nothing of it is needed any longer
    return folder / "towers" / "1"


def test_scores_are_those_of_the_whole(version: Path) -> None:
    exported = Exported(version)
    assert "items" in {entry.spec.name for entry in exported.manifest.tables}
    columns: dict[str, Any] = {
        "movieId": np.array([0, 1_999, 7]),
        "genre": np.array(["a", "c", "no such genre"], object),
        "age": np.float32([[1, 2], [3, 4], [5, 6]]),
    }
    expected = (ITEMS[[0, 1_999, 7]] * GENRES[[1, 3, 0]]).sum(axis=1) + columns["age"].sum(axis=1)
    scores = exported.score(columns, 3)
    np.testing.assert_allclose(scores["score"], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(scores["regress:outputs"][:, 0], scores["score"])


async def test_clients_send_what_they_sent_also_what_nothing_needs(version: Path) -> None:
    row = {"movieId": 7, "genre": "b", "age": [1.0, 2.0]}
    whole = row | {"title": "Heat", "years": [1995, 1996, 1997], "stars": 4.5}
    expected = float(ITEMS[7] @ GENRES[2]) + 3.0
    async with asking(version) as ask:
        bare = await ask(":predict", {"instances": [row]})
        assert bare["predictions"] == pytest.approx([expected], abs=1e-4)
        assert await ask(":predict", {"instances": [whole]}) == bare
        assert await ask(":predict", {"signature_name": "serving_default", "instances": [row]}) == bare
        named = await ask(":predict", {"signature_name": "regress", "instances": [row]})
        assert named["predictions"] == [bare["predictions"]]
        assert await ask(":regress", {"signature_name": "regress", "examples": [row]}) == {
            "results": bare["predictions"]
        }
        told = (await ask("/metadata"))["metadata"]["signature_def"]["signature_def"]
        assert {name: list(each["outputs"]) for name, each in told.items()} == {
            "serving_default": ["score"],
            "regress": ["outputs"],
            "score": ["score"],
        }


def test_fingerprints_are_checked_by_the_values_that_they_are_of(tmp_path: Path) -> None:
    """TensorFlow is given texts and integers; the graph, and what is served, their fingerprints."""
    inputs = [
        {
            "name": "word",
            "tensor": "in_0:0",
            "dtype": "string",
            "shape": [None, 1],
            "known": None,
            "pad": 1,
            "hashed": True,
        },
        {
            "name": "number",
            "tensor": "in_1:0",
            "dtype": "int32",
            "shape": [None],
            "known": None,
            "pad": 1,
            "hashed": True,
        },
    ]
    outputs = [{"signature": "serving_default", "name": "bits", "tensor": "out:0"}]
    told = {"inputs": inputs, "outputs": outputs, "variables": [], "signatures": ["serving_default"], "notes": []}
    nodes = [
        helper.make_node("Mod", ["in_0:0", "many"], ["word"]),
        helper.make_node("Squeeze", ["word", "one"], ["flat"]),
        helper.make_node("Mod", ["in_1:0", "many"], ["number"]),
        helper.make_node("Add", ["flat", "number"], ["both"]),
        helper.make_node("Cast", ["both"], ["out:0"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "hashed",
        [
            helper.make_tensor_value_info("in_0:0", TensorProto.INT64, [None, 1]),
            helper.make_tensor_value_info("in_1:0", TensorProto.INT64, [None]),
        ],
        [helper.make_tensor_value_info("out:0", TensorProto.FLOAT, [None])],
        [numpy_helper.from_array(np.array(1_000), "many"), numpy_helper.from_array(np.array([1]), "one")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    asked: list[Any] = []

    def score(rows: Any) -> list[Any]:
        asked.extend(rows["word"].reshape(-1).tolist())
        words, numbers = (Fingerprint().apply(rows[name].reshape(-1)) % 1_000 for name in ("word", "number"))
        return [(words + numbers).astype(np.float32)]

    given = {"word": np.array(["Heat", "Köln"], object), "number": np.array([7, -7])}
    options: dict[str, Any] = {"quiet": True, "check_columns": given}
    import_converted(model, Description.of(told), score, tmp_path / "hashed", 1, **options)
    assert {"", "Heat", "Köln"} < set(asked)
    found = Exported(tmp_path / "hashed" / "1").score(given, 2)["bits"]
    expected = sum(Fingerprint().apply(each) % 1_000 for each in given.values())
    assert found.tolist() == expected.tolist()


def test_a_bag_of_one_id_is_masked_as_the_graph_masks_it(tmp_path: Path) -> None:
    """All ids below 0 are none, not only the one that pads: with one id a row, too, the two are told apart."""
    inputs = [{"name": "movie", "tensor": "in:0", "dtype": "int64", "shape": [None, None], "known": None, "pad": -1}]
    outputs = [{"signature": "serving_default", "name": "score", "tensor": "out:0"}]
    told = {"outputs": outputs, "variables": [], "signatures": ["serving_default"], "notes": []}
    description = Description.of({**told, "inputs": [{**each, "hashed": False} for each in inputs]})
    nodes = [
        helper.make_node("Max", ["in:0", "zero"], ["row"]),
        helper.make_node("Gather", ["items", "row"], ["rows"]),
        helper.make_node("GreaterOrEqual", ["in:0", "zero"], ["there"]),
        helper.make_node("Cast", ["there"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["masks"]),
        helper.make_node("Mul", ["rows", "masks"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "one"], ["bag"], keepdims=0),
        helper.make_node("ReduceSum", ["bag", "one"], ["out:0"], keepdims=0),
    ]
    constants = {"zero": np.array(0), "last": np.array([2]), "one": np.array([1]), "items": ITEMS}
    graph = helper.make_graph(
        nodes,
        "bags",
        [helper.make_tensor_value_info("in:0", TensorProto.INT64, [None, None])],
        [helper.make_tensor_value_info("out:0", TensorProto.FLOAT, [None])],
        [numpy_helper.from_array(each, name) for name, each in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)

    def score(rows: Any) -> list[Any]:
        there = rows["movie"] >= 0
        return [(ITEMS[np.maximum(rows["movie"], 0)] * there[..., None]).sum(axis=(1, 2), dtype=np.float32)]

    import_converted(model, description, score, tmp_path / "bags", 1, lengths={"movie": 1}, quiet=True)
    movies = np.array([[5], [-1], [-7], [1_999]])
    found = Exported(tmp_path / "bags" / "1").score({"movie": movies}, 4)["score"]
    np.testing.assert_allclose(found, score({"movie": movies})[0], rtol=1e-4, atol=1e-5)


def test_other_scores_write_nothing(tmp_path: Path) -> None:
    model, description = converted(tmp_path)
    with pytest.raises(ExportError, match="score"):
        import_converted(model, description, Scorer(model, wrong=True), tmp_path / "out", 1, quiet=True)
    assert not list((tmp_path / "out").glob("*/*"))


GIVEN = ModelInput("x", "in:0", "int64", (None,), None, None)


@pytest.mark.parametrize(
    ("given", "feature"),
    [
        ({}, Sparse("x")),
        ({"dtype": "int32", "shape": (None, 1)}, Sparse("x")),
        ({"shape": (None, 3)}, IdSequence("x", length=3)),
        ({"shape": (None, 3), "pad": -1}, IdSequence("x", length=3, pad=-1)),
        ({"dtype": "float32"}, Dense("x", flat=True)),
        ({"dtype": "float64", "shape": (None, 2, 3)}, Dense("x", width=6)),
        ({"dtype": "bool", "shape": (None, 1)}, Dense("x")),
        ({"dtype": "string", "known": ("a",)}, Sparse("x", dtype="string", transforms=(Vocabulary(["a"]),))),
        ({"dtype": "string", "known": ()}, Sparse("x", dtype="string", transforms=(Hash(1),))),
        ({"known": (7, 5)}, Sparse("x", transforms=(Vocabulary([7, 5]),))),
        (
            {"dtype": "string", "known": ("a", ""), "shape": (None, 2)},
            IdSequence("x", length=2, dtype="string", pad=2, transforms=(Vocabulary(["a", ""]),)),
        ),
        ({"dtype": "string", "hashed": True}, Sparse("x", dtype="string", transforms=(Fingerprint(),))),
        (
            {"hashed": True, "pad": -1, "shape": (None, 2)},
            IdSequence("x", length=2, pad=-1, transforms=(Fingerprint(),)),
        ),
        ({"dtype": "string", "tensor": None}, Sparse("x", dtype="string", missing="")),
        ({"dtype": "float32", "tensor": None, "shape": (None, 4)}, Dense("x", width=4, missing=0.0)),
    ],
)
def test_an_input_is_a_feature_of_its_name(given: dict[str, Any], feature: Any) -> None:
    description = Description((replace(GIVEN, **given),), (), (), (), ())
    assert description.schema().features == (feature,)


@pytest.mark.parametrize(
    ("given", "lengths", "message"),
    [
        ({"shape": (None, None)}, {}, "--length x=NUMBER"),
        ({"shape": (None, None, 2)}, {}, "second dimension"),
        ({"name": "a/b"}, {}, "calls its input otherwise"),
        ({}, {"y": 3}, "no such input; there are: x"),
    ],
)
def test_an_input_that_is_no_feature_is_named(given: dict[str, Any], lengths: dict[str, int], message: str) -> None:
    description = Description((replace(GIVEN, **given),), (), (), (), ())
    with pytest.raises(InvalidInput, match=message):
        description.schema(lengths)


def test_inputs_that_are_described_are_taken_as_they_are(tmp_path: Path) -> None:
    _, description = converted(tmp_path)
    movie = Sparse("movieId", missing=5)
    schema = description.schema(None, Schema([movie]))
    told = description.schema()
    assert [each.name for each in schema.features] == [each.name for each in told.features]
    assert schema["movieId"] == movie
    assert schema["genre"] == told["genre"]


@pytest.mark.parametrize(
    ("feature", "message"),
    [
        (Sparse("author"), "has no input author; it has movieId"),
        (Dense("movieId"), "feature movieId must be Sparse or IdSequence: the SavedModel takes int32"),
        (Sparse("age"), "feature age must be Dense"),
        (Sparse("genre", "string", transforms=[Vocabulary(["x"])]), "feature genre must end in the vocabulary of the"),
    ],
)
def test_features_that_are_not_those_of_the_inputs_are_named(feature: Feature, message: str, tmp_path: Path) -> None:
    _, description = converted(tmp_path)
    with pytest.raises(InvalidInput, match=message):
        description.schema(None, Schema([feature]))
