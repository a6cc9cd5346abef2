"""SavedModels as TensorFlow makes them, imported by TensorFlow and served without: held against what it answers itself.

They are run where `RINGPULL_TENSORFLOW` names an interpreter that has it, or this one has.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ringpull.inference.importers.savedmodel.model import guess_savedmodel, import_savedmodel
from ringpull.inference.importers.savedmodel.process import Converter
from ringpull.inference.schema.kinds import IdSequence
from ringpull.inference.schema.schema import Schema
from ringpull.inference.schema.transforms import Vocabulary
from ringpull.ps.errors import CorruptData, ExportError, InvalidInput, RingpullError
from tests.inference.export.versions import Exported
from tests.inference.importers.savedmodel.imported import asking

pytestmark = pytest.mark.medium


def imported(folder: Path, out: Path, python: Path, **options: Any) -> Path:
    """Import a SavedModel as version 1 of a model of its name; return the version's folder."""
    report = import_savedmodel(folder, out / folder.name, 1, python=python, quiet=True, **options)
    assert report.check is not None
    assert report.check.largest_difference <= 1e-5 * max(1.0, report.check.largest_output)
    return out / folder.name / "1"


async def test_half_plus_two_answers_as_tensorflow_serving_does(
    saved_models: Path, tensorflow: Path, tmp_path: Path
) -> None:
    folder = imported(saved_models / "half_plus_two", tmp_path, tensorflow)
    async with asking(folder) as ask:
        assert await ask(":predict", {"instances": [1.0, 2.0, 5.0]}) == {"predictions": [2.5, 3.0, 4.5]}
        assert await ask(":predict", {"inputs": {"x": [1.0, 2.0]}}) == {"outputs": [2.5, 3.0]}
        regress = {"signature_name": "regress_x_to_y", "examples": [{"x": 1.0}, {"x": [2.0]}]}
        assert await ask(":regress", regress) == {"results": [2.5, 3.0]}
        regress = {"signature_name": "regress_x_to_y2", "examples": [{"x": 1.0}]}
        assert await ask(":regress", regress) == {"results": [3.5]}
        classify = {"signature_name": "classify_x_to_y", "examples": [{"x": 1.0}]}
        assert await ask(":classify", classify) == {"results": [[["", 2.5]]]}
        told = (await ask("/metadata"))["metadata"]["signature_def"]["signature_def"]
        assert set(told["serving_default"]["outputs"]) == {"y"}
        assert set(told["regress_x_to_y2"]["outputs"]) == {"outputs"}
        wrong = await ask(":predict", {"signature_name": "regress", "instances": [1.0]})
        assert "regress_x_to_y" in wrong["error"]


def test_a_signature_of_other_inputs_is_a_model_of_its_own(
    saved_models: Path, tensorflow: Path, tmp_path: Path
) -> None:
    chosen = ["regress_x2_to_y3"]
    version = Exported(imported(saved_models / "half_plus_two", tmp_path, tensorflow, signatures=chosen))
    assert version.score({"inputs": np.float32([2.0])}, 1)["regress_x2_to_y3:outputs"].tolist() == [4.0]


@pytest.mark.parametrize("name", ["towers2", "towers3"])
def test_texts_keep_their_vocabularies(name: str, saved_models: Path, tensorflow: Path, tmp_path: Path) -> None:
    folder = imported(saved_models / name, tmp_path, tensorflow)
    version = Exported(folder)
    sizes = sorted((entry.rows, entry.spec.dim) for entry in version.manifest.tables)
    assert sizes == [(4, 8), (6, 8), (7, 8), (1_001, 8)]
    kept = {each.name: each.transforms for each in version.schema.features if getattr(each, "transforms", ())}
    assert kept["city"] == (Vocabulary(["Bonn", "Köln", "Ulm"]),)
    assert kept["userId"] == (Vocabulary([10, 200, 3_000, 40_000, 7]),)
    columns = {
        "userId": np.array([10, 7, 8, -5]),
        "movieId": np.array([0, 1_000, 5, 5]),
        "city": np.array(["Köln", "", "Paris", "Ulm"], object),
        "genres": np.array([["Action", "", ""], ["Horror", "Action", "none such"], ["", "", ""], ["x"] * 3], object),
        "stats": np.float32([[0, 1], [2, 3], [4, 5], [-1, 0.5]]),
    }
    assert_as_tensorflow(saved_models / name, version, columns, tensorflow)


def test_buckets_and_crosses_are_those_of_any_text(saved_models: Path, tensorflow: Path, tmp_path: Path) -> None:
    version = Exported(imported(saved_models / "hashes", tmp_path, tensorflow))
    sizes = {(entry.rows, entry.spec.dim) for entry in version.manifest.tables}
    assert {(50, 4), (60, 4), (4, 4), (100, 4), (20, 4)} <= sizes
    words = ["", "Heat", "never seen before", "ä" * 40, "x"]
    columns = {
        "word": np.array(words, object),
        "number": np.array([0, -1, 7, 10**12, -(2**63)]),
        "city": np.array(["Bonn", "Ulm", "", "Köln", "Rom"], object),
        "genre": np.array(["Action", "Horror", "Action", "", "none such"], object),
        "price": np.float32([-1.0, 0.0, 0.5, 1.0, 7.0]),
        "rank": np.array([0, 19, 20, -1, -7]),
        "left": np.array([1, 2, 10**15, -4, 0]),
        "right": np.array(words[::-1], object),
    }
    assert_as_tensorflow(saved_models / "hashes", version, columns, tensorflow)


def test_examples_of_any_number_of_values_become_bags(saved_models: Path, tensorflow: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"--length genres=NUMBER --length movie=NUMBER"):
        imported(saved_models / "estimator", tmp_path, tensorflow)
    lengths = {"genres": 3, "movie": 1}
    version = Exported(imported(saved_models / "estimator", tmp_path, tensorflow, lengths=lengths))
    assert sorted(entry.rows for entry in version.manifest.tables) == [5, 50]
    columns = {
        "genres": np.array([["Action", "", ""], ["Horror", "Action", "none such"], ["", "", ""]], object),
        "movie": np.array([[0], [49], [7]]),
        "price": np.float32([0.0, 1.5, -2.0]),
    }
    assert_as_tensorflow(saved_models / "estimator", version, columns, tensorflow)


def test_loops_keep_their_bodies(saved_models: Path, tensorflow: Path, tmp_path: Path) -> None:
    version = Exported(imported(saved_models / "looped", tmp_path, tensorflow))
    assert [entry.rows for entry in version.manifest.tables] == [100]
    items = np.array([[1, 2, 3, 4, 5, 99], [7, 8, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]])
    assert_as_tensorflow(saved_models / "looped", version, {"items": items}, tensorflow)


def test_what_tf2onnx_turns_otherwise_is_as_it_was(saved_models: Path, tensorflow: Path, tmp_path: Path) -> None:
    version = Exported(imported(saved_models / "odd", tmp_path, tensorflow))
    assert [entry.rows for entry in version.manifest.tables] == [37]
    square = np.arange(24, dtype=np.float32).reshape(4, 6)
    columns = {"item": np.array([-1, -38, 36, 105]), "square": square}
    assert_as_tensorflow(saved_models / "odd", version, columns, tensorflow)


def assert_as_tensorflow(folder: Path, version: Exported, columns: dict[str, Any], python: Path) -> None:
    """Assert that a version answers raw columns as TensorFlow does, which is asked anew for texts themselves."""
    with Converter(python) as converter:
        told = converter.convert(folder)
        given = {}
        for each in told["inputs"]:
            values = columns[each["name"]]
            if each["hashed"]:
                values = values.astype(np.str_ if each["dtype"] == "string" else np.int64)
            if each["known"] is not None:  # as codes, the way that TensorFlow's own process is told of texts
                codes = {known: code for code, known in enumerate(each["known"], 1)}
                values = np.array([codes.get(value, 0) for value in values.reshape(-1).tolist()]).reshape(values.shape)
            shape = [len(values), *(-1 if size is None else size for size in each["shape"][1:])]
            given[each["name"]] = values.reshape(shape)
        found = converter.score(given)
    rows = len(next(iter(columns.values())))
    scores = version.score(columns, rows)
    plain = next(iter(scores))
    np.testing.assert_allclose(scores[plain], found[0], rtol=1e-5, atol=1e-6)


def test_feature_columns_are_found_by_probing(saved_models: Path, tensorflow: Path, tmp_path: Path) -> None:
    version = Exported(imported(saved_models / "columns", tmp_path, tensorflow))
    sizes = sorted((entry.rows, entry.spec.dim) for entry in version.manifest.tables)
    assert sizes == [(5, 4), (5, 10), (1_001, 10), (3_001, 10)]
    columns = {
        "userId": np.array([0, 3_000, 7, -1]),
        "movieId": np.array([1_000, 0, -1, 5]),
        "genre": np.array(["Action", "", "none such", "Romance"], object),
        "other": np.array(["", "Film-Noir", "Horror", "none such"], object),
        "tags": np.array([["Action", "", "x"], ["Horror", "Horror", "Romance"], ["", "", ""], ["y", "y", "y"]], object),
        "price": np.float32([0.0, 1.5, -2.0, 3.0]),
    }
    assert_as_tensorflow(saved_models / "columns", version, columns, tensorflow)


def test_big_variables_are_read_where_the_checkpoint_has_them(
    saved_models: Path, tensorflow: Path, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match="--length items=NUMBER"):
        imported(saved_models / "big", tmp_path, tensorflow)
    version = Exported(imported(saved_models / "big", tmp_path, tensorflow, lengths={"items": 4}))
    table = np.random.default_rng(3).standard_normal((70_000, 64)).astype(np.float32)
    ids = np.array([[0, 1, 2, 69_999], [5, 5, 5, 5]])
    total = version.score({"items": ids}, 2)["total"]
    np.testing.assert_allclose(total, table[ids].sum(axis=(1, 2)), rtol=1e-4, atol=1e-4)


def test_inputs_can_be_described(saved_models: Path, tensorflow: Path, tmp_path: Path) -> None:
    """A schema in the place of what the SavedModel tells: of some inputs, whose others stay as they are."""
    folder = saved_models / "big"
    guess = guess_savedmodel(folder, python=tensorflow)
    assert [each.length for each in guess.schema.features] == [50]  # type: ignore[union-attr]
    assert guess.notes == ("items: any number of values a row is taken; 50 was guessed",)
    described = Schema([IdSequence("items", 3, pad=1)])
    version = Exported(imported(folder, tmp_path, tensorflow, schema=described))
    assert version.schema.to_json() == described.to_json()
    table = np.random.default_rng(3).standard_normal((70_000, 64)).astype(np.float32)
    total = version.score({"items": [[7, 8], [9]]}, 2)["total"]
    np.testing.assert_allclose(total, table[[[7, 8, 1], [9, 1, 1]]].sum(axis=(1, 2)), rtol=1e-4, atol=1e-4)


def test_a_vocabulary_of_a_file_comes_in(saved_models: Path, tensorflow: Path, tmp_path: Path) -> None:
    version = Exported(imported(saved_models / "files", tmp_path, tensorflow))
    assert version.schema["genre"].transforms == (Vocabulary(["Action", "Horror"]),)  # type: ignore[union-attr]
    columns = {"genre": np.array(["Action", "Horror", "none such"], object)}
    assert_as_tensorflow(saved_models / "files", version, columns, tensorflow)


def test_hashed_texts_need_their_list(saved_models: Path, tensorflow: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"title.*StringToHashBucketFast.*--texts"):
        imported(saved_models / "hashed", tmp_path, tensorflow)
    texts = {"title": ["Heat", "heat", "Alien", "Ran"]}
    version = Exported(imported(saved_models / "hashed", tmp_path, tensorflow, texts=texts))
    scores = version.score({"title": np.array(["Heat", "heat", "Alien"], object)}, 3)["score"]
    assert scores[0] == scores[1] != scores[2]


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("calling", ExportError, "calls Python by PyFunc"),
        ("counting", ExportError, "AssignAddVariableOp .* changes a variable"),
        ("weighted", ExportError, "column tags_weighted_by_shares .* an embedding of tags.* times shares"),
        ("unsigned", InvalidInput, "no signature"),
        ("cut", CorruptData, "saved_model.pb"),
        ("no_saved_model", CorruptData, "saved_model.pb"),
        ("index", CorruptData, r"variables\.index: does not end like the index"),
        ("data", CorruptData, r"does not fit the files beside it: .* beyond the end of variables\.data"),
        ("no_data", CorruptData, r"No such file .*variables\.data-00000-of-00001.*copy the SavedModel whole"),
        ("flipped", CorruptData, "Checksum does not match"),
        ("empty", CorruptData, "holds no graph"),
        ("text", InvalidInput, "save it again, as saved_model.pb"),
        ("asset_outside", CorruptData, r"asset '\.\./ab\.txt' lies outside of the folder assets"),
        ("no_asset", CorruptData, r"asset 'vocab\.txt' is missing"),
        ("reading", ExportError, "reads a file that is no asset of it"),
        ("making", ExportError, r"Fill .* would make \[1099511627776\] elements"),
        ("announcing", CorruptData, r"constant .* announces [0-9,]+ numbers, which the file has not"),
        ("wide", CorruptData, "variable .* has the shape .*; the files of variables have"),
        ("no_variables", CorruptData, "cannot load it"),
    ],
)
def test_what_cannot_be_imported_is_named_and_leaves_nothing(
    name: str, kind: type[RingpullError], message: str, saved_models: Path, tensorflow: Path, tmp_path: Path
) -> None:
    folder = saved_models / name
    if not folder.exists():
        whole = saved_models / ("files" if "asset" in name else "towers2")
        folder = damaged(whole, tmp_path / "damaged", name)
    with pytest.raises(kind, match=message):
        imported(folder, tmp_path / "out", tensorflow)
    assert not list((tmp_path / "out").glob("*/*"))


def damaged(whole: Path, folder: Path, how: str) -> Path:
    """Return a copy of a SavedModel with one damage."""
    shutil.copytree(whole, folder)
    graph, index = folder / "saved_model.pb", folder / "variables" / "variables.index"
    data = folder / "variables" / "variables.data-00000-of-00001"
    if how == "cut":
        graph.write_bytes(graph.read_bytes()[: graph.stat().st_size // 2])
    elif how == "no_saved_model":
        graph.write_bytes(b"\x00\xff not a graph \xff" * 50)
    elif how == "index":
        index.write_bytes(index.read_bytes()[:-20] + bytes(20))
    elif how == "data":
        data.write_bytes(data.read_bytes()[:64])
    elif how == "no_data":
        data.unlink()
    elif how == "flipped":
        content = bytearray(data.read_bytes())
        content[100] ^= 64
        data.write_bytes(content)
    elif how == "empty":
        graph.write_bytes(b"")
    elif how == "text":
        graph.rename(folder / "saved_model.pbtxt")
    elif how == "asset_outside":
        graph.write_bytes(graph.read_bytes().replace(b"vocab.txt", b"../ab.txt"))
    elif how == "no_asset":
        shutil.rmtree(folder / "assets")
    else:
        shutil.rmtree(folder / "variables")
    return folder
