"""Compose: scores of a version against numpy on the vectors; the tables are those given; what cannot be is said."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ringpull import Dense, Ragged, Schema, Sparse, TableOptions, export_model, export_tables
from ringpull.inference.importers.compose.composing import compose
from ringpull.inference.model.manifest import Manifest
from ringpull.inference.model.version import LoadedVersion
from ringpull.ps.errors import ExportError, InvalidInput, RingpullError
from ringpull.ps.store.base import Base
from tests.inference.export.versions import Exported
from tests.reference import assert_close

GENERATOR = np.random.default_rng(11)
USERS = GENERATOR.normal(size=(30, 4)).astype(np.float32)
ITEMS = GENERATOR.normal(size=(50, 4)).astype(np.float32)
ITEMS[7] = 0.0
USER_IDS = np.arange(30) * 5 - 3
ITEM_IDS = np.array([f"käse {n}" for n in range(50)], object)
ROWS = 40
PICKED = GENERATOR.integers(0, 30, ROWS), GENERATOR.integers(0, 50, ROWS)
PICKED[1][3] = 7

pytestmark = pytest.mark.medium


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Vectors of users, keyed by integers, and of items, keyed by strings with a default vector."""
    folder = tmp_path_factory.mktemp("tables")
    export_tables({"user": (USER_IDS, USERS)}, folder / "users", 3, quiet=True)
    options = {"item": TableOptions(default="mean", row_type="float32")}
    export_tables({"item": (ITEM_IDS, ITEMS)}, folder / "items", 1, options=options, quiet=True)
    return folder / "users", folder / "items"


def scores_of(folder: Path, columns: dict[str, Any], rows: int = ROWS) -> np.ndarray[Any, np.dtype[np.float32]]:
    (scores,) = Exported(folder).score(columns, rows).values()
    return scores


def columns() -> dict[str, Any]:
    return {"user_id": USER_IDS[PICKED[0]], "item_id": ITEM_IDS[PICKED[1]]}


def cosine(user: Any, item: Any) -> Any:
    lengths = np.linalg.norm(user, axis=-1) * np.linalg.norm(item, axis=-1)
    return np.where(lengths > 0, (user * item).sum(-1) / np.where(lengths > 0, lengths, 1), 0)


def test_dot_and_cosine_over_the_tables_given(folders: tuple[Path, Path], tmp_path: Path) -> None:
    users, items = folders
    user, item = USERS[PICKED[0]].astype(np.float64), ITEMS[PICKED[1]].astype(np.float64)
    for version, (score, expected) in enumerate({"dot": (user * item).sum(1), "cosine": cosine(user, item)}.items(), 1):
        report = compose(tmp_path / "model", version, user=users, item=items / "1", score=score, quiet=True)
        assert_close(scores_of(report.path, columns()), expected.astype(np.float32))
        assert report.check is not None
        assert [(each.name, each.features) for each in report.tables] == [
            ("user", ("user_id",)),
            ("item", ("item_id",)),
        ]
    unknown = {"user_id": np.array([1, -3]), "item_id": np.array(["?", "?"], object)}
    mean = ITEMS.mean(axis=0)
    assert_close(scores_of(report.path, unknown, 2), np.array([0, cosine(USERS[0], mean)], np.float32))
    loaded = LoadedVersion.load(report.path, device="cpu")
    assert loaded.samples is not None
    assert loaded.samples.prepared.rows > 0
    assert set(loaded.samples.tables) == {"user", "item"}
    assert [each.name for each in loaded.schema.features] == ["user_id", "item_id"]
    given = Manifest.load(users / "3").table("user")
    assert loaded.manifest.table("user") == given
    one, other = (Base.open(folder / "tables" / "user") for folder in (report.path, users / "3"))
    assert one.identity == other.identity
    assert (report.path / "tables/user/rows").stat().st_ino == (users / "3/tables/user/rows").stat().st_ino
    assert sorted(path.name for path in report.path.iterdir()) == sorted(
        ["dense.pt2", "manifest.json", "samples.npz", "schema.json", "tables"]
    )


def test_files_are_copied_where_they_cannot_be_linked(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_link(source: Any, target: Any) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", no_link)
    report = compose(tmp_path / "model", 1, user=folders[0], item=folders[1], quiet=True)
    assert_close(scores_of(report.path, columns()), (USERS[PICKED[0]] * ITEMS[PICKED[1]]).sum(1))
    assert (report.path / "tables/user/rows").stat().st_ino != (folders[0] / "3/tables/user/rows").stat().st_ino


def test_several_vectors_of_a_user_in_a_row(folders: tuple[Path, Path], tmp_path: Path) -> None:
    users = GENERATOR.normal(size=(30, 12)).astype(np.float32)
    export_tables({"interests": (USER_IDS, users)}, tmp_path / "users", 1, quiet=True)
    with pytest.raises(ExportError, match=r"12 numbers and items' 4.*interests=3"):
        compose(tmp_path / "model", 1, user=tmp_path / "users", item=folders[1], quiet=True)
    each = users.reshape(30, 3, 4)[PICKED[0]]
    item = ITEMS[PICKED[1]][:, None]
    for version, (score, expected) in enumerate({"dot": (each * item).sum(2), "cosine": cosine(each, item)}.items(), 1):
        report = compose(
            tmp_path / "model", version, user=tmp_path / "users", item=folders[1], score=score, interests=3, quiet=True
        )
        assert_close(scores_of(report.path, columns()), expected.max(1).astype(np.float32))


def test_several_vectors_of_a_user_by_key(folders: tuple[Path, Path], tmp_path: Path) -> None:
    keys = np.array([f"{user}:{number}" for user in range(10) for number in range(3)], object)
    export_tables({"interests": (keys, USERS)}, tmp_path / "users", 1, quiet=True)
    report = compose(tmp_path / "model", 1, user=tmp_path / "users", item=folders[1], interests=3, quiet=True)
    counts = np.array([0, 1, 2, 3] * 10)
    sent = [[f"{row % 10}:{number}" for number in range(count)] for row, count in enumerate(counts)]
    expected = [
        max((float(USERS[row % 10 * 3 + number] @ ITEMS[PICKED[1][row]]) for number in range(count)), default=0.0)
        for row, count in enumerate(counts)
    ]
    given = {"user_interests": Ragged.from_lists(sent, object), "item_id": columns()["item_id"]}
    assert_close(scores_of(report.path, given), np.array(expected, np.float32))


def test_one_table_of_users_and_items(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    report = compose(tmp_path / "model", 1, user=folders[1], item=folders[1], quiet=True)
    assert len(report.tables) == 1
    assert report.tables[0].features == ("user_id", "item_id")
    others = np.roll(PICKED[1], 1)
    given = {"user_id": ITEM_IDS[others], "item_id": ITEM_IDS[PICKED[1]]}
    assert_close(scores_of(report.path, given), (ITEMS[others] * ITEMS[PICKED[1]]).sum(1))


def boosted(user: Tensor, item: Tensor, price: Tensor, weight: float = 2.0) -> Tensor:
    return torch.sigmoid((user * item).sum(1) + weight * price[:, 0])


class Light(nn.Module):
    """A layer over both vectors and a feature that is embedded."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        self.hour = nn.Embedding(24, 4, _weight=torch.randn(24, 4, generator=generator))
        self.layer = nn.Linear(12, 1)

    def forward(self, user: Tensor, item: Tensor, **features: Tensor) -> dict[str, Tensor]:
        joined = torch.cat([user, item, self.hour(features["hour"])], 1)
        return {"score": self.layer(joined)[:, 0] + features["price"][:, 0]}


def test_a_function_with_features_of_the_request(folders: tuple[Path, Path], tmp_path: Path) -> None:
    schema = Schema([Dense("price")])
    report = compose(tmp_path / "model", 1, user=folders[0], item=folders[1], score=boosted, schema=schema, quiet=True)
    price = GENERATOR.normal(size=(ROWS, 1)).astype(np.float32)
    logits = (USERS[PICKED[0]] * ITEMS[PICKED[1]]).sum(1) + 2 * price[:, 0]
    assert_close(scores_of(report.path, {**columns(), "price": price}), 1 / (1 + np.exp(-logits)))


def test_a_module_with_a_table_of_its_own(folders: tuple[Path, Path], tmp_path: Path) -> None:
    module = Light()
    schema = Schema([Sparse("hour"), Dense("price")])
    report = compose(tmp_path / "model", 1, user=folders[0], item=folders[1], score=module, schema=schema, quiet=True)
    assert [each.name for each in report.tables] == ["user", "item", "score._function.hour"]
    hour, price = np.arange(ROWS) % 24, GENERATOR.normal(size=(ROWS, 1)).astype(np.float32)
    with torch.no_grad():
        user, item = torch.from_numpy(USERS[PICKED[0]]), torch.from_numpy(ITEMS[PICKED[1]])
        expected = module(user, item, hour=torch.from_numpy(hour), price=torch.from_numpy(price))["score"]
    assert_close(scores_of(report.path, {**columns(), "hour": hour, "price": price}), expected.numpy())


def refused(kind: type[RingpullError], words: str, folders: tuple[Path, Path], out: Path, **options: Any) -> None:
    given = {"user": folders[0], "item": folders[1], **options}
    with pytest.raises(kind, match=words):
        compose(out, 1, quiet=True, **given)
    assert not out.exists()


def test_what_cannot_be_composed_is_said_and_nothing_written(folders: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "model"
    two = tmp_path / "two"
    export_tables({"user": (USER_IDS, USERS), "more": (USER_IDS, USERS[:, :3].copy())}, two, 1, quiet=True)
    texts = tmp_path / "texts"
    export_tables({"page": (["a"], ["x"])}, texts, 1, quiet=True)
    refused(InvalidInput, r"several tables.*user_table: user \(dim 4\), more \(dim 3\)", folders, out, user=two)
    refused(InvalidInput, "no table 'x'", folders, out, user=two, user_table="x")
    refused(InvalidInput, "none of vectors", folders, out, user=texts)
    refused(InvalidInput, "two tables of the name 'user'", folders, out, item=two, item_table="user")
    refused(ExportError, "4 numbers and items' 3", folders, out, item=two, item_table="more")
    refused(ExportError, "must have 4.*or 8", folders, out, user=two, user_table="more", interests=2)
    refused(InvalidInput, "neither a version's folder", folders, out, user=tmp_path / "none")
    refused(InvalidInput, "folder of this machine", folders, out, user="s3://bucket/users")
    refused(InvalidInput, "score is 'dto'", folders, out, score="dto")
    refused(InvalidInput, "interests is 0", folders, out, interests=0)
    refused(InvalidInput, "interests is for dot", folders, out, interests=2, score=boosted)
    refused(InvalidInput, "price, which no feature makes", folders, out, score=boosted)
    refused(InvalidInput, "price, which dot and cosine", folders, out, schema=Schema([Dense("price")]))
    refused(InvalidInput, "declares item_id", folders, out, schema=Schema([Dense("item_id")]), score=boosted)
    refused(InvalidInput, "must take the user's", folders, out, score=lambda user: user)
    refused(InvalidInput, "makes int", folders, out, score=lambda: 5)
    refused(ExportError, "every row of its batch", folders, out, score=lambda user, item: user @ item.T)
    refused(ExportError, "one number", folders, out, score=lambda user, item: user.sum())


def test_a_link_that_leads_out_is_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    users = tmp_path / "users"
    export_tables({"user": (USER_IDS, USERS)}, users, 1, quiet=True)
    rows = users / "1/tables/user/rows"
    rows.rename(tmp_path / "rows")
    rows.symlink_to(tmp_path / "rows")
    refused(RingpullError, "leads out", folders, tmp_path / "model", user=users)


def test_tables_of_a_version_that_predicts(folders: tuple[Path, Path], tmp_path: Path) -> None:
    """Vectors of a tower that was exported serve as those that were imported do."""

    class Tower(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.u = nn.Embedding(30, 4, _weight=torch.from_numpy(USERS.copy()))

        def forward(self, user: Tensor) -> Tensor:
            return self.u(user).sum(1)

    export_model(Tower(), Schema([Sparse("user")]), tmp_path / "tower", 2, quiet=True)
    report = compose(tmp_path / "model", 1, user=tmp_path / "tower", item=folders[1], quiet=True)
    given = {"user_id": PICKED[0], "item_id": ITEM_IDS[PICKED[1]]}
    assert_close(scores_of(report.path, given), (USERS[PICKED[0]] * ITEMS[PICKED[1]]).sum(1))


def test_keys_of_uint64(folders: tuple[Path, Path], tmp_path: Path) -> None:
    keys = np.arange(30, dtype=np.uint64) + np.uint64(2**63)
    export_tables({"user": (keys, USERS)}, tmp_path / "users", 1, quiet=True)
    report = compose(tmp_path / "model", 1, user=tmp_path / "users", item=folders[1], quiet=True)
    given = {"user_id": keys[PICKED[0]], "item_id": ITEM_IDS[PICKED[1]]}
    assert_close(scores_of(report.path, given), (USERS[PICKED[0]] * ITEMS[PICKED[1]]).sum(1))
