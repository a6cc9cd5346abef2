"""What cannot be exported is refused, with an error that names module or table and the reason; nothing is left."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ringpull.inference.export.model import export_model
from ringpull.inference.export.table_options import TableOptions
from ringpull.inference.schema.kinds import Dense, Feature, IdSequence, Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.ps.errors import DuplicateKey, ExportError, InvalidInput

USER, BAG = Sparse("user"), Sparse("bag", many=True)


class Model(nn.Module):
    def __init__(self, embedding: nn.Module | None = None) -> None:
        super().__init__()
        self.e = nn.Embedding(12, 4) if embedding is None else embedding
        self.out = nn.Linear(4, 1)

    def forward(self, user: Tensor) -> Tensor:
        return self.out(self.e(user))


def refused(tmp_path: Path, module: nn.Module, features: list[Feature], match: str, **more: Any) -> None:
    with pytest.raises(ExportError, match=match):
        export_model(module, Schema(features), tmp_path / "model", 1, check_rows=8, quiet=True, **more)
    left = list(tmp_path.rglob("*"))
    assert left in ([], [tmp_path / "model"]), "a refused export leaves nothing behind"


def test_a_feature_called_like_the_offsets_of_another(tmp_path: Path) -> None:
    features: list[Feature] = [USER, IdSequence("seen", length=3), Sparse("seen_offsets")]
    with pytest.raises(
        InvalidInput, match="feature seen_offsets: is called like the offsets of seen, by which clients"
    ):
        export_model(Model(), Schema(features), tmp_path / "model", 1)
    assert not list(tmp_path.iterdir())
    # What was exported before is served.
    assert Schema.from_json(Schema(features).to_json()).get("seen_offsets") is not None


@pytest.mark.parametrize(
    ("module", "schema", "match"),
    [
        (Model(), (USER,), "^schema is a tuple; it must be a ringpull.Schema of the features: Schema"),
        (Schema([USER]), Model(), "^schema is a Model; it must be a ringpull.Schema"),
        (Model, Schema([USER]), "^module is the class Model; it must be a torch.nn.Module, as trained"),
    ],
)
def test_what_is_no_module_or_no_schema(tmp_path: Path, module: Any, schema: Any, match: str) -> None:
    with pytest.raises(InvalidInput, match=match):
        export_model(module, schema, tmp_path / "model", 1)


def test_check_columns_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"^check_columns: feature bag: has 1 rows; the others"):
        export_model(
            Model(),
            Schema([USER, BAG]),
            tmp_path / "model",
            1,
            check_columns={"user": [1, 2], "bag": [[3]]},
            quiet=True,
        )


@pytest.mark.parametrize("check_rows", [0, 8])
@pytest.mark.parametrize(
    ("feature", "column", "found"),
    [
        (
            Sparse("user", dtype="string"),
            ["ann", "bob"],
            "to the module row 0 is -?[0-9]{9,}, and table e has rows for",
        ),
        (USER, [3, 12], "to the module row 1 is 12, and table e has rows for ids from 0 to 11. Give what training"),
        (replace(BAG, name="user"), [[], [1, 2], [3, 40]], "to the module row 2 is 40, and table e has rows for ids"),
    ],
)
def test_check_columns_of_ids_that_the_module_has_no_row_for(
    tmp_path: Path, check_rows: int, feature: Sparse, column: list[Any], found: str
) -> None:
    """Raw ids are such, which requests bring; measured on the tables' default vectors a receipt would say nothing."""
    module = Bags() if feature.many else Model()
    with pytest.raises(InvalidInput, match=f"^check_columns: feature user: {found}"):
        export_model(
            module,
            Schema([feature]),
            tmp_path / "model",
            1,
            keys={"e": [f"user {number}" for number in range(12)]},
            check_columns={"user": column},
            check_rows=check_rows,
            dense_precision="bfloat16",
            quiet=True,
        )
    assert not list(tmp_path.rglob("manifest.json"))


class Bags(Model):
    def __init__(self) -> None:
        super().__init__(nn.EmbeddingBag(12, 4, mode="sum", include_last_offset=True))

    def forward(self, user: Tensor, user_offsets: Tensor) -> Tensor:
        return self.out(self.e(user, user_offsets))


class Failing(Model):
    def forward(self, user: Tensor, price: Tensor) -> Tensor:
        vectors = self.e(user)
        return self.out(vectors) + vectors.gather(1, (price > 50).long() * 9)


def test_rows_that_a_module_fails_on_are_told_as_what_they_are(tmp_path: Path) -> None:
    columns = {"user": [5, 5], "price": [1.0, 99.0]}
    with pytest.raises(ExportError, match="Failing fails on rows of check_columns and made-up ones: "):
        export_model(
            Failing(), Schema([USER, Dense("price")]), tmp_path / "model", 1, check_columns=columns, quiet=True
        )


class Asserting(Model):
    def forward(self, user: Tensor) -> Tensor:
        assert user.max() < 12, "such a user there is not"
        return self.out(self.e(user))


def test_an_assertion_on_values(tmp_path: Path) -> None:
    refused(tmp_path, Asserting(), [USER], "this asserts something of the values of a tensor.*Leave it out")


class ChangingRows(Model):
    def forward(self, user: Tensor) -> Tensor:
        torch.embedding_renorm_(self.e.weight.detach(), user, 1.0, 2.0)
        return self.out(self.e(user))


def test_rows_that_are_changed_while_they_are_read(tmp_path: Path) -> None:
    refused(tmp_path, ChangingRows(), [USER], "embedding e: max_norm")


class AddsRows(Model):
    def forward(self, user: Tensor) -> Tensor:
        return self.out(self.e((user + user.shape[0]) % 12))


@pytest.mark.medium
def test_an_index_that_depends_on_the_number_of_rows(tmp_path: Path) -> None:
    refused(tmp_path, AddsRows(), [USER], "a row's depends on the other rows of its batch")


class Computed(Model):
    def forward(self, user: Tensor) -> Tensor:
        return self.out(self.e(user.double().sqrt().long()))


def test_a_computed_index_over_the_limit(tmp_path: Path) -> None:
    embedding = nn.Embedding(12, 4)
    embedding.weight = nn.Parameter(torch.empty(17 * 2**20 // 4, 4))
    refused(tmp_path, Computed(embedding), [USER], r"embedding e: 68\.\d MiB cannot stay .* computed, by aten\.sqrt")


class Tied(Model):
    def forward(self, user: Tensor) -> Tensor:
        return self.e(user) @ self.e.weight.T


def test_tied_weights_over_the_limit(tmp_path: Path) -> None:
    refused(tmp_path, Tied(), [USER], "embedding e: .* also used by", max_dense_bytes=100)


class RaggedElsewhere(Model):
    def forward(self, bag: Tensor, bag_offsets: Tensor) -> Tensor:
        counts = (bag_offsets[1:] - bag_offsets[:-1]).float()
        return self.out(self.e(bag, bag_offsets)) * counts.unsqueeze(1)


def test_ragged_ids_used_outside_of_lookups(tmp_path: Path) -> None:
    module = RaggedElsewhere(nn.EmbeddingBag(12, 4, include_last_offset=True))
    refused(tmp_path, module, [BAG], "argument bag_offsets: feature bag is ragged")


class RaggedVectors(Model):
    def forward(self, bag: Tensor, bag_offsets: Tensor, user: Tensor) -> Tensor:
        return self.out(self.e(bag).mean(0) + self.e(user))


def test_ragged_ids_looked_up_without_pooling(tmp_path: Path) -> None:
    refused(tmp_path, RaggedVectors(), [BAG, USER], "embedding e: .*feature bag has any number of ids per row")


class RaggedComputed(Model):
    def forward(self, bag: Tensor, bag_offsets: Tensor) -> Tensor:
        return self.out(self.e(bag.double().sqrt().long(), bag_offsets))


def test_ragged_ids_computed_with(tmp_path: Path) -> None:
    module = RaggedComputed(nn.EmbeddingBag(12, 4, include_last_offset=True))
    refused(tmp_path, module, [BAG], "embedding e: it looks up the ragged ids bag.*sqrt")


class Bag(Model):
    def forward(self, bag: Tensor, bag_offsets: Tensor) -> Tensor:
        return self.out(self.e(bag, bag_offsets))


def test_last_offset_of_model_and_schema_disagree(tmp_path: Path) -> None:
    module = Bag(nn.EmbeddingBag(12, 4, include_last_offset=False))
    refused(tmp_path, module, [BAG], "include_last_offset of the embedding and of the schema's feature must agree")


class OwnWeights(Model):
    def forward(self, bag: Tensor, bag_offsets: Tensor) -> Tensor:
        return self.out(self.e(bag, bag_offsets, per_sample_weights=torch.ones_like(bag, dtype=torch.float32)))


def test_weights_that_are_not_the_features(tmp_path: Path) -> None:
    module = OwnWeights(nn.EmbeddingBag(12, 4, mode="sum", include_last_offset=True))
    refused(tmp_path, module, [BAG], "per_sample_weights are not bag_weights")


class RowsInfluenceEachOther(Model):
    def forward(self, user: Tensor) -> Tensor:
        return torch.softmax(self.out(self.e(user)), dim=0)


def test_a_model_whose_rows_influence_each_other(tmp_path: Path) -> None:
    refused(tmp_path, RowsInfluenceEachOther(), [USER], "self-check: output output: a row's depends on the other rows")


class FixedRows(Model):
    def forward(self, user: Tensor) -> Tensor:
        return self.out(self.e(user)).view(11, 1)


def test_a_model_for_one_number_of_rows(tmp_path: Path) -> None:
    refused(tmp_path, FixedRows(), [USER], "makes the number of rows a constant, at test_refusals.py")


class OneNumber(Model):
    def forward(self, user: Tensor) -> Tensor:
        return self.out(self.e(user)).mean()


def test_a_loss_is_no_score(tmp_path: Path) -> None:
    refused(
        tmp_path,
        OneNumber(),
        [USER],
        "^OneNumber: returns one number for all rows, at test_refusals.py",
    )


class Nothing(Model):
    def forward(self, user: Tensor) -> None:
        self.out(self.e(user))


def test_a_method_that_returns_nothing(tmp_path: Path) -> None:
    refused(tmp_path, Nothing(), [USER], "^Nothing: returns nothing; return scores, a tensor or several, by row")


class Untraceable(Model):
    def forward(self, user: Tensor) -> Tensor:
        if self.e(user).sum().item() > 0:
            return self.out(self.e(user))
        return self.out(self.e(user)) * 2


def test_a_model_torch_cannot_trace(tmp_path: Path) -> None:
    refused(
        tmp_path, Untraceable(), [USER], "Untraceable cannot be traced, at test_refusals.py.* decides by the values"
    )


class Integers(Model):
    def forward(self, user: Tensor) -> Tensor:
        return self.out(self.e(user)).argmax(1)


def test_outputs_that_are_not_floats(tmp_path: Path) -> None:
    refused(tmp_path, Integers(), [USER], "^Integers: returns int64; scores are floats: return them as they are, or")


class Constant(Model):
    def forward(self, user: Tensor) -> Tensor:
        return torch.ones(user.shape[0], 1)


def test_outputs_of_nothing(tmp_path: Path) -> None:
    refused(tmp_path, Constant(), [USER], "depend on none of its arguments")


class Unknown(Model):
    def forward(self, user: Tensor, age: Tensor) -> Tensor:
        return self.out(self.e(user)) + age


def test_a_parameter_that_the_schema_does_not_make(tmp_path: Path) -> None:
    refused(
        tmp_path, Unknown(), [USER, Dense("years")], "takes 'age', which the schema does not make; it makes user, years"
    )


class Anything(Model):
    def forward(self, *columns: Tensor) -> Tensor:
        return self.out(self.e(columns[0]))


def test_parameters_without_a_name(tmp_path: Path) -> None:
    refused(
        tmp_path,
        Anything(),
        [USER],
        r"takes \*columns: .*, of which nothing says .* arguments=\{'columns': \[ARGUMENT, \.\.\.\]\}, from user",
    )


def test_a_module_that_fails_on_made_up_rows(tmp_path: Path) -> None:
    class OutOfRange(Model):
        def forward(self, user: Tensor) -> Tensor:
            return self.out(self.e(user.double().sqrt().long() * 100))

    refused(tmp_path, OutOfRange(), [USER], r"self-check: OutOfRange fails on made-up rows: IndexError.*check_rows=0")


def test_weights_that_are_nowhere(tmp_path: Path) -> None:
    refused(tmp_path, Model().to("meta"), [USER], "its weights are on meta")


def test_padding_without_a_row(tmp_path: Path) -> None:
    class History(Model):
        def forward(self, history: Tensor) -> Tensor:
            return self.out(self.e(history).sum(1))

    refused(
        tmp_path, History(), [IdSequence("history", 5, pad=99)], "padded with row 99 of table e, which has rows 0 to 11"
    )


@pytest.mark.parametrize(
    ("keys", "match"),
    [
        (list(range(11)), "keys of table e: 11 ids for 12 rows; there must be 12"),
        ([1.5] * 12, "must be all integers or all strings"),
        (np.zeros((12, 2), np.int64), r"have the shape \(12, 2\)"),
        (np.zeros(12, np.float32), "are of type float32"),
        ([1, "a"] * 6, "must be all integers or all strings"),
        ([2**64, *range(11)], "must all be int64, or all uint64"),
        ([True] * 12, "must be all integers or all strings"),
    ],
    ids=["length", "floats", "shape", "dtype", "mixed", "range", "booleans"],
)
def test_keys_of_the_wrong_form(tmp_path: Path, keys: Any, match: str) -> None:
    refused(tmp_path, Model(), [USER], match, keys={"e": keys})


@pytest.mark.parametrize("keys", [[7, *range(10), 7], ["x", *"abcdefghij", "x"]], ids=["integers", "strings"])
def test_duplicate_keys(tmp_path: Path, keys: Any) -> None:
    with pytest.raises(DuplicateKey, match=str(keys[0])):
        export_model(Model(), Schema([USER]), tmp_path / "model", 1, keys={"e": keys}, quiet=True)
    assert not list(tmp_path.rglob("*"))  # nor the model's folder, which was not there before


def test_keys_and_options_of_tables_that_are_none(tmp_path: Path) -> None:
    refused(tmp_path, Model(), [USER], "'f', which is no table of this model. Its tables: e", keys={"f": [1]})
    refused(
        tmp_path, Computed(), [USER], "'e', .* it stays in the dense program, .* none", tables={"e": TableOptions()}
    )


def test_a_default_of_the_wrong_length(tmp_path: Path) -> None:
    options = TableOptions(default=np.zeros(3, np.float32))
    refused(
        tmp_path, Model(), [USER], r"table e: default has the shape \(3,\); it must be \(4,\)", tables={"e": options}
    )


@pytest.mark.parametrize("version", [0, -1, True, "1"])
def test_a_version_that_is_no_number_from_1(tmp_path: Path, version: Any) -> None:
    with pytest.raises(InvalidInput, match="version is"):
        export_model(Model(), Schema([USER]), tmp_path / "model", version, quiet=True)


def test_a_name_that_is_no_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="model name"):
        export_model(Model(), Schema([USER]), tmp_path / "model", 1, name="../elsewhere", quiet=True)


def test_a_version_that_exists(tmp_path: Path) -> None:
    (tmp_path / "model" / "1").mkdir(parents=True)
    with pytest.raises(ExportError, match="exists; a version is never written over"):
        export_model(Model(), Schema([USER]), tmp_path / "model", 1, quiet=True)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("a file")
    with pytest.raises(ExportError, match="cannot be written"):
        export_model(Model(), Schema([USER]), tmp_path / "model", 1, quiet=True)
