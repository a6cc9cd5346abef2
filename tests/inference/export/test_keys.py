"""Tables keyed by raw ids: serving takes what the client knows, and scores as the model does on its own numbering."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ringpull.inference.export.model import export_model
from ringpull.inference.export.report import ExportReport
from ringpull.inference.export.table_options import TableOptions
from ringpull.inference.model.manifest import LookupSpec
from ringpull.inference.schema.columns import Ragged
from ringpull.inference.schema.kinds import Cross, Feature, IdSequence, Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.inference.schema.transforms import Hash, Vocabulary
from ringpull.ps.errors import ExportError
from ringpull.ps.spec import KeyType, OnUnavailable, Pooling
from tests.inference.export.versions import Exported, assert_equal
from tests.reference import key_of_string

ROWS, DIM = 9, 4
NUMBERS = np.array([0, 1, 8, 3, 3, 5, 2])
"""Row numbers of seven rows, as a model takes them."""

INTEGERS = [7, -5, 0, 2**62, 11, 12, 13, 14, -(2**63)]
UNSIGNED = [2**64 - 1, *range(100, 108)]
STRINGS = ["zip 10", "", "ä", "d", "e", "f", "g", "h", "9"]


class Model(nn.Module):
    """Scores one id and a bag of ids, with one table or two."""

    def __init__(self, bag: nn.EmbeddingBag | None = None) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.item = nn.Embedding(ROWS, DIM)
        self.bag = nn.EmbeddingBag(ROWS, DIM, mode="mean", include_last_offset=True) if bag is None else bag
        nn.init.normal_(self.bag.weight)
        self.out = nn.Linear(DIM, 1)

    def forward(self, item: Tensor, items: Tensor, items_offsets: Tensor) -> Tensor:
        return self.out(self.item(item) + self.bag(items, items_offsets))


def bags_of(values: Any) -> Ragged:
    """Return seven rows of bags of these seven values, the second and last of them empty."""
    return Ragged(values, np.array([0, 2, 2, 3, 4, 6, 7, 7]))


def export(tmp_path: Path, module: nn.Module, features: list[Feature], **more: Any) -> ExportReport:
    return export_model(module, Schema(features), tmp_path / "model", 1, check_rows=24, quiet=True, **more)


@pytest.mark.medium
@pytest.mark.parametrize(
    ("ids", "key_type"),
    [
        (INTEGERS, KeyType.INT64),
        (np.array(INTEGERS), KeyType.INT64),
        (UNSIGNED, KeyType.UINT64),
        (np.array(UNSIGNED, np.uint64), KeyType.UINT64),
        (np.arange(3, 12, dtype=np.int32), KeyType.INT64),
        (STRINGS, KeyType.STRING),
        (np.array(STRINGS), KeyType.STRING),
    ],
    ids=["integers", "int64", "unsigned", "uint64", "int32", "strings", "string array"],
)
def test_a_table_keyed_by_a_list_of_raw_ids(tmp_path: Path, ids: Any, key_type: KeyType) -> None:
    module = Model()
    features: list[Feature] = [Sparse("item"), Sparse("items", many=True)]
    report = export(tmp_path, module, features, keys={"item": ids, "bag": ids})
    assert {table.spec.key_type for table in report.manifest.tables} == {key_type}
    raw = np.array(ids, object if key_type is KeyType.STRING else key_type.value)[NUMBERS]
    columns = {"item": NUMBERS, "items": bags_of(NUMBERS)}
    assert_equal(module, Schema(features), report.path, columns, 7, {"item": raw, "items": bags_of(raw)})


@pytest.mark.medium
@pytest.mark.parametrize("ids", [INTEGERS[:8], STRINGS[:8]], ids=["integers", "strings"])
def test_a_table_keyed_by_its_vocabulary(tmp_path: Path, ids: Any) -> None:
    """Known ids give their rows; unknown ones give row 0, which is the default vector and no row of the table."""
    vocabulary = Vocabulary(ids)
    kind: Any = "int64" if isinstance(ids[0], int) else "string"
    features: list[Feature] = [
        Sparse("item", dtype=kind, transforms=(vocabulary,)),
        Sparse("items", dtype=kind, many=True, transforms=(vocabulary,)),
    ]
    module = Model()
    report = export(tmp_path, module, features, keys={"item": vocabulary, "bag": Vocabulary(ids)})
    assert [table.rows for table in report.tables] == [ROWS - 1] * 2
    assert report.manifest.table("item").spec.default == tuple(module.item.weight[0].tolist())
    unknown: Any = [-999] if kind == "int64" else ["never seen"]
    raw = np.array([*ids[:6], *unknown], object if kind == "string" else np.int64)
    columns = {"item": raw[::-1], "items": bags_of(raw)}
    assert_equal(module, Schema(features), report.path, columns, 7)
    served = Exported(report.path)
    assert served.schema["item"] == Sparse("item", dtype=kind)


def test_integer_and_string_keys_are_the_ids_themselves(tmp_path: Path) -> None:
    features: list[Feature] = [Sparse("item"), Sparse("items", many=True)]
    report = export(tmp_path, Model(), features, keys={"item": STRINGS, "bag": STRINGS})
    tables = Exported(report.path).tables
    assert set(tables["item"].rows) == {key_of_string(text) for text in STRINGS}


@pytest.mark.medium
def test_constants_added_are_part_of_the_raw_id_of_a_row(tmp_path: Path) -> None:
    class Added(Model):
        def forward(self, item: Tensor, items: Tensor, items_offsets: Tensor) -> Tensor:
            return self.out(self.item(item + 2) + self.bag(items, items_offsets))

    features: list[Feature] = [Sparse("item"), Sparse("items", many=True)]
    module = Added()
    report = export(tmp_path, module, features, keys={"item": INTEGERS})
    assert [lookup.add for lookup in report.manifest.lookups] == [0, 0]
    numbers = np.array([0, 6, 1, 2, 3, 4, 5])
    columns = {"item": numbers, "items": bags_of(NUMBERS)}
    served = {"item": np.array(INTEGERS)[numbers + 2]}
    assert_equal(module, Schema(features), report.path, columns, 7, served)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_padding_rows_are_left_out_by_their_raw_id(tmp_path: Path, mode: str) -> None:
    bag = nn.EmbeddingBag(ROWS, DIM, mode=mode, include_last_offset=True, padding_idx=3)
    features: list[Feature] = [Sparse("item"), Sparse("items", many=True)]
    module = Model(bag)
    report = export(tmp_path, module, features, keys={"bag": STRINGS})
    assert report.manifest.lookups[1].padding_id == np.uint64(key_of_string("d")).view(np.int64)
    columns = {"item": NUMBERS, "items": bags_of(NUMBERS)}
    raw = bags_of(np.array(STRINGS, object)[NUMBERS])
    assert_equal(module, Schema(features), report.path, columns, 7, {"items": raw})


def vocabulary_features(vocabulary: Vocabulary) -> list[Feature]:
    return [Sparse("item"), Sparse("items", many=True, transforms=(vocabulary,))]


@pytest.mark.parametrize("mode", ["mean", "max"])
def test_unknown_ids_left_out_of_a_mean_are_refused(tmp_path: Path, mode: str) -> None:
    bag = nn.EmbeddingBag(ROWS, DIM, mode=mode, include_last_offset=True, padding_idx=0)
    vocabulary = Vocabulary(INTEGERS[:8])
    with pytest.raises(ExportError, match=f"table bag: its padding_idx is row 0.*a {mode} of bags"):
        export(tmp_path, Model(bag), vocabulary_features(vocabulary), keys={"bag": vocabulary})


@pytest.mark.medium
def test_unknown_ids_left_out_of_a_sum_are_zeros(tmp_path: Path) -> None:
    vocabulary = Vocabulary(INTEGERS[:8])
    features = vocabulary_features(vocabulary)
    module = Model(nn.EmbeddingBag(ROWS, DIM, mode="sum", include_last_offset=True, padding_idx=0))
    with pytest.raises(ExportError, match="or sum with a row 0 of zeros"):
        export(tmp_path, module, features, keys={"bag": vocabulary})
    with torch.no_grad():
        module.bag.weight[0] = 0
    report = export(tmp_path, module, features, keys={"bag": vocabulary})
    assert report.manifest.lookups[1].padding_id is None
    columns = {"item": NUMBERS, "items": bags_of(np.array([7, -5, 99, 0, 98, 11, 97]))}
    assert_equal(module, Schema(features), report.path, columns, 7)


class History(nn.Module):
    """A sequence, unpooled with its lengths as the mask, or in bags without its padding."""

    def __init__(self, pad: int) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.item = nn.Embedding(ROWS, DIM)
        self.sum = nn.EmbeddingBag(ROWS, DIM, mode="sum", padding_idx=pad)
        self.out = nn.Linear(2 * DIM, 1)

    def forward(self, history: Tensor, history_lengths: Tensor) -> Tensor:
        last = self.item(history)[:, 0] * history_lengths.unsqueeze(1)
        return self.out(torch.cat([last, self.sum(history)], dim=1))


@pytest.mark.medium
@pytest.mark.parametrize("pad", [0, 4])
@pytest.mark.parametrize("ids", [INTEGERS, STRINGS], ids=["integers", "strings"])
def test_a_sequence_of_raw_ids(tmp_path: Path, ids: Any, pad: int) -> None:
    module = History(pad)
    features: list[Feature] = [IdSequence("history", length=3, pad=pad)]
    report = export(tmp_path, module, features, keys={"item": ids, "sum": ids})
    raw = np.array(ids, object if isinstance(ids[0], str) else None)[NUMBERS]
    columns = {"history": bags_of(NUMBERS)}
    assert_equal(module, Schema(features), report.path, columns, 7, {"history": bags_of(raw)})


@pytest.mark.medium
def test_a_sequence_of_a_vocabulary(tmp_path: Path) -> None:
    """Padding and unknown ids are both row 0 in the model; in serving padding has no key, though id 0 has."""
    vocabulary = Vocabulary(INTEGERS[:8])
    module = History(0)
    features: list[Feature] = [IdSequence("history", length=3, transforms=(vocabulary,))]
    report = export(tmp_path, module, features, keys={"item": vocabulary, "sum": vocabulary})
    columns = {"history": bags_of(np.array([0, 7, 99, 0, 11, -5, 2**62]))}
    assert_equal(module, Schema(features), report.path, columns, 7)
    (unpooled, pooled) = report.manifest.lookups
    assert unpooled.fill == tuple(module.item.weight[0].tolist())
    assert pooled.padding_id not in INTEGERS


@pytest.mark.parametrize("default", ["zeros", "mean", np.arange(DIM, dtype=np.float32)], ids=["zeros", "mean", "given"])
def test_the_default_vector_may_be_chosen(tmp_path: Path, default: Any) -> None:
    vocabulary = Vocabulary(INTEGERS[:8])
    module = Model()
    options = TableOptions(default=default, replicas=2, on_unavailable="default")
    report = export(
        tmp_path, module, vocabulary_features(vocabulary), keys={"bag": vocabulary}, tables={"bag": options}
    )
    spec = report.manifest.table("bag").spec
    weight = module.bag.weight.detach().numpy()
    expected = {"zeros": np.zeros(DIM), "mean": weight[1:].mean(axis=0)}
    wanted = expected[default] if isinstance(default, str) else default
    np.testing.assert_allclose(spec.default_vector(), wanted, rtol=1e-6, atol=1e-7)
    assert (spec.replicas, spec.on_unavailable) == (2, OnUnavailable.DEFAULT)
    assert report.tables[1].default == (default if isinstance(default, str) else "given")


def test_unknown_ids_of_a_table_keyed_by_row_number_give_zeros(tmp_path: Path) -> None:
    report = export(tmp_path, Model(), [Sparse("item"), Sparse("items", many=True)])
    row, found = Exported(report.path).tables["item"].pull(np.array([ROWS, 2**64 - 1], np.uint64))
    assert not found.any()
    assert not row.any()


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.item = nn.Embedding(ROWS, DIM)
        self.out = nn.Linear(DIM, 1)

    def forward(self, history: Tensor) -> Tensor:
        return self.out((self.item(history) * (history % 2).unsqueeze(-1)).sum(1))


class ComparesBeyond(Masked):
    def forward(self, history: Tensor) -> Tensor:
        return self.out(self.item(history).sum(1)) + (history == ROWS).sum(1, keepdim=True)


class MaskedMean(nn.Module):
    """A mean over ids that are not padding, counted by the model, with each way to say so."""

    def __init__(self, pad: int, way: str) -> None:
        super().__init__()
        torch.manual_seed(8)
        self.item = nn.Embedding(ROWS, DIM)
        self.pad = pad
        self.way = way

    def forward(self, history: Tensor) -> Tensor:
        ways = {"ne": history != self.pad, "not eq": ~history.eq(self.pad), "above": history > 0}
        keep = ways[self.way].unsqueeze(-1)
        return (self.item(history) * keep).sum(1) / keep.sum(1).clamp(min=1)


@pytest.mark.medium
@pytest.mark.parametrize("ids", [INTEGERS, STRINGS], ids=["integers", "strings"])
@pytest.mark.parametrize(("pad", "way"), [(0, "ne"), (4, "not eq"), (0, "above")])
def test_a_mask_that_tells_padding_is_said_by_raw_ids(tmp_path: Path, ids: Any, pad: int, way: str) -> None:
    module = MaskedMean(pad, way)
    features: list[Feature] = [IdSequence("history", length=3, pad=pad)]
    report = export(tmp_path, module, features, keys={"item": ids})
    (lookup,) = report.manifest.lookups
    assert lookup.pooling is Pooling.SUM
    raw = np.array(ids, object if isinstance(ids[0], str) else None)[NUMBERS]
    columns = {"history": bags_of(NUMBERS)}
    assert_equal(module, Schema(features), report.path, columns, 7, {"history": bags_of(raw)})


ITEM = Sparse("item")
ITEMS = Sparse("items", many=True)
SMALL = Vocabulary(INTEGERS[:8])


@pytest.mark.parametrize(
    ("module", "features", "keys", "match"),
    [
        (
            Masked,
            [IdSequence("history", 4)],
            {"item": INTEGERS},
            r"argument history\). For a mask, take history_lengths",
        ),
        (
            lambda: MaskedMean(0, "ne"),
            [IdSequence("history", 4, transforms=(SMALL,))],
            {"item": SMALL},
            r"compares them with row 0, that of unknown ones \(argument history\). For a mask, take history_lengths",
        ),
        (
            ComparesBeyond,
            [IdSequence("history", 4)],
            {"item": INTEGERS},
            r"compares them with row 9, which it does not have \(argument history\)",
        ),
        (Model, [ITEM, ITEMS], {"item": SMALL}, "give a list of raw ids: the feature has no Vocabulary"),
        (Model, [ITEM, ITEMS], {"item": Vocabulary(INTEGERS)}, "a Vocabulary of 9 ids .* for 9 rows; there must be 8"),
        (
            Model,
            [Sparse("item", transforms=(SMALL,)), ITEMS],
            {"item": INTEGERS},
            "give the feature's own Vocabulary",
        ),
        (
            Model,
            [ITEM, ITEMS],
            {"bag": INTEGERS[:3]},
            "3 ids for 9 rows",
        ),
        (
            Model,
            [Sparse("item", dtype="string", transforms=(Hash(ROWS),)), ITEMS],
            {"item": INTEGERS},
            "raw ids can only take a Vocabulary's place",
        ),
    ],
    ids=[
        "mask",
        "mask of unknown ids",
        "beyond the rows",
        "no vocabulary",
        "vocabulary length",
        "other vocabulary",
        "length",
        "hash",
    ],
)
def test_keys_that_do_not_fit_the_model(
    tmp_path: Path, module: Any, features: list[Feature], keys: Any, match: str
) -> None:
    with pytest.raises(ExportError, match=match):
        export(tmp_path, module(), features, keys=keys)


class TwoTables(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Embedding(ROWS, DIM), nn.Embedding(ROWS, DIM)
        self.out = nn.Linear(DIM, 1)

    def forward(self, item: Tensor) -> Tensor:
        return self.out(self.a(item) * self.b(item))


@pytest.mark.medium
def test_tables_of_one_feature_must_agree_on_its_ids(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="raw ids in table a, but by row numbers in table b; give keys for both"):
        export(tmp_path, TwoTables(), [ITEM], keys={"a": INTEGERS})
    with pytest.raises(ExportError, match="their raw ids of the same row differ"):
        export(tmp_path, TwoTables(), [ITEM], keys={"a": INTEGERS, "b": INTEGERS[::-1]})
    export(tmp_path, TwoTables(), [ITEM], keys={"a": INTEGERS, "b": np.array(INTEGERS)})


def test_a_cross_has_no_raw_ids(tmp_path: Path) -> None:
    class Crossed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.both = nn.Embedding(ROWS, DIM)
            self.out = nn.Linear(DIM, 1)

        def forward(self, both: Tensor) -> Tensor:
            return self.out(self.both(both))

    features: list[Feature] = [ITEM, Sparse("user"), Cross("both", of=("item", "user"), buckets=ROWS)]
    with pytest.raises(ExportError, match="feature both is a cross, which has no raw ids"):
        export(tmp_path, Crossed(), features, keys={"both": INTEGERS})


def test_a_pooling_of_raw_ids_is_said_in_the_manifest(tmp_path: Path) -> None:
    report = export(tmp_path, Model(), [ITEM, ITEMS], keys={"item": INTEGERS, "bag": INTEGERS})
    assert report.manifest.lookups == (
        LookupSpec(table="item", feature="item", pooling=Pooling.NONE),
        LookupSpec(table="bag", feature="items", pooling=Pooling.MEAN),
    )
    assert {table.keyed_by for table in report.tables} == {"raw ids, integers"}
