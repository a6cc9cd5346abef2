"""Outputs that are scores of a whole catalogue, exported as queries: these rank as the module does."""

from __future__ import annotations

import inspect
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ringpull.inference.client.client import AsyncClient
from ringpull.inference.export.model import export_model
from ringpull.inference.export.passes import queries
from ringpull.inference.export.report import ExportReport
from ringpull.inference.export.table_options import TableOptions
from ringpull.inference.model.manifest import Manifest
from ringpull.inference.model.version import LoadedVersion
from ringpull.inference.schema.kinds import IdSequence, Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.inference.schema.transforms import Vocabulary
from ringpull.ps.errors import CorruptData, ExportError, InvalidInput
from ringpull.ps.hashing import keys_of_strings
from tests.inference.export.versions import Exported
from tests.inference.fakes import best_rows
from tests.inference.served import Served

pytestmark = pytest.mark.medium

ROWS, DIM = 15, 4
FEATURES = [Sparse("user"), IdSequence("history", length=5)]
ROWS_OF = {"user": np.array([1, 2, 3]), "history": [[1, 2, 3], [4], [5, 6, 7, 8, 9]]}
TEXTS = [f"item {row}" for row in range(ROWS)]


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.item, self.user = nn.Embedding(ROWS, DIM), nn.Embedding(ROWS, DIM)
        self.bias, self.layer = nn.Parameter(torch.randn(ROWS)), nn.Linear(DIM, ROWS)
        self.scale = nn.Parameter(torch.tensor(1.5))

    def query(self, history: Tensor) -> Tensor:
        return torch.tanh(self.item(history).sum(1))


class Tied(Base):
    def forward(self, history: Tensor) -> Tensor:
        return self.query(history) @ self.item.weight.T


class TiedByLayer(Base):
    def forward(self, history: Tensor) -> Tensor:
        return F.linear(self.query(history), self.item.weight)


class TiedFromOne(Base):
    def forward(self, history: Tensor) -> dict[str, Tensor]:
        return {"scores": (self.query(history) @ self.item.weight.T)[:, 1:], "other": self.query(history)}


class TiedFromAPart(Base):
    def forward(self, history: Tensor) -> Tensor:
        return self.query(history) @ self.item.weight[2:-1].T


class PartWithBias(Base):
    def forward(self, history: Tensor) -> Tensor:
        return self.query(history) @ self.item.weight[: ROWS - 1].T + self.bias[1:]


class WithBias(Base):
    def forward(self, history: Tensor) -> Tensor:
        return torch.matmul(self.query(history), self.item.weight.transpose(0, 1)) / 3 + self.bias


class WithTwoBiases(Base):
    def forward(self, history: Tensor) -> Tensor:
        return 2 * F.linear(self.query(history), self.item.weight, self.bias)[:, 1:] + self.bias[1:]


class Scaled(Base):
    def forward(self, history: Tensor) -> Tensor:
        return self.query(history) @ self.item.weight.T * -2.0 / self.scale.exp()


class TwoOfOne(Base):
    def forward(self, history: Tensor) -> dict[str, Tensor]:
        plain = self.query(history) @ self.item.weight.T
        return {"plain": plain, "biased": plain + self.bias, "other": plain + self.layer.bias}


class OwnLayer(Base):
    def forward(self, user: Tensor) -> Tensor:
        return self.layer(self.user(user))


class Cosines(Base):
    def forward(self, history: Tensor) -> Tensor:
        normal = F.normalize(self.item.weight)
        return F.normalize(normal[history].mean(1)) @ normal.T * 20


class ByKeys(Base):
    def forward(self, user: Tensor, history: Tensor) -> Tensor:
        return (self.user(user) + self.query(history)) @ self.item.weight.T + self.bias


def export(tmp_path: Path, module: nn.Module, schema: Schema | None = None, **options: Any) -> ExportReport:
    options = {"ranked": ["output"], "quiet": True, **options}
    return export_model(module, schema or Schema(FEATURES), tmp_path / "model", 1, **options)


def scores_of(module: nn.Module) -> np.ndarray:
    """What the module gives for the rows above."""
    schema = Schema(FEATURES)
    names = [name for name in inspect.signature(module.forward).parameters if name in ROWS_OF]
    arguments = schema.arguments(schema.prepare(ROWS_OF, 3), names)
    with torch.no_grad():
        found = module.eval()(**{name: torch.tensor(values) for name, values in arguments.items()})
    return (found["scores"] if isinstance(found, dict) else found).numpy()


def check(folder: Path, module: nn.Module, first: int = 0, output: str = "output") -> None:
    """Hold the ranking of a version's table by its query against the module's own."""
    exported, scores = Exported(folder), scores_of(module)
    [ranked] = [each for each in exported.manifest.outputs if each.name == output]
    assert ranked.ranks is not None
    assert ranked.shape == (exported.manifest.table(ranked.ranks.table).spec.dim,)
    found = exported.score(ROWS_OF, 3)[output]
    left_out = {key & (2**64 - 1) for key in ranked.ranks.left_out}
    for query, own in zip(found, scores, strict=True):
        best = best_rows(exported.tables[ranked.ranks.table], query, "dot", left_out, None)
        order = np.argsort(-own, kind="stable")
        assert [key for _, key in best] == [first + int(place) for place in order]
        np.testing.assert_allclose([score for score, _ in best], own[order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("module", [Tied, TiedByLayer, Scaled])
def test_a_tied_weight_is_its_table_and_no_copy(tmp_path: Path, module: type[Base]) -> None:
    report = export(tmp_path, module(), max_dense_bytes=0)
    assert [table.name for table in report.tables] == ["item"]
    assert not report.kept
    assert report.sentences == ["output gives queries, by which the rows of table item are ranked (top-k)"]
    check(report.path, module())


@pytest.mark.parametrize(
    ("module", "table", "first"),
    [
        (WithBias, "item.ranked", 0),
        (WithTwoBiases, "item.ranked", 1),
        (OwnLayer, "layer", 0),
        (Cosines, "item.computed", 0),
    ],
)
def test_what_is_more_than_a_weight_is_a_table_of_its_own(
    tmp_path: Path, module: type[Base], table: str, first: int
) -> None:
    report = export(tmp_path, module(), max_dense_bytes=0)
    assert table in [each.name for each in report.tables]
    assert not report.kept
    check(report.path, module(), first)


def test_outputs_of_one_weight_have_a_table_each_where_they_differ(tmp_path: Path) -> None:
    report = export(tmp_path, TwoOfOne(), ranked=["plain", "biased", "other"])
    tables = {each.name: each.ranks and each.ranks.table for each in report.manifest.outputs}
    assert tables == {"plain": "item", "biased": "item.ranked", "other": "item.ranked2"}


def test_rows_that_are_not_scored_are_in_no_answer(tmp_path: Path) -> None:
    report = export(tmp_path, TiedFromOne(), ranked=["scores"])
    outputs = {each.name: each for each in report.manifest.outputs}
    assert outputs["scores"].ranks is not None
    assert (outputs["scores"].ranks.table, outputs["scores"].ranks.left_out) == ("item", (0,))
    assert outputs["other"].ranks is None
    check(report.path, TiedFromOne(), 1, "scores")


class Ways(Base):
    """The same scores, as libraries write them: by other products, for every place of a sequence, with masks."""

    def forward(self, history: Tensor) -> dict[str, Tensor]:
        query, places = self.query(history), torch.tanh(self.item(history))
        weight, rows = self.item.weight, history.shape[0]
        last = (history != 0).sum(1).clamp(min=1) - 1
        plain = query @ weight.T
        put, parts, listed = plain.clone(), plain.clone(), plain.clone()
        put[:, 0] = -torch.inf
        parts[:, :2] = -1e9
        listed[:, [0, 3]] = -torch.inf
        low = torch.zeros(ROWS)
        low[0] = -torch.inf
        padding = torch.arange(ROWS) == 0
        return {
            "squeezed": (query.unsqueeze(1) @ weight.T).squeeze(1),
            "all squeezed": torch.matmul(query[:, None], weight[None].transpose(1, 2)).squeeze(),
            "einsum": torch.einsum("bd,nd->bn", query, weight),
            "einsum turned": torch.einsum("dn,bd->nb", weight.T, query).T[:, 1:],
            "bmm": torch.bmm(query[:, None], weight.T[None].expand(rows, -1, -1)).squeeze(1),
            "bmm turned": torch.bmm(query[:, None], weight.expand(rows, -1, -1).transpose(1, 2))[:, 0],
            "weight first": weight.matmul(query.unsqueeze(-1)).squeeze(-1),
            "turned": (weight @ query.T).T,
            "last place": (places @ weight.T)[:, -1, :],
            "last part": F.linear(places, weight)[:, -1:, 1:].squeeze(1),
            "a place each": F.linear(places, weight)[torch.arange(rows), last],
            "in one": (places.reshape(-1, DIM) @ weight.T).view(rows, 5, ROWS)[:, -1],
            "put": put,
            "put by slice": parts,
            "put by list": listed,
            "filled": plain.masked_fill(padding, float("-inf"))[:, :-1],
            "chosen": torch.where(padding, torch.tensor(-1e9), plain) / 3,
            "added": plain + low,
            "inner": torch.inner(query, weight),
            "less": plain - self.bias,
        }


LEFT_OUT = {
    "einsum turned": [0],
    "last part": [0],
    "put": [0],
    "put by slice": [0, 1],
    "put by list": [0, 3],
    "filled": [0, ROWS - 1],
    "chosen": [0],
    "added": [0],
}


def test_the_ways_in_which_libraries_write_it_are_all_one(tmp_path: Path) -> None:
    names = list(Ways()(torch.zeros(2, 5, dtype=torch.int64)))
    report = export(tmp_path, Ways(), ranked=names, max_dense_bytes=0)
    assert not report.kept
    exported, schema = Exported(report.path), Schema(FEATURES)
    arguments = schema.arguments(schema.prepare(ROWS_OF, 3), ["history"])
    with torch.no_grad():
        own = Ways().eval()(torch.tensor(arguments["history"]))
    found = exported.score(ROWS_OF, 3)
    for output in exported.manifest.outputs:
        assert output.ranks is not None
        assert output.ranks.table == {"added": "item.ranked", "less": "item.ranked2"}.get(output.name, "item")
        left_out = LEFT_OUT.get(output.name, [])
        assert list(output.ranks.left_out) == left_out, output.name
        first = 1 if own[output.name].shape[1] < ROWS and 0 in left_out and output.name != "filled" else 0
        table = exported.tables[output.ranks.table]
        for query, scores in zip(found[output.name], own[output.name].numpy(), strict=True):
            best = best_rows(table, query, "dot", set(left_out), None)
            order = [place for place in np.argsort(-scores, kind="stable") if place + first not in left_out]
            assert [key for _, key in best] == [place + first for place in order], output.name
            np.testing.assert_allclose([score for score, _ in best], scores[order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("module", "left_out"), [(TiedFromAPart, [0, 1, ROWS - 1]), (PartWithBias, [ROWS - 1])])
def test_a_part_of_a_weight_is_the_weights_table(tmp_path: Path, module: type[Base], left_out: list[int]) -> None:
    report = export(tmp_path, module(), max_dense_bytes=0)
    ranks = report.manifest.outputs[0].ranks
    assert ranks is not None
    assert list(ranks.left_out) == left_out
    assert report.manifest.table(ranks.table).rows == ROWS
    check(report.path, module(), left_out[1] + 1 if len(left_out) > 1 else 0)


def test_a_table_that_is_made_of_one_has_its_keys(tmp_path: Path) -> None:
    report = export(tmp_path, ByKeys(), keys={"item": TEXTS})
    assert {each.name: each.keyed_by for each in report.tables}["item.ranked"] == "raw ids, strings"
    report = export(tmp_path / "other", ByKeys(), keys={"item": TEXTS, "item.ranked": list(range(100, 100 + ROWS))})
    assert {each.name: each.keyed_by for each in report.tables}["item.ranked"] == "raw ids, integers"


def test_row_0_of_a_vocabulary_is_no_row(tmp_path: Path) -> None:
    vocabulary = Vocabulary(list(range(500, 500 + ROWS - 1)))
    schema = Schema([IdSequence("history", length=5, transforms=[vocabulary])])
    report = export(tmp_path, Tied(), schema, keys={"item": vocabulary})
    assert report.check is not None
    [table] = report.manifest.tables
    assert table.rows == ROWS - 1


@pytest.mark.parametrize("row_type", ["float16", "int8"])
@pytest.mark.parametrize("module", [Tied, WithBias])
def test_short_rows_are_held_against_scores_of_such_rows(tmp_path: Path, module: type[Base], row_type: str) -> None:
    names = ["item"] if module is Tied else ["item", "item.ranked"]
    report = export(tmp_path, module(), tables={name: TableOptions(row_type=row_type) for name in names})
    assert report.check is not None
    assert report.check.largest_difference < 1e-5
    assert report.cost is not None
    assert 1e-6 < report.cost.largest_difference < 0.3


def test_scores_that_are_not_the_modules_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = queries.step

    def forgetful(editor: Any, node: Any, read: Any) -> Any:
        found = step(editor, node, read)
        read.scale = 1.0
        return found

    monkeypatch.setattr(queries, "step", forgetful)
    with pytest.raises(ExportError, match="self-check: output output: the exported model's differs"):
        export(tmp_path, Scaled())
    assert not (tmp_path / "model" / "1").exists()


class Softmax(Base):
    def forward(self, history: Tensor) -> Tensor:
        return torch.softmax(self.query(history) @ self.item.weight.T, -1)


class EveryPlace(Base):
    def forward(self, history: Tensor) -> Tensor:
        return self.item(history) @ self.item.weight.T


class OfTheRequest(Base):
    def forward(self, user: Tensor, history: Tensor) -> Tensor:
        return (self.query(history) * self.user(user)).sum(-1, keepdim=True) + self.user(user)


class EverySecond(Base):
    def forward(self, history: Tensor) -> Tensor:
        return (self.query(history) @ self.item.weight.T)[:, ::2]


class Seen(Base):
    def forward(self, history: Tensor) -> Tensor:
        return (self.query(history) @ self.item.weight.T).scatter(1, history, -torch.inf)


class MaskedToTheTop(Base):
    def forward(self, history: Tensor) -> Tensor:
        return (self.query(history) @ self.item.weight.T).masked_fill(torch.arange(ROWS) == 0, -1e9) * -2.0


class MaskedByZero(Base):
    def forward(self, history: Tensor) -> Tensor:
        return (self.query(history) @ self.item.weight.T).masked_fill(torch.arange(ROWS) == 0, 0.0)


class Shifted(Base):
    def forward(self, user: Tensor, history: Tensor) -> Tensor:
        return self.query(history) @ self.item.weight.T + self.user(user).sum(1, keepdim=True)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Softmax, r"go through aten.softmax.*test_ranked.py:\d+, in forward"),
        (EveryPlace, "a row of it has 2 dimensions"),
        (OfTheRequest, "no bias|go through"),
        (EverySecond, "every 2th score"),
        (Shifted, "go through aten.add"),
        (Seen, "which rows it masks depends on the request; give such rows as `exclude`"),
        (MaskedToTheTop, "the rows that it masks come first, by the sign"),
        (MaskedByZero, "go through aten.masked_fill"),
    ],
)
def test_what_is_no_query_is_refused_with_its_line(tmp_path: Path, module: type[Base], message: str) -> None:
    with pytest.raises(ExportError, match=f"ranked: output output cannot be a query: .*({message})"):
        export(tmp_path, module())


def test_outputs_are_named_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="ranked names the output 'scores'; the module has output"):
        export(tmp_path, Tied(), ranked=["scores"])
    with pytest.raises(InvalidInput, match="ranked is the string 'output'"):
        export(tmp_path, Tied(), ranked="output")


def test_a_manifest_that_ranks_what_is_not_there_is_refused(tmp_path: Path) -> None:
    report = export(tmp_path, Tied())
    manifest = Manifest.load(report.path)
    assert manifest.outputs == report.manifest.outputs
    for changed in ({"shape": (DIM + 1,)}, {"ranks": type(manifest.outputs[0].ranks)("nothing")}):  # type: ignore[misc]
        replace(manifest, outputs=(replace(manifest.outputs[0], **changed),)).save(report.path)
        with pytest.raises(CorruptData, match=r"outputs\[0\].ranks"):
            Manifest.load(report.path)


async def test_a_head_answers_keys_of_the_catalogue_in_one_request(tmp_path: Path) -> None:
    """The sequence goes in, the best items come out, and no dense copy of them is anywhere."""
    report = export(tmp_path, ByKeys(), keys={"item": TEXTS, "user": TEXTS}, max_dense_bytes=0)
    exported = Exported(report.path)
    loaded = LoadedVersion(report.path, exported.manifest, exported.schema, exported.program)
    user, history = ["item 1"], [["item 2", "item 3"]]
    with ThreadPoolExecutor(1) as executor:
        served = Served(executor, loaded=loaded, tables=exported.tables)
        served.target = f"127.0.0.1:{await served.server.start()}"
        async with AsyncClient(served.target, timeout_s=60, retries=0) as client:
            asked = {"features": {"user": user, "history": history}}
            answer = await client.top_k("model", k=3, among=TEXTS, **asked)
            assert answer.table == "item.ranked"
            exclude = [answer.keys[0, 0]]
            again = await client.top_k("model", k=2, among=TEXTS, exclude=exclude, **asked)
            assert again.keys[0].tolist() == answer.keys[0, 1:].tolist()
            [output] = (await client.model("model")).outputs
            assert (output.ranks, list(output.shape)) == ("item.ranked", [DIM + 1])
            query = (await client.predict("model", **asked)).outputs["output"]
            by_hand = await client.top_k("model", "item.ranked", query, k=3)
            assert by_hand.keys.tolist() == [keys_of_strings(answer.keys[0].tolist()).tolist()]
            with pytest.raises(InvalidInput, match="table: name the one whose rows are ranked"):
                await client.top_k("model", query=query)
            with pytest.raises(InvalidInput, match="made for dot products"):
                await client.top_k("model", metric="cosine", **asked)
        await served.server.stop(grace_s=0)
        await served.version.close(timeout_s=60)
    with torch.no_grad():
        own = ByKeys().eval()(torch.tensor([1]), torch.tensor([[2, 3, 0, 0, 0]]))[0]
    assert answer.keys[0].tolist() == [TEXTS[place] for place in own.argsort(descending=True)[:3]]
