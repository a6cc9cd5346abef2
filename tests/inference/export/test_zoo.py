"""The zoo: eight models, exported as they are, give the same scores from their tables and dense program."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from torch import nn

from ringpull.inference.export.model import export_model
from ringpull.inference.export.report import ExportReport
from ringpull.ps.store.base import Base
from tests.inference.export.versions import Exported, assert_equal
from tests.inference.zoo import ZOO, build, make_columns

pytestmark = pytest.mark.medium


@dataclass(frozen=True)
class Export:
    name: str
    module: nn.Module
    report: ExportReport
    training_after: bool


@pytest.fixture(scope="module", params=list(ZOO))
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Export:
    module = build(request.param)
    folder = tmp_path_factory.mktemp("models") / request.param
    report = export_model(module, ZOO[request.param].schema, folder, 1, check_rows=16, quiet=True)
    return Export(request.param, module, report, module.training)


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_a_version_scores_as_its_module(exported: Export, rows: int) -> None:
    for seed in range(2):
        columns = make_columns(exported.name, rows, seed)
        assert_equal(exported.module, ZOO[exported.name].schema, exported.report.path, columns, rows)


def test_embeddings_become_tables_and_only_those(exported: Export) -> None:
    model = ZOO[exported.name]
    assert {table.name for table in exported.report.tables} == set(model.tables)
    assert {kept.name for kept in exported.report.kept} == set(model.kept)
    assert exported.report.check is not None
    assert exported.report.check.rows == 16


def test_rows_are_written_bit_for_bit(exported: Export) -> None:
    version = Exported(exported.report.path)
    for name, table in version.tables.items():
        weight = exported.module.get_parameter(f"{name}.weight").detach().numpy()
        rows, found = table.pull(np.arange(len(weight), dtype=np.uint64))
        assert found.all()
        assert np.array_equal(rows, weight)


def test_no_table_remains_in_the_dense_program(exported: Export) -> None:
    program = (exported.report.path / exported.report.manifest.program.path).read_bytes()
    for name in set(ZOO[exported.name].tables) - set(ZOO[exported.name].kept):
        weight = exported.module.get_parameter(f"{name}.weight").detach().numpy()
        assert weight.tobytes() not in program
        assert weight[len(weight) // 2].tobytes() not in program or weight.shape[1] < 4
    for name in ZOO[exported.name].kept:
        assert exported.module.get_parameter(f"{name}.weight").detach().numpy().tobytes() in program


def test_the_module_is_left_as_it_was(exported: Export) -> None:
    assert exported.training_after
    fresh = build(exported.name).state_dict()
    for name, tensor in exported.module.state_dict().items():
        assert np.array_equal(tensor.numpy(), fresh[name].numpy()), name


def test_tables_hold_together_with_their_files(exported: Export) -> None:
    for table in exported.report.tables:
        folder = exported.report.manifest.table_folder(exported.report.path, table.name)
        base = Base.open(folder, verify_rows=True)
        assert (base.rows, base.spec.dim) == (table.rows, table.dim)
        assert base.bytes == table.bytes == sum(file.stat().st_size for file in folder.iterdir())
