"""From what a converter tells to a version that is served: its names, texts, big variables and signatures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ringpull.inference.importers.savedmodel.description import Description, ModelInput
from ringpull.inference.importers.savedmodel.model import import_converted
from ringpull.inference.schema.kinds import Dense, IdSequence, Sparse
from ringpull.inference.schema.transforms import Hash, Vocabulary
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
