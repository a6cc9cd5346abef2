"""Exports with short row types: exact against the rounded rows, and honest about what the rounding costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ringpull.inference.export.cost import _auc
from ringpull.inference.export.model import export_model
from ringpull.inference.export.report import ExportReport
from ringpull.inference.export.table_options import TableOptions
from ringpull.inference.schema.columns import Ragged
from ringpull.inference.schema.kinds import IdSequence, Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.inference.schema.transforms import Vocabulary
from ringpull.ps.errors import ExportError, InvalidInput
from ringpull.ps.spec import RowType, TableSpec
from ringpull.ps.store.base import Base
from ringpull.ps.store.row_codec import decode, encode
from tests.inference.export.versions import Exported
from tests.reference import assert_close

SHORT = ["float16", "bfloat16", "int8"]
ROWS = 200
SCHEMA = Schema([Sparse("user"), Sparse("tags", many=True, weighted=True), IdSequence("recent", length=5)])


class Model(nn.Module):
    """An embedding, a weighted bag with a padding row, and a sequence that shares the embedding."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.user = nn.Embedding(40, 6)
        self.tags = nn.EmbeddingBag(30, 6, mode="sum", padding_idx=3, include_last_offset=True)
        self.out = nn.Linear(18, 1)

    def forward(self, user: Tensor, tags: Tensor, tags_offsets: Tensor, tags_weights: Tensor, recent: Tensor) -> Tensor:
        bag = self.tags(tags, tags_offsets, per_sample_weights=tags_weights)
        parts = [self.user(user), bag, self.user(recent).mean(1)]
        return torch.sigmoid(self.out(torch.cat(parts, 1))).squeeze(1)


def columns() -> dict[str, Any]:
    rng = np.random.default_rng(1)
    starts = np.arange(0, 2 * ROWS + 1, 2)
    weights = rng.random(2 * ROWS).astype(np.float32)
    return {
        "user": rng.integers(0, 40, ROWS),
        "tags": Ragged(rng.integers(0, 30, 2 * ROWS), starts, weights),
        "recent": Ragged(rng.integers(0, 40, 2 * ROWS), starts),
    }


def rounded_model(model: Model, row_type: str) -> Model:
    """The same model, its embeddings rounded beforehand."""
    rounded = Model()
    rounded.load_state_dict(model.state_dict())
    for weight in (rounded.user.weight, rounded.tags.weight):
        spec = TableSpec(name="t", dim=6, row_type=RowType(row_type))
        weight.data = torch.from_numpy(decode(encode(weight.detach().numpy(), spec), spec))
    return rounded


def scores_of(model: Model) -> np.ndarray:
    arguments = SCHEMA.arguments(
        SCHEMA.prepare(columns(), ROWS), ["user", "tags", "tags_offsets", "tags_weights", "recent"]
    )
    with torch.no_grad():
        scores: np.ndarray = model.eval()(**{name: torch.tensor(each) for name, each in arguments.items()}).numpy()
    return scores


def exported(tmp_path: Path, row_type: Any, **options: Any) -> ExportReport:
    tables = {name: TableOptions(row_type=row_type) for name in ("user", "tags")}
    return export_model(Model(), SCHEMA, tmp_path / "model", 1, tables=tables, quiet=True, **options)


@pytest.mark.medium
@pytest.mark.parametrize("row_type", SHORT)
def test_serving_equals_the_model_with_rounded_rows(tmp_path: Path, row_type: str) -> None:
    """The self-check holds the files to the full tolerance; the report says how far that is from the model itself."""
    report = exported(tmp_path, row_type, check_columns=columns())
    model, rounded = scores_of(Model()), scores_of(rounded_model(Model(), row_type))
    served = Exported(report.path).score(columns(), ROWS)
    (values,) = served.values()
    assert_close(values, rounded, largest=10.0)
    assert report.check is not None
    assert report.check.largest_difference < 1e-5
    assert report.cost is not None
    assert (report.cost.rows, report.cost.given, report.cost.auc) == (ROWS, True, None)
    assert report.cost.largest_difference == pytest.approx(np.abs(model - rounded).max(), abs=1e-6)
    assert report.cost.mean_difference == pytest.approx(np.abs(model - rounded).mean(), abs=1e-6)
    assert report.cost.largest_difference > 1e-5
    assert [table.row_type for table in report.tables] == [row_type] * 2
    for entry in report.manifest.tables:
        assert Base.open(report.path / entry.path, verify_rows=True).spec.row_type == row_type


@pytest.mark.medium
def test_rows_to_check_on_may_be_lists_and_tensors(tmp_path: Path) -> None:
    """They cost what the same arrays do."""
    plain: dict[str, Any] = {}
    for name, column in columns().items():
        if isinstance(column, Ragged) and column.weights is None:
            plain[name] = [torch.from_numpy(row) for row in np.split(column.values, column.offsets[1:-1])]
        else:
            plain[name] = column if isinstance(column, Ragged) else column.tolist()
    assert sum(isinstance(each, list) for each in plain.values()) == 2
    costs = [
        exported(tmp_path / str(place), "int8", check_columns=each).cost
        for place, each in enumerate((columns(), plain))
    ]
    assert costs[0] is not None
    assert costs[0] == costs[1]


@pytest.mark.medium
def test_float32_costs_nothing_and_is_not_measured(tmp_path: Path) -> None:
    assert exported(tmp_path, "float32", check_columns=columns()).cost is None


@pytest.mark.medium
def test_made_up_rows_without_columns(tmp_path: Path) -> None:
    cost = exported(tmp_path, "int8").cost
    assert cost is not None
    assert not cost.given
    assert cost.rows == 1024
    assert 0 < cost.mean_difference < cost.largest_difference < 0.1


@pytest.mark.medium
def test_labels_give_the_difference_in_auc(tmp_path: Path) -> None:
    labels = np.random.default_rng(2).random(ROWS) < scores_of(Model())
    cost = exported(tmp_path, "int8", check_columns=columns(), check_labels=labels).cost
    assert cost is not None
    assert cost.auc is not None

    def auc(scores: np.ndarray) -> float:
        """The definition, pair by pair."""
        pairs = np.sign(scores[labels][:, None].astype(np.float64) - scores[~labels][None, :])
        return float((pairs + 1).mean() / 2)

    assert cost.auc == pytest.approx(auc(scores_of(Model())), abs=1e-9)
    assert cost.auc_difference == pytest.approx(auc(scores_of(rounded_model(Model(), "int8"))) - cost.auc, abs=1e-9)


def test_ties_count_half_in_an_auc() -> None:
    assert _auc(np.array([1.0, 1.0, 2.0, 0.0]), np.array([True, False, True, False])) == 0.875
    assert _auc(np.zeros(4), np.array([True, False, True, False])) == 0.5


@pytest.mark.medium
def test_too_large_a_difference_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"row types: scores differ by up to .* more than max_diff 1e-07"):
        exported(tmp_path, "int8", max_diff=1e-7)
    assert not (tmp_path / "model").exists()
    assert exported(tmp_path, "int8", max_diff=0.5).path.is_dir()


@pytest.mark.medium
def test_raw_ids_and_a_vocabulary(tmp_path: Path) -> None:
    """Row 0, of unknown ids, is the default vector: it is not rounded. Padding gives what the model has there."""
    words = [f"w{i}" for i in range(19)]
    schema = Schema([IdSequence("recent", length=4, dtype="string", transforms=[Vocabulary(words)])])

    class OfWords(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.word = nn.Embedding(20, 5)

        def forward(self, recent: Tensor) -> Tensor:
            return self.word(recent).sum((1, 2))

    report = export_model(
        OfWords(),
        schema,
        tmp_path / "words",
        1,
        keys={"word": Vocabulary(words)},
        tables={"word": TableOptions(row_type="int8")},
        quiet=True,
    )
    assert report.check is not None
    spec = report.manifest.tables[0].spec
    assert spec.default == tuple(OfWords().word.weight[0].tolist())
    assert (spec.row_type, report.manifest.tables[0].rows) == (RowType.INT8, 19)


class Unpooled(nn.Module):
    """Vectors of a history, one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.user = nn.Embedding(ROWS, 6)

    def forward(self, recent: Tensor) -> Tensor:
        return self.user(recent).flatten(1)


@pytest.mark.medium
def test_padding_of_a_sequence_is_rounded_as_its_row_is(tmp_path: Path) -> None:
    module = Unpooled()
    options = {"user": TableOptions(row_type="bfloat16")}
    report = export_model(
        module, Schema([IdSequence("recent", length=4)]), tmp_path / "history", 1, tables=options, quiet=True
    )
    (lookup,) = report.manifest.lookups
    expected = module.user.weight[0].detach().to(torch.bfloat16).to(torch.float32)
    assert lookup.fill == tuple(expected.tolist())


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"row_type": "int4"}, "row_type is 'int4'; it must be one of float32, float16, bfloat16, int8"),
        ({"check_labels": [0, 1]}, "check_labels need the check_columns"),
        ({"check_columns": {}}, "check_columns is empty"),
        ({"check_columns": columns(), "check_labels": [0, 1]}, "0 or 1 for each of the 200 rows"),
        ({"check_columns": columns(), "check_labels": [1] * ROWS}, "both present"),
        ({"check_columns": columns(), "check_labels": [0, 2] * (ROWS // 2)}, "must be 0 or 1"),
    ],
)
def test_what_is_no_option_is_refused(tmp_path: Path, options: dict[str, Any], what: str) -> None:
    with pytest.raises(InvalidInput, match=what):
        exported(tmp_path, **{"row_type": "int8", **options})
    assert not (tmp_path / "model").exists()


def test_a_number_that_the_row_type_cannot_hold_names_its_table(tmp_path: Path) -> None:
    model = Model()
    with torch.no_grad():
        model.tags.weight[7, 2] = 1e6
    with pytest.raises(InvalidInput, match="table tags: a number is beyond 65504"):
        export_model(
            model, SCHEMA, tmp_path / "model", 1, tables={"tags": TableOptions(row_type="float16")}, quiet=True
        )
    assert not (tmp_path / "model" / "1").exists()
