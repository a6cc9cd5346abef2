"""Delta versions: whatever changed, base and deltas are what a full export of the module is, bit for bit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ringpull import Dense, Schema, Sparse, TableOptions, Vocabulary, export_delta, export_model
from ringpull.inference.export.stored_rows import rows_at
from ringpull.inference.model.chain_files import VersionOnDisk
from ringpull.inference.model.manifest import Manifest
from ringpull.ps.errors import ExportError, InvalidInput, OtherContent
from ringpull.ps.hashing import SLOTS
from ringpull.ps.ring import SlotRange
from ringpull.ps.store.raw_rows import flat

SCHEMA = Schema([Sparse("item"), Sparse("user"), Dense("price")])


class Two(nn.Module):
    """Two tables, and a weight of the dense program."""

    def __init__(self, items: int = 40, dim: int = 4, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.item = nn.Embedding(items, dim)
        self.user = nn.Embedding(30, 3)
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, item: Tensor, user: Tensor, price: Tensor) -> dict[str, Tensor]:
        return {"score": self.item(item).sum(1) + self.user(user).sum(1) + self.weight * price.squeeze(1)}


def changed(module: Two, rows: list[int], by: float = 1.0) -> Two:
    with torch.no_grad():
        module.item.weight[rows] += by
    return module


def export(module: Two, folder: Path, version: int = 1, **options: Any) -> None:
    export_model(module, SCHEMA, folder, version, quiet=True, **options)


def everything(folder: Path, table: str = "item") -> tuple[bytes, bytes]:
    """Return positions and rows of a table of a version, whatever it is made of."""
    opened = VersionOnDisk.load(folder).open_table(table, verify=True)
    positions, rows, after = [], [], None
    while len((block := opened.newest_block(SlotRange(0, SLOTS), after, 200))[0]):
        positions.append(block[0].tobytes())
        rows.append(flat(block[1]).tobytes())
        after = int(block[0][-1])
    return b"".join(positions), b"".join(rows)


def same_as_full(module: Two, folder: Path, version: int, tmp_path: Path, **options: Any) -> None:
    export(module, tmp_path / "full" / folder.name, version, **options)
    for table in ("item", "user"):
        assert everything(folder / str(version), table) == everything(
            tmp_path / "full" / folder.name / str(version), table
        )


@pytest.mark.parametrize("row_type", ["float32", "float16", "bfloat16", "int8"])
def test_changed_rows_are_found(tmp_path: Path, row_type: str) -> None:
    options = {"tables": {"item": TableOptions(row_type=row_type)}}
    module, folder = Two(), tmp_path / "m"
    export(module, folder, **options)
    report = export_delta(changed(module, [3, 17]), SCHEMA, folder, 2, follows=1, quiet=True, **options)
    item, user = report.deltas
    assert (item.changed, item.new, item.gone, user.changed, user.bytes) == (2, 0, 0, 0, 0)
    assert not (folder / "2" / "tables" / "user").exists()
    assert sorted(path.name for path in (folder / "2").iterdir()) == [
        "dense.pt2",
        "manifest.json",
        "samples.npz",
        "schema.json",
        "tables",
    ]
    same_as_full(module, folder, 2, tmp_path, **options)
    manifest = Manifest.load(folder / "2")
    assert manifest.chain.follows is not None
    assert manifest.chain.follows.identity == manifest.chain.lineage == Manifest.load(folder / "1").identity
    assert json.loads((folder / "2" / "manifest.json").read_text())["format"] == 4


def test_new_rows_gone_rows_and_deltas_of_deltas(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    export(Two(), folder)
    report = export_delta(changed(Two(items=44), [1]), SCHEMA, folder, 2, 1, quiet=True)
    assert report.deltas[0].new == 4
    grown = changed(Two(items=44), [1])
    same_as_full(grown, folder, 2, tmp_path)
    small = Two(items=38)
    with torch.no_grad():
        small.item.weight[:] = grown.item.weight[:38]
    report = export_delta(changed(small, [2]), SCHEMA, folder, 5, 2, quiet=True)
    assert (report.deltas[0].changed, report.deltas[0].new, report.deltas[0].gone) == (1, 0, 6)
    assert report.manifest.table("item").rows == 38
    same_as_full(small, folder, 5, tmp_path)
    assert report.manifest.chain.lineage == Manifest.load(folder / "1").identity


def test_dense_only_and_rows_only(tmp_path: Path) -> None:
    module, folder = Two(), tmp_path / "m"
    export(module, folder)
    with torch.no_grad():
        module.weight += 1
    report = export_delta(module, SCHEMA, folder, 2, 1, quiet=True)
    assert [entry.kind for entry in report.manifest.tables] == ["same", "same"]
    assert not (folder / "2" / "tables").exists()
    assert report.manifest.program != Manifest.load(folder / "1").program
    report = export_delta(changed(module, [1]), SCHEMA, folder, 3, 2, quiet=True)
    assert report.manifest.program == Manifest.load(folder / "2").program, "the same program has the same bytes"
    same_as_full(module, folder, 3, tmp_path)


@pytest.mark.parametrize("keyed", ["number", "integers", "strings"])
def test_a_tracker_names_the_rows(tmp_path: Path, keyed: str) -> None:
    ids: NDArray[Any] = np.arange(40) * 7 - 50
    texts = np.array([f"item {each}" for each in range(40)], object)
    keys: dict[str, Any] = {
        "number": {},
        "integers": {"item": ids},
        "strings": {"item": texts},
    }[keyed]
    own: Any = np.arange(40) if keyed == "number" else ids if keyed == "integers" else texts
    first, folder = Two(), tmp_path / "m"
    export(first, folder, keys=keys)
    module = Two(items=38)
    with torch.no_grad():
        module.item.weight[:] = changed(first, [4, 9, 11]).item.weight[:38]
    keys = {table: given[:-2] for table, given in keys.items()}
    report = export_delta(
        module, SCHEMA, folder, 2, 1, {"item": own[[9, 4, 4, 12, 11]]}, {"item": own[[38, 39]]}, keys=keys, quiet=True
    )
    assert (report.deltas[0].changed, report.deltas[0].gone) == (3, 2)
    before, after = (VersionOnDisk.load(folder / number).open_table("item") for number in "12")
    positions = before.base.sections.positions
    found, rows = rows_at(after, positions)
    assert int((~found).sum()) == 2
    export(module, tmp_path / "full", 2, keys=keys)
    full = VersionOnDisk.load(tmp_path / "full" / "2").open_table("item")
    assert flat(rows).tobytes() == flat(rows_at(full, positions[found])[1]).tobytes()


def test_row_0_of_a_vocabulary_trains_on(tmp_path: Path) -> None:
    """It is the default vector, and no row: a delta without rows brings another one."""
    folder, items = tmp_path / "m", Vocabulary([f"item {each}" for each in range(39)])
    schema = Schema([Sparse("item", dtype="string", transforms=(items,)), Sparse("user"), Dense("price")])
    module = Two()
    export_model(module, schema, folder, 1, {"item": items}, quiet=True)
    report = export_delta(changed(module, [0]), schema, folder, 2, 1, keys={"item": items}, quiet=True)
    assert (report.manifest.table("item").kind, report.deltas[0].changed) == ("delta", 0)
    after = VersionOnDisk.load(folder / "2").open_table("item")
    assert after.spec.default_vector().tolist() == module.item.weight[0].tolist()
    more = Vocabulary([f"item {each}" for each in range(41)])
    schema = Schema([Sparse("item", dtype="string", transforms=(more,)), Sparse("user"), Dense("price")])
    report = export_delta(Two(items=42), schema, folder, 3, 2, keys={"item": more}, quiet=True)
    assert report.deltas[0].new == 2


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"changed": {"item": [1, 99]}}, "changed of table item: there is no row for the id"),
        ({"changed": {"item": [1]}, "gone": {"item": [1]}}, "the module has a row for the id .*; it is not gone"),
        ({"gone": {"item": [1]}}, "gone names table item, and changed does not"),
        ({"changed": {"items": [1]}}, "changed names 'items', which is no table of this model"),
        ({"changed": {"item": ["a"]}}, "ids must be int64, as its keys are"),
        ({"includes": {-1: 3}}, "is no shard"),
        ({"includes": {"0": 3}}, "is no shard"),
        ({"includes": {0: 3.0}}, "is no shard"),
        ({"includes": "0:3"}, "must be the stamp of a push; PushStamp.parse reads its text"),
        ({"includes": ""}, "must be the stamp of a push"),
        ({"includes": {}}, "is an empty stamp, which names no shard"),
        ({"follows": 2}, "follows is 2; it must be the number of a version before 2"),
        ({"follows": 0}, "follows is 0"),
    ],
)
def test_wrong_names_write_nothing(tmp_path: Path, named: dict[str, Any], message: str) -> None:
    folder = tmp_path / "m"
    export(Two(), folder, check_rows=0)
    with pytest.raises((InvalidInput, ExportError), match=message):
        export_delta(changed(Two(), [1]), SCHEMA, folder, 2, **{"follows": 1, "quiet": True, **named})
    assert [path.name for path in folder.iterdir()] == ["1"]


def test_what_does_not_go_together_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    export(Two(), folder, check_rows=0)
    with pytest.raises(ExportError, match="table item: dim is 8, and 4 in m/1"):
        export_delta(Two(dim=8), SCHEMA, folder, 2, 1, quiet=True)
    with pytest.raises(ExportError, match="table item: key_type is string, and int64 in m/1"):
        export_delta(Two(), SCHEMA, folder, 2, 1, keys={"item": [str(i) for i in range(40)]}, quiet=True)
    other = Schema([Sparse("item"), Sparse("user"), Dense("price", missing=1.0)])
    with pytest.raises(ExportError, match="follows m/1, whose schema is another one"):
        export_delta(Two(), other, folder, 2, 1, quiet=True)
    with pytest.raises(InvalidInput, match=r"follows version 7: .* is no complete version"):
        export_delta(Two(), SCHEMA, folder, 8, 7, quiet=True)
    for version in ("2", 2.0, None, True, 0):
        with pytest.raises(InvalidInput, match=r"version is .*; it must be a whole number from 1"):
            export_delta(Two(), SCHEMA, folder, version, 1, quiet=True)  # type: ignore[arg-type]
    for check_rows in (0, 8):
        with pytest.raises(InvalidInput, match="name is 'other'; m/1, which is followed, is of another model"):
            export_delta(Two(), SCHEMA, folder, 2, 1, name="other", check_rows=check_rows, quiet=True)
    assert [path.name for path in folder.iterdir()] == ["1"]


def test_name_and_deployment_are_those_of_the_version_before(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    options = {"item": TableOptions(replicas=3, on_unavailable="default", live=True)}
    export(Two(), folder, name="ranker", tables=options, check_rows=0)
    report = export_delta(changed(Two(), [1]), SCHEMA, folder, 2, 1, check_rows=0, quiet=True)
    assert report.manifest.model == "ranker"
    assert report.manifest.tables == tuple(
        replace(each, path=now.path, kind=now.kind, bytes=now.bytes)
        for each, now in zip(Manifest.load(folder / "1").tables, report.manifest.tables, strict=True)
    )
    assert report.manifest.table("item").kind == "delta"
    item = {"item": TableOptions(replicas=2)}
    report = export_delta(changed(Two(), [2]), SCHEMA, folder, 3, 2, tables=item, check_rows=0, quiet=True)
    spec = report.manifest.table("item").spec
    assert (spec.replicas, spec.on_unavailable) == (2, "default")


def test_a_chain_with_a_gap_or_another_version_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    export(Two(), folder, check_rows=0)
    export_delta(changed(Two(), [1]), SCHEMA, folder, 2, 1, check_rows=0, quiet=True)
    (folder / "1").rename(tmp_path / "away")
    with pytest.raises(InvalidInput, match=r"m/2 in .* is a delta of m/1 \([0-9a-f]{16}\), which is not there"):
        export_delta(Two(), SCHEMA, folder, 3, 2, check_rows=0, quiet=True)
    export(changed(Two(), [3]), folder, 1, check_rows=0)  # within the same second
    with pytest.raises(OtherContent, match=r"m/2 in .* is a delta of m/1 with the identity [0-9a-f]{16}, and m/1 in"):
        export_delta(Two(), SCHEMA, folder, 3, 2, check_rows=0, quiet=True)
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2"]


def test_a_mean_stays_that_of_the_version_before(tmp_path: Path) -> None:
    options = {"tables": {"item": TableOptions(default="mean")}}
    folder = tmp_path / "m"
    export(Two(), folder, **options)
    export_delta(changed(Two(), [1], by=100.0), SCHEMA, folder, 2, 1, quiet=True, **options)
    before, after = (VersionOnDisk.load(folder / number).open_table("item") for number in "12")
    assert after.spec.default == before.spec.default != None  # noqa: E711 - of both
