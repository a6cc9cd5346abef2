"""Indexes that compute rows of ids: each becomes a table that is looked up by what the module computes, id by id."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ringpull.inference.head.pipeline import Pipeline
from ringpull.inference.head.request.preparation import Preparation
from ringpull.inference.head.request.received import Limits, ReceivedColumns
from ringpull.inference.schema.columns import Column
from ringpull.inference.schema.kinds import Feature, Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.ps.errors import InvalidInput
from ringpull.ps.spec import Pooling
from tests.inference.export.key_expressions import (
    ANY_ID,
    BIG,
    CROSSED,
    DIM,
    EXTREME,
    HISTORY,
    IN_PLACE,
    ROWS,
    USER,
    A,
    B,
    Crossed,
    Expression,
    Model,
    check,
    export,
    lists,
)
from tests.inference.export.versions import Exported
from tests.inference.fakes import ReferenceRouter
from tests.reference import assert_close


class All(nn.Module):
    """A model with an embedding, and an output, for each expression."""

    def __init__(self, expressions: dict[str, Expression]) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.expressions = expressions
        self.e = nn.ModuleDict({name: self.embedding(expression) for name, expression in expressions.items()})
        for each in self.e.values():
            nn.init.normal_(each.weight)

    def embedding(self, expression: Expression) -> nn.Module:
        return nn.Embedding(ROWS, DIM)

    def every(self, make: Callable[[nn.Module, Expression], Tensor]) -> dict[str, Tensor]:
        return {name: make(self.e[name], expression) for name, expression in self.expressions.items()}


class Singles(All):
    def forward(self, user: Tensor) -> dict[str, Tensor]:
        return self.every(lambda e, expression: e(expression(user)))


class Stacks(All):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.every(lambda e, expression: e(expression(x)[:, [1, 0]]).sum(1) + e(expression(x[:, 1])))


class Lists(All):
    def forward(self, history: Tensor) -> dict[str, Tensor]:
        return self.every(lambda e, expression: torch.tanh(e(expression(history))).cumsum(1)[:, -1])


class Bags(All):
    def embedding(self, expression: Expression) -> nn.Module:
        return nn.EmbeddingBag(ROWS, DIM, mode="mean", include_last_offset=True, padding_idx=3)

    def forward(self, bag: Tensor, bag_offsets: Tensor) -> dict[str, Tensor]:
        return self.every(lambda e, expression: e(expression(bag), bag_offsets))


class BagsOfSequences(All):
    def embedding(self, expression: Expression) -> nn.Module:
        return nn.EmbeddingBag(ROWS, DIM, mode="sum", padding_idx=int(expression(torch.tensor([2]))))

    def forward(self, history: Tensor) -> dict[str, Tensor]:
        return self.every(lambda e, expression: e(expression(history)))


IDS = np.array(EXTREME)
SHAPES: dict[type[All], tuple[list[Feature], dict[str, Column], int, Pooling]] = {
    Singles: ([USER], {"user": IDS}, 1, Pooling.NONE),
    Stacks: ([A, B], {"a": IDS, "b": IDS[::-1].copy()}, 2, Pooling.NONE),
    Lists: ([HISTORY], {"history": lists(EXTREME)}, 1, Pooling.NONE),
    Bags: ([Sparse("bag", many=True)], {"bag": lists(EXTREME)}, 1, Pooling.MEAN),
    BagsOfSequences: ([HISTORY], {"history": lists(EXTREME[::-1])}, 1, Pooling.SUM),
}
"""Features, their columns, look-ups of each table, and pooling."""


@pytest.mark.medium
@pytest.mark.parametrize("models", SHAPES)
@pytest.mark.parametrize("expressions", [ANY_ID, IN_PLACE], ids=["any", "in place"])
def test_a_row_is_computed_of_any_id(tmp_path: Path, models: type[All], expressions: dict[str, Expression]) -> None:
    features, columns, lookups, pooling = SHAPES[models]
    stacks = {"x": ["a", "b"]} if models is Stacks else {}
    report = check(tmp_path, models(expressions), features, columns, stacks=stacks)
    assert not report.kept
    assert not report.manifest.limits
    assert all(each.key is not None for each in report.manifest.lookups)
    assert {each.pooling for each in report.manifest.lookups} == {pooling}
    assert Counter(each.table for each in report.manifest.lookups) == {f"e.{name}": lookups for name in expressions}


# -- several ids -------------------------------------------------------------------------------------------------------


class Columns(Model):
    """A stack, each column with its own constants."""

    def __init__(self) -> None:
        super().__init__(lambda x: x, 40)
        self.register_buffer("sizes", torch.tensor([10, 20, 10]))
        self.register_buffer("starts", torch.tensor([0, 10, 30]))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.e(x % self.sizes + self.starts)).cumsum(1)[:, -1])


@pytest.mark.medium
def test_each_column_of_a_stack_has_its_own_constants(tmp_path: Path) -> None:
    ids = np.array(EXTREME)
    columns: dict[str, Column] = {"a": ids, "b": ids[::-1].copy(), "user": np.roll(ids, 5)}
    report = check(tmp_path, Columns(), [A, B, USER], columns, stacks={"x": ["a", "b", "user"]})
    assert [str(each.key) for each in report.manifest.lookups] == ["(x % 10)", "((x % 20) + 10)", "((x % 10) + 30)"]


class Hashes(Model):
    """K rows for each id, by K hashes."""

    def __init__(self) -> None:
        super().__init__(lambda x: x)
        self.register_buffer("primes", torch.tensor([BIG, 97, 31]))

    def forward(self, user: Tensor, history: Tensor) -> Tensor:
        once = self.e((user.unsqueeze(1) * self.primes) % ROWS)
        each = self.e((history.unsqueeze(-1) * self.primes) % ROWS)
        return self.out(torch.tanh(once).sum(1) + torch.tanh(each).cumsum(1)[:, -1].cumsum(1)[:, -1])


@pytest.mark.medium
def test_several_hashes_of_an_id_are_as_many_lookups(tmp_path: Path) -> None:
    rows = np.array([3, 2**40, -7, 11, 2**63 - 1])
    report = check(tmp_path, Hashes(), [USER, HISTORY], {"user": rows, "history": lists(EXTREME)})
    assert sorted(each.feature for each in report.manifest.lookups) == ["history"] * 3 + ["user"] * 3


class QuotientRemainder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.quotient, self.remainder = nn.Embedding(1000 // 7 + 1, DIM), nn.Embedding(7, DIM)
        self.out = nn.Linear(DIM, 1)

    def forward(self, user: Tensor) -> Tensor:
        return self.out(self.quotient(user // 7) * self.remainder(user % 7))


@pytest.mark.medium
def test_quotient_and_remainder(tmp_path: Path) -> None:
    check(tmp_path, QuotientRemainder(), [USER], {"user": np.array([0, 1, 6, 7, 8, 500, 999])})


class Moved(Model):
    """Indexes whose elements lie otherwise than the ids."""

    def forward(self, x: Tensor, user: Tensor, history: Tensor) -> Tensor:
        rows = x.shape[0]
        y = x % ROWS
        vectors = self.e(y.T).cumsum(0)[-1] + self.e(y.t().reshape(-1)).reshape(2, rows, DIM).cumsum(0)[0]
        vectors = vectors + self.e(y.flip(1)).cumsum(1)[:, 0] + self.e(user.repeat(3) % ROWS)[:rows]
        vectors = vectors + self.e(user.repeat_interleave(2) % ROWS).view(rows, 2, DIM).cumsum(1)[:, 0]
        vectors = vectors + self.e(history.roll(1, 1) % ROWS).cumsum(1)[:, 2]
        vectors = vectors + self.e(user.unsqueeze(1).expand(-1, 3) % ROWS).cumsum(1)[:, 1]
        vectors = vectors + self.e(torch.cat([user[:, None] % ROWS, history[:, [3, 0, 0]] % 5], 1)).cumsum(1)[:, 2]
        vectors = vectors + self.e((history % ROWS).T.unsqueeze(-1)).cumsum(0)[1, :, 0]
        return self.out(vectors)


@pytest.mark.medium
def test_elements_may_lie_in_any_order(tmp_path: Path) -> None:
    ids = np.arange(5)
    columns: dict[str, Column] = {"a": ids * 3, "b": ids - 9, "user": ids * 7, "history": lists(list(range(14)))}
    report = check(tmp_path, Moved(lambda x: x), [A, B, USER, HISTORY], columns, stacks={"x": ["a", "b"]})
    assert not report.kept
    assert {str(each.key) for each in report.manifest.lookups} == {"(x % 12)", "(x % 5)"}


@pytest.mark.medium
def test_a_cross_of_ids_is_a_feature_that_the_server_makes(tmp_path: Path) -> None:
    module, stacks = Crossed(), {"x": ["a", "b"]}
    columns: dict[str, Column] = {
        "user": np.array([0, 5, 3]),
        "a": np.array([6, 0, 2]),
        "b": np.array([1, 2**60, -9]),
    }
    report = check(tmp_path, module, CROSSED, columns, stacks=stacks)
    assert [each.feature for each in report.manifest.lookups] == ["user_x_a", "user_x_a_x_b", "user"]
    schema = Schema.from_json(report.manifest.schema.read(report.path))
    assert schema["user_x_a"].of == ("user", "a")
    assert Schema.from_json(schema.to_json()) == schema
    with pytest.raises(InvalidInput, match="feature user_x_a: made of user, a by the server; send those instead"):
        schema.prepare({**columns, "user_x_a": columns["a"]}, 3)


@pytest.fixture(scope="module")
def crossed(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return Exported(export(tmp_path_factory.mktemp("crossed"), Crossed(), CROSSED, {"x": ["a", "b"]}).path)


@pytest.mark.medium
@pytest.mark.parametrize("context", [(), ("user",), ("a",), ("user", "b"), ("user", "a", "b")])
async def test_a_cross_of_context_and_candidates_is_scored_by_a_head(
    crossed: Exported, context: tuple[str, ...]
) -> None:
    module = Crossed().eval()
    pipeline = Pipeline(crossed.manifest, crossed.schema, crossed.program, ReferenceRouter(crossed.tables))
    preparation = Preparation(crossed.manifest, crossed.schema)
    candidates = {"user": np.array([4, 0, 1]), "a": np.array([6, 2, 0]), "b": np.array([2**40, -3, 5])}
    once = {name: candidates.pop(name)[:1] for name in context}
    given = candidates or {"a": np.array([1])}
    rows = len(next(iter(candidates.values()))) if candidates else 1
    if not candidates:
        once.pop("a")
    request = ReceivedColumns.of_columns(given, once, Limits(10, 10))
    ready = preparation.prepare([request, request])
    scores = pipeline.compute(await pipeline.pull(ready.work, deadline_s=1e9))
    whole = {name: torch.tensor(np.broadcast_to(ids, rows).copy()) for name, ids in {**given, **once}.items()}
    expected = module(whole["user"], whole["a"], torch.stack([whole["a"], whole["b"]], 1)).detach().numpy()
    for place in (0, 1):
        assert_close(scores[place].outputs["output"], expected)
